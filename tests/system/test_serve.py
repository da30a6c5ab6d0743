"""`glassbox serve` as users run it: the openai client, hang-ups, rubbish, SIGTERM."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Literal

import openai
import pydantic
import pytest

from glassbox.formats.huggingface import load_pretrained, save_pretrained
from glassbox.inference import Engine, SamplingParams, end_of_turn_ids
from glassbox.tokenizers import Tokenizer
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

KEY = "a-key-that-nobody-may-see"
PATIENCE = 240.0  # a loaded machine takes its time to import torch
CHAT: list[Any] = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Where is the fox?"},
]


@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int
    folder: Path
    log: Path

    @property
    def engine(self) -> Engine:
        tokenizer = Tokenizer.load(self.folder)
        return Engine(load_pretrained(self.folder).eval(), tokenizer)

    def client(self) -> openai.OpenAI:
        url = f"http://127.0.0.1:{self.port}/v1"
        return openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=PATIENCE)

    def health(self) -> dict[str, Any]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", "/health")
            response = connection.getresponse()
            assert response.status == 200
            found: dict[str, Any] = json.loads(response.read())
            return found
        finally:
            connection.close()

    def status(self, path: str) -> int:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {KEY}"})
            return connection.getresponse().status
        finally:
            connection.close()

    def wait_until_idle(self) -> None:
        until = time.monotonic() + PATIENCE
        while self.health() != {"status": "ok", "running": 0, "waiting": 0}:
            assert time.monotonic() < until
            time.sleep(0.01)

    def open_stream(self, max_tokens: int) -> socket.socket:
        """A completion that goes on for long, read up to its first token."""
        body = json.dumps(
            {"prompt": "The fox", "max_tokens": max_tokens, "temperature": 0, "stream": True}
        )
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        connection.sendall(
            f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        received = b""
        while b"data: " not in received:
            part = connection.recv(4096)
            assert part, received
            received += part
        assert received.startswith(b"HTTP/1.1 200 "), received
        return connection


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "glassbox", "--threads", "1", "serve", *arguments]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("serve")
    folder, log = root / "tiny", root / "stderr"
    tokenizer = tiny_tokenizer()
    model = tiny_chat_model(tokenizer, context_length=40_000)
    save_pretrained(model, folder, tokenizer=tokenizer)
    arguments = [str(folder), "--port", "0", "--max-tokens", "30000"]
    arguments += ["--max-running", "4", "--max-queue", "2", "--device", "cpu"]
    arguments += ["--drain-seconds", "120", "--pack-weights"]
    environment = {**os.environ, "GLASSBOX_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
    with log.open("w") as errors:
        process = subprocess.Popen(
            command(*arguments), stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("serving tiny on http://127.0.0.1:"), log.read_text()
        yield Server(process, int(line.rpartition(":")[2]), folder, log)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_openai_client_streams_what_the_engine_generates(server: Server) -> None:
    engine = server.engine
    assert isinstance(engine.tokenizer, Tokenizer)
    prompt = engine.tokenizer.encode_chat_prompt(CHAT)
    ends = tuple(end_of_turn_ids(engine.tokenizer))
    texts: dict[int, str] = {}

    def ask(seed: int) -> None:
        stream = server.client().chat.completions.create(
            model="tiny",
            messages=CHAT,
            seed=seed,
            max_tokens=60,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.prompt_tokens == len(prompt)
        texts[seed] = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)

    asking = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(PATIENCE)
    params = [SamplingParams(seed=s, max_tokens=60, stop_token_ids=ends) for s in range(4)]
    expected = {s: engine.generate([prompt], params[s])[0].text for s in range(4)}
    assert texts == expected
    whole = server.client().chat.completions.create(
        model="tiny", messages=CHAT, seed=1, max_tokens=60
    )
    assert whole.choices[0].message.content == expected[1]
    assert [model.id for model in server.client().models.list()] == ["tiny"]


WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"place": {"enum": ["Oslo", "Rome"]}, "days": {"enum": [1, 2]}},
            "required": ["place", "days"],
            "additionalProperties": False,
        },
    },
}


def test_the_openai_client_calls_tools_and_gets_json_and_embeddings(server: Server) -> None:
    client = server.client()
    chat = client.chat.completions
    called = chat.create(
        model="tiny", messages=CHAT, tools=[WEATHER], tool_choice="required", seed=1, max_tokens=400
    )
    assert called.choices[0].message.tool_calls is not None
    (call,) = called.choices[0].message.tool_calls
    assert call.type == "function"
    assert call.function.name == "weather"
    assert set(json.loads(call.function.arguments)) == {"place", "days"}
    told = [
        *CHAT,
        called.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "rain"},
    ]
    after = chat.create(model="tiny", messages=told, tools=[WEATHER], seed=1, max_tokens=5)
    assert after.usage is not None
    assert called.usage is not None
    assert after.usage.prompt_tokens > called.usage.prompt_tokens

    class Trip(pydantic.BaseModel):
        place: Literal["Oslo", "Rome"]
        days: Literal[1, 2]

    trip = chat.parse(model="tiny", messages=CHAT, response_format=Trip, seed=2, max_tokens=400)
    assert isinstance(trip.choices[0].message.parsed, Trip)
    with chat.stream(
        model="tiny", messages=CHAT, response_format=Trip, seed=3, max_tokens=400
    ) as stream:
        events = [event.type for event in stream]
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Trip)
    assert "content.delta" in events

    scored = client.completions.create(
        model="tiny", prompt="The fox", max_tokens=0, echo=True, logprobs=2
    )
    assert scored.choices[0].logprobs is not None
    assert scored.choices[0].logprobs.token_logprobs is not None
    # the client asks for base64 by itself, and for numbers where it is told to
    coded = client.embeddings.create(model="tiny", input=["The fox", "a ball"])
    plain = client.embeddings.create(
        model="tiny", input=["The fox", "a ball"], encoding_format="float"
    )
    for one, other in zip(coded.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert sum(x * x for x in one.embedding) == pytest.approx(1, abs=1e-4)


def test_errors_reach_the_openai_client_as_its_own(server: Server) -> None:
    client = server.client()
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="other", messages=CHAT)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="suffix") as refused:
        client.completions.create(model="tiny", prompt="a", suffix="b")
    assert refused.value.param == "suffix"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


def test_clients_that_hang_up_leave_room_for_others(server: Server) -> None:
    server.wait_until_idle()
    streams = [server.open_stream(30_000) for _ in range(4)]
    assert server.health()["running"] == 4  # every place is taken
    waiting = server.client().with_options(timeout=0.5)
    for _ in range(3):  # more than may wait: each leaves its place in line when it hangs up
        with pytest.raises(openai.APITimeoutError):
            waiting.completions.create(model="tiny", prompt="a", max_tokens=1)
        until = time.monotonic() + PATIENCE
        while server.health()["waiting"]:
            assert time.monotonic() < until
            time.sleep(0.01)
    assert server.health()["running"] == 4  # and none of the four had ended by itself
    for stream in streams:
        stream.close()
    server.wait_until_idle()
    answer = server.client().completions.create(model="tiny", prompt="a", max_tokens=2)
    assert answer.choices[0].finish_reason in ("length", "stop")


def test_a_full_line_turns_others_away(server: Server) -> None:
    server.wait_until_idle()
    streams = [server.open_stream(30_000) for _ in range(4)]
    body = json.dumps({"prompt": "The fox", "max_tokens": 1}).encode()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    queued = [HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE) for _ in range(2)]
    for connection in queued:
        connection.request("POST", "/v1/completions", body, headers)
    until = time.monotonic() + PATIENCE
    while server.health()["waiting"] < 2:
        assert time.monotonic() < until
        time.sleep(0.01)
    with pytest.raises(openai.RateLimitError) as full:
        server.client().completions.create(model="tiny", prompt="a", max_tokens=1)
    assert int(full.value.response.headers["retry-after"]) >= 1
    for stream in streams:
        stream.close()
    for connection in queued:
        assert connection.getresponse().status == 200
        connection.close()


def test_rubbish_is_refused_and_harms_nobody(server: Server) -> None:
    rng = random.Random(0)
    sound = json.dumps({"prompt": "The fox", "max_tokens": 1}).encode()
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    for _ in range(40):
        body = bytearray(sound)
        for _ in range(rng.randint(1, 6)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        path = rng.choice(["/v1/completions", "/v1/chat/completions", "/tokenize"])
        connection.request("POST", path, bytes(body[: rng.randint(0, len(body))]), headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert response.status == 400
        assert answer["error"]["type"] == "invalid_request_error"
    connection.close()
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as raw:
        raw.sendall(bytes(rng.randrange(256) for _ in range(300)) + b"\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 400 ")
    server.wait_until_idle()


def test_sigterm_finishes_what_is_under_way_and_ends_cleanly(server: Server) -> None:
    server.wait_until_idle()
    stream = server.open_stream(800)
    server.process.send_signal(signal.SIGTERM)
    until = time.monotonic() + PATIENCE
    while (status := server.status("/health")) == 200:
        assert time.monotonic() < until
    assert status == 503
    assert server.status("/v1/models") == 503  # nothing new is begun
    received = b""
    while part := stream.recv(65536):
        received += part
    assert b'"finish_reason":"length"' in received
    assert b"data: [DONE]\n\n" in received
    assert server.process.wait(PATIENCE) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    assert KEY not in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def test_the_world_is_let_in_only_with_a_key(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "GLASSBOX_API_KEY"}
    ended = subprocess.run(
        command(str(tmp_path), "--host", "0.0.0.0", "--port", "0"),
        capture_output=True,
        text=True,
        env=environment,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("glassbox: --host 0.0.0.0 ")
    assert "--api-key-file" in line
