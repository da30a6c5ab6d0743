"""The HTTP API in-process: shapes, errors, keys, and answers equal to the engine's."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glassbox.cli.main import main
from glassbox.core.errors import UserError
from glassbox.inference import Engine, SamplingParams, end_of_turn_ids
from glassbox.serving.answers import Answer
from glassbox.serving.app import build_app
from glassbox.serving.bodies import Limits
from glassbox.serving.choices import ChatChoice
from glassbox.serving.server import address, check_origins, listen, read_keys
from glassbox.serving.service import Service
from glassbox.serving.worker import Worker
from support.scripted import Scripted
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
MODEL = tiny_chat_model(TOKENIZER)
ENGINE = Engine(MODEL, TOKENIZER)
CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Where is the fox?"},
    {"role": "assistant", "content": "Under the tree."},
    {"role": "user", "content": "<|im_end|> And the ball?"},
]
URL = "http://127.0.0.1"


def plain(text: str) -> list[int]:
    return [TOKENIZER.eos_id, *TOKENIZER.encode(text)]


def tiny_engine() -> Engine:
    """One with room for an answer that is long in coming."""
    return Engine(tiny_chat_model(TOKENIZER, context_length=30_000), TOKENIZER)


def service(engine: Any = None, **limits: int) -> Service:
    return Service(
        Engine(MODEL, TOKENIZER) if engine is None else engine,
        TOKENIZER,
        name="tiny",
        model=MODEL,
        limits=Limits(**limits),
        prompt_prefix=[TOKENIZER.eos_id],
    )


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    app = build_app(
        service(max_tokens=64, max_choices=16, max_body_bytes=20_000, max_schema_bytes=4_000)
    )
    with TestClient(app, base_url=URL, raise_server_exceptions=False) as opened:
        yield opened


def events(response: Any) -> list[dict[str, Any]]:
    """The JSON of each server-sent event; the stream must end as it should."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.content.decode("utf-8").split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks[:-1])
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]]


def error(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    assert body["error"]["message"]
    found: dict[str, Any] = body["error"]
    return found


# ---- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("stop", [[], ["e", "zzz"]])
def test_completions_streamed_or_not_are_the_engines(
    client: TestClient, seed: int, stop: list[str]
) -> None:
    texts = ["The fox", "A girl asked 中文 🦊"]
    n, chosen = 2, {"max_tokens": 24, "temperature": 0.9, "top_p": 0.95}
    request = {"prompt": texts, "n": n, "seed": seed, "stop": stop, **chosen, "model": "tiny"}
    expected = ENGINE.generate(
        [plain(text) for text in texts], SamplingParams(**chosen, stop=tuple(stop), seed=seed, n=n)
    )
    whole = client.post("/v1/completions", json=request).json()
    assert whole["object"] == "text_completion"
    assert whole["model"] == "tiny"
    assert [
        (choice["index"], choice["text"], choice["finish_reason"]) for choice in whole["choices"]
    ] == [(i, one.text, one.finish_reason) for i, one in enumerate(expected)]
    prompt_tokens = sum(len(plain(text)) for text in texts)
    made = sum(len(one.token_ids) for one in expected)
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": made,
        "total_tokens": prompt_tokens + made,
    }
    assert whole["usage"] == usage

    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = events(client.post("/v1/completions", json={**request, **options}))
    assert chunks[-1]["usage"] == usage
    assert chunks[-1]["choices"] == []
    assert len({chunk["id"] for chunk in chunks}) == 1
    streamed = dict.fromkeys(range(len(expected)), "")
    reasons = {}
    for chunk in chunks[:-1]:
        assert chunk["usage"] is None
        (choice,) = chunk["choices"]
        assert choice["index"] not in reasons, "a choice goes on after its end"
        streamed[choice["index"]] += choice["text"]
        if choice["finish_reason"]:
            reasons[choice["index"]] = choice["finish_reason"]
    assert streamed == {i: one.text for i, one in enumerate(expected)}
    assert reasons == {i: one.finish_reason for i, one in enumerate(expected)}


def test_a_chat_reads_every_message_and_ends_with_its_turn(client: TestClient) -> None:
    request = {"messages": CHAT, "seed": 3, "max_completion_tokens": 30, "temperature": 1.2}
    prompt = TOKENIZER.encode_chat_prompt(CHAT)
    params = SamplingParams(
        seed=3, max_tokens=30, temperature=1.2, stop_token_ids=tuple(end_of_turn_ids(TOKENIZER))
    )
    (expected,) = ENGINE.generate([prompt], params)
    whole = client.post("/v1/chat/completions", json=request).json()
    assert whole["object"] == "chat.completion"
    assert whole["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": expected.text},
            "logprobs": None,
            "finish_reason": expected.finish_reason,
        }
    ]
    assert whole["usage"]["prompt_tokens"] == len(prompt)
    chunks = events(client.post("/v1/chat/completions", json={**request, "stream": True}))
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert not any("usage" in chunk for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[-1] == {}
    assert "".join(delta.get("content", "") for delta in deltas) == expected.text
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [
        *[None] * (len(chunks) - 1),
        expected.finish_reason,
    ]
    fewer = client.post("/v1/chat/completions", json={**request, "messages": CHAT[-1:]}).json()
    assert fewer["choices"] != whole["choices"]


def test_ids_serve_as_prompt_and_the_echo_comes_first(client: TestClient) -> None:
    ids = plain("The fox")
    request: dict[str, Any] = {"prompt": ids, "temperature": 0, "max_tokens": 5}
    text = client.post("/v1/completions", json=request).json()["choices"][0]["text"]
    assert text == ENGINE.generate([ids], SamplingParams(temperature=0, max_tokens=5))[0].text
    both = client.post("/v1/completions", json={**request, "prompt": [ids, ids]}).json()["choices"]
    assert [choice["text"] for choice in both] == [text, text]
    echoed = {**request, "prompt": "The fox", "echo": True}
    assert client.post("/v1/completions", json=echoed).json()["choices"][0]["text"] == (
        "The fox" + text
    )
    chunks = events(client.post("/v1/completions", json={**echoed, "stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "The fox" + text


def test_what_asks_for_nothing_may_be_said(client: TestClient) -> None:
    idle = {
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "logprobs": False,
        "tools": None,
        "stop": None,
        "seed": None,
        "max_tokens": None,
        "user": "someone",
        "stream": None,
    }
    response = client.post("/v1/completions", json={"prompt": "a", **idle})
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["completion_tokens"] <= 16


def test_ids_are_unique_and_answers_without_a_seed_differ(client: TestClient) -> None:
    request = {"prompt": "The", "max_tokens": 12, "temperature": 1.5}
    answers = [client.post("/v1/completions", json=request).json() for _ in range(20)]
    assert len({answer["id"] for answer in answers}) == 20
    assert len({answer["choices"][0]["text"] for answer in answers}) > 1


def test_the_context_ends_an_answer(client: TestClient) -> None:
    ids = [5] * 120
    body = {"prompt": ids, "max_tokens": 64, "temperature": 0}
    answer = client.post("/v1/completions", json=body).json()
    (expected,) = ENGINE.generate([ids], SamplingParams(max_tokens=64, temperature=0))
    assert answer["usage"]["completion_tokens"] == len(expected.token_ids) <= 8
    assert answer["choices"][0]["finish_reason"] == expected.finish_reason


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_no_half_character_and_no_part_of_a_stop_string_is_streamed(path: str) -> None:
    said = "naïve 中文 🦊 ENTER the END of it"
    ids = TOKENIZER.encode(said)
    assert all(len(TOKENIZER.encode(char)) > 1 for char in "中文🦊")  # halves can come
    request = {"prompt": "a"} if path == "/v1/completions" else {"messages": CHAT}
    with TestClient(build_app(service(Scripted(TOKENIZER, ids))), base_url=URL) as client:
        asked = {**request, "stop": ["END"], "stream": True}
        chunks = [chunk["choices"][0] for chunk in events(client.post(path, json=asked))]
    pieces = [c["text"] if "text" in c else c["delta"].get("content", "") for c in chunks]
    assert "".join(pieces) == "naïve 中文 🦊 ENTER the "
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 10
    # "EN" is let go only with what shows that it begins no "END"
    assert not any(piece.endswith(("E", "EN")) for piece in pieces)
    assert chunks[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize("fail_at", [0, 3])
def test_a_failure_has_a_status_before_the_first_token_and_an_event_after_it(
    fail_at: int,
) -> None:
    engine = Scripted(TOKENIZER, TOKENIZER.encode("a long enough text"), fail_at=fail_at)
    with TestClient(build_app(service(engine)), base_url=URL) as client:
        request = {"prompt": "a", "max_tokens": 9}
        found = error(client.post("/v1/completions", json=request), 500)
        assert found["type"] == "server_error"
        assert "secret" not in found["message"]
        streamed = client.post("/v1/completions", json={**request, "stream": True})
        if fail_at == 0:
            error(streamed, 500)
        else:
            assert events(streamed)[-1]["error"] == found
        assert client.get("/health").json() == {"status": "ok", "running": 0, "waiting": 0}


@pytest.mark.parametrize("stream", [True, False])
def test_who_still_listens_when_the_time_to_drain_is_over_is_told(stream: bool) -> None:
    sent: list[dict[str, Any]] = []

    async def serve(worker: Worker) -> None:
        begun = asyncio.Event()

        async def send(message: Any) -> None:
            sent.append(message)
            begun.set()

        async def receive() -> Any:
            await asyncio.Event().wait()

        endless = SamplingParams(max_tokens=20_000, temperature=0)
        answer = Answer(
            worker,
            [([5], endless)],
            [ChatChoice(0, TOKENIZER, num_top=None)],
            kind="chat",
            model="tiny",
            prompt_tokens=1,
            stream=stream,
        )
        task = asyncio.create_task(answer({"type": "http"}, receive, send))
        await (begun.wait() if stream else asyncio.sleep(0.1))
        task.cancel()  # as uvicorn does
        await task

    worker = Worker(tiny_engine(), max_running=1, max_queue=0)
    worker.start()
    asyncio.run(serve(worker))
    worker.close()
    said = b"".join(message.get("body", b"") for message in sent)
    assert sent[0]["status"] == (200 if stream else 503)
    assert b'"message":"the server is shutting down","type":"server_error"' in said
    assert said.endswith(b"\n\ndata: [DONE]\n\n") == stream
    assert not sent[-1].get("more_body")


def test_a_full_line_says_when_to_come_back() -> None:
    busy = service(max_running=1, max_queue=0)
    with TestClient(build_app(busy), base_url=URL) as client:
        busy.worker.max_running = 0  # as if every place were taken
        response = client.post("/v1/completions", json={"prompt": "a"})
        assert error(response, 429)["code"] == "queue_full"
        assert int(response.headers["retry-after"]) >= 1
        busy.worker.max_running = 1
        assert client.post("/v1/completions", json={"prompt": "a"}).status_code == 200


# ---- tokens, models, health ---------------------------------------------------------------------


def test_tokens_there_and_back(client: TestClient) -> None:
    said = client.post("/tokenize", json={"prompt": "The fox 中"}).json()
    assert said == {
        "tokens": plain("The fox 中"),
        "count": len(said["tokens"]),
        "max_model_len": 128,
    }
    bare = client.post("/tokenize", json={"prompt": "The fox 中", "add_special_tokens": False})
    assert bare.json()["tokens"] == TOKENIZER.encode("The fox 中")
    back = client.post("/detokenize", json={"tokens": bare.json()["tokens"]})
    assert back.json() == {"prompt": "The fox 中"}
    chat = client.post("/tokenize", json={"messages": CHAT}).json()["tokens"]
    assert chat == TOKENIZER.encode_chat_prompt(CHAT)


def test_models_and_health(client: TestClient) -> None:
    (card,) = client.get("/v1/models").json()["data"]
    assert card["id"] == "tiny"
    assert client.get("/v1/models/tiny").json() == card
    assert error(client.get("/v1/models/other/one"), 404)["code"] == "model_not_found"
    assert client.get("/health").json() == {"status": "ok", "running": 0, "waiting": 0}
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/completions", "/v1/chat/completions", "/tokenize"} <= set(paths)


# ---- refusals -----------------------------------------------------------------------------------

TOOL = {"type": "function", "function": {"name": "calculator"}}
STRICT = {"type": "function", "function": {"name": "calculator", "strict": True}}
NAMED = {"type": "function", "function": {"name": "other"}}
CALL = {"function": {"name": "f", "arguments": "[1]"}}
JSON_FORMAT = {"response_format": {"type": "json_object"}}
COMPLETION_FAULTS: list[tuple[dict[str, Any], str | None, str]] = [
    ({}, "prompt", "missing"),
    ({"prompt": 5}, "prompt", "list of strings"),
    ({"prompt": []}, "prompt", "list of strings"),
    ({"prompt": ["a", 5]}, "prompt", "list of strings"),
    ({"prompt": [True]}, "prompt", "list of strings"),
    ({"prompt": [[]]}, "prompt", "empty"),
    ({"prompt": [100_000]}, "prompt", "100000"),
    ({"prompt": [-1]}, "prompt", "-1"),
    ({"prompt": "\ud800"}, "prompt", "surrogate"),
    ({"prompt": [5] * 128}, "prompt", "128 tokens; the model's context is 128"),
    ({"prompt": "a", "max_tokens": "5"}, "max_tokens", "integer"),
    ({"prompt": "a", "max_tokens": True}, "max_tokens", "integer"),
    ({"prompt": "a", "max_tokens": -1}, "max_tokens", "greater than or equal to 0"),
    ({"prompt": "a", "max_tokens": 65}, "max_tokens", "limit of 64"),
    ({"prompt": "a", "n": 17}, "n", "limit of 16"),
    ({"prompt": ["a"] * 9, "n": 2}, "n", "9 prompts x n = 2"),
    ({"prompt": "a", "stop": ["x"] * 17}, "stop", "limit of 16"),
    ({"prompt": "a", "stop": "x" * 257}, "stop", "limit of 256"),
    ({"prompt": "a", "stop": [""]}, "stop", "empty"),
    ({"prompt": "a", "stop": 5}, "stop", "list"),
    ({"prompt": "a", "stop": "\ud800"}, "stop", "surrogate"),
    ({"prompt": "a", "\ud800": 1}, "body", "surrogate"),
    ({"prompt": "a", "temperature": -1}, "temperature", "greater"),
    ({"prompt": "a", "temperature": 1e-300}, "temperature", "0.001"),
    ({"prompt": "a", "temperature": 1e300}, "temperature", "100"),
    ({"prompt": "a", "top_p": 0}, "top_p", "greater"),
    ({"prompt": "a", "top_k": 2**64}, "top_k", "less"),
    ({"prompt": "a", "seed": -1}, "seed", "greater"),
    ({"prompt": "a", "stream": "yes"}, "stream", "boolean"),
    ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options", "stream"),
    ({"prompt": "a", "stream": True, "stream_options": {"x": 1}}, "stream_options.x", "not supp"),
    ({"prompt": "a", "logprobs": 21}, "logprobs", "20"),
    ({"prompt": "a", "frequency_penalty": 2.5}, "frequency_penalty", "less than or equal to 2"),
    ({"prompt": "a", "best_of": True}, "best_of", "integer"),
    ({"prompt": "a", "best_of": 17}, "n", "limit of 16"),
    ({"prompt": "a", "best_of": 1, "n": 2}, "best_of", "below n = 2"),
    ({"prompt": "a", "best_of": 2, "stream": True}, "best_of", "streamed"),
    ({"prompt": "a", "suffix": "b"}, "suffix", "not supported"),
    ({"prompt": "a", "max_tokens": 0}, "max_tokens", "'echo'"),
    ({"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias", "keys"),
    ({"prompt": "a", "logit_bias": {"5": 101}}, "logit_bias.5", "100"),
    ({"prompt": "a", "logit_bias": {"99999": 1}}, "logit_bias", "99999"),
    ({"prompt": "a", "logit_bias": {str(i): 1 for i in range(301)}}, "logit_bias", "at most 300"),
    ({"prompt": "a", "stop_token_ids": [-5]}, "stop_token_ids", "-5"),
    ({"prompt": "a", "min_tokens": 17}, "min_tokens", "= 17 is above"),
    ({"prompt": "a", "guided_regex": "("}, "guided_regex", "regex"),
    ({"prompt": "a", "guided_choice": []}, "guided_choice", "at least 1"),
    ({"prompt": "a", "guided_json": {"type": "nonsense"}}, "guided_json", "nonsense"),
    ({"prompt": "a", "guided_regex": "a", "guided_choice": ["a"]}, "guided_regex", "one of them"),
    ({"prompt": "a", "guided_json": {"enum": ["x" * 5_000]}}, "guided_json", "bytes"),
    ({"prompt": "a", "temperatur": 1}, "temperatur", "did you mean 'temperature'"),
    ({"prompt": "a", "nonsense": None}, "nonsense", "not supported"),
]
CHAT_FAULTS: list[tuple[dict[str, Any], str | None, str]] = [
    ({"messages": []}, "messages", "empty"),
    ({"messages": "hello"}, "messages", "list"),
    ({"messages": ["hello"]}, "messages.0", "dict"),
    ({"messages": [{"role": "user"}]}, "messages", "messages[0].content"),
    ({"messages": [{"role": "u\n", "content": "a"}]}, "messages", "role"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages", "text part"),
    ({"messages": [{"role": "narrator", "content": "a"}]}, "messages", "narrator"),
    ({"messages": CHAT, "tools": [{"type": "function"}]}, "tools.0.function", "missing"),
    ({"messages": CHAT, "tools": [TOOL, TOOL]}, "tools", "two functions named 'calculator'"),
    ({"messages": CHAT, "tools": [STRICT]}, "tools", "strict"),
    ({"messages": CHAT, "tool_choice": "required"}, "tool_choice", "no 'tools'"),
    ({"messages": CHAT, "tools": [TOOL], "tool_choice": NAMED}, "tool_choice", "'other'"),
    ({"messages": CHAT, "tools": [TOOL], **JSON_FORMAT}, "response_format", "exclude"),
    ({"messages": CHAT, "tools": [TOOL] * 129}, "tools", "limit of 128"),
    ({"messages": CHAT, "top_logprobs": 2}, "top_logprobs", "'logprobs'"),
    ({"messages": CHAT, "logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
    ({"messages": CHAT, "functions": [{"name": "f"}]}, "functions", "not supported"),
    ({"messages": CHAT, "response_format": {"type": "xml"}}, "response_format.type", "json_object"),
    (
        {"messages": CHAT, "response_format": {"type": "json_schema"}},
        "response_format.json_schema",
        "missing",
    ),
    ({"messages": CHAT, **JSON_FORMAT, "guided_regex": "a"}, "response_format", "exclude"),
    ({"messages": CHAT, "chat_template_kwargs": {"tools": 1}}, "chat_template_kwargs", "'tools'"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}, 5]}]},
        "messages",
        "tool_calls[1]",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [CALL]}]},
        "messages",
        "arguments is no JSON object",
    ),
    ({"messages": CHAT, "max_tokens": 4, "max_completion_tokens": 5}, "max_tokens", "one of"),
    ({"messages": [{"role": "user", "content": "z" * 500}]}, "messages", "context is 128"),
]
FAULTS = [("/v1/completions", *fault) for fault in COMPLETION_FAULTS]
FAULTS += [("/v1/chat/completions", *fault) for fault in CHAT_FAULTS]
FAULTS += [
    ("/tokenize", {}, "prompt", "either"),
    ("/tokenize", {"prompt": "a", "messages": CHAT}, "prompt", "either"),
    ("/detokenize", {"tokens": [10**9]}, "tokens", "vocabulary"),
    ("/detokenize", {"tokens": ["a"]}, "tokens.0", "integer"),
]


@pytest.mark.parametrize(("path", "body", "param", "words"), FAULTS)
def test_what_is_wrong_is_named(
    client: TestClient, path: str, body: dict[str, Any], param: str | None, words: str
) -> None:
    content = json.dumps(body).encode()
    found = error(
        client.post(path, content=content, headers={"Content-Type": "application/json"}), 400
    )
    assert found["type"] == "invalid_request_error"
    assert found["param"] == param
    assert words in found["message"]


def test_another_model_is_not_found(client: TestClient) -> None:
    for path, body in (
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": CHAT}),
        ("/tokenize", {"prompt": "a"}),
        ("/detokenize", {"tokens": [5]}),
    ):
        content = json.dumps({**body, "model": "gpt-\ud8004"}).encode()
        headers = {"Content-Type": "application/json"}
        found = error(client.post(path, content=content, headers=headers), 404)
        assert "gpt-" in found["message"]
        assert (found["param"], found["code"]) == ("model", "model_not_found")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "missing"),
        (b"{", "not valid JSON"),
        (b'{"prompt": "a"', "not valid JSON"),
        (b'{"prompt": "\xff\xfe"}', "body"),
        (b'{"prompt": "a", "temperature": NaN}', "NaN"),
        (b'{"prompt": "a", "temperature": 1e999}', "temperature"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", ""),
        (b"[" * 10_000, "body"),
        (b"[]", "JSON object"),
        (b"null", "JSON object"),
        (b'"prompt"', "JSON object"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(
    client: TestClient, content: bytes, words: str
) -> None:
    headers = {"Content-Type": "application/json"}
    found = error(client.post("/v1/completions", content=content, headers=headers), 400)
    assert words in found["message"]


def test_a_web_pages_simple_post_is_refused(client: TestClient) -> None:
    """Text, which a page may post to any origin without asking, is not read as JSON."""
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        response = client.post(
            "/v1/completions", content=b'{"prompt": "a"}', headers={"Content-Type": kind}
        )
        assert "Content-Type: application/json" in error(response, 400)["message"]
    asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    response = client.options("/v1/completions", headers=asked)
    error(response, 405)
    assert not any(name.startswith("access-control") for name in response.headers)


def test_wrong_paths_and_methods(client: TestClient) -> None:
    error(client.get("/nowhere"), 404)
    error(client.get("/v1/completions"), 405)


def test_a_large_body_is_refused_declared_or_not(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    body = b'{"prompt": "' + b"a" * 30_000 + b'"}'
    sent = client.post("/v1/completions", content=body, headers=headers)
    assert error(sent, 413)["code"] == "body_too_large"
    parts = client.post("/v1/completions", content=iter([body[:9], body[9:]]), headers=headers)
    assert error(parts, 413)["code"] == "body_too_large"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=5,
)
NAMES = st.sampled_from(
    [
        "prompt",
        "messages",
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "stop",
        "seed",
        "n",
        "stream",
        "stream_options",
        "echo",
        "model",
        "logprobs",
        "top_logprobs",
        "tools",
        "tool_choice",
        "response_format",
        "logit_bias",
        "best_of",
        "guided_regex",
        "guided_choice",
        "guided_json",
        "stop_token_ids",
        "chat_template_kwargs",
        "input",
        "encoding_format",
        "dimensions",
        "user",
    ]
)


@given(
    path=st.sampled_from(
        [
            "/v1/completions",
            "/v1/chat/completions",
            "/v1/embeddings",
            "/tokenize",
            "/detokenize",
        ]
    ),
    body=st.dictionaries(NAMES, JSON, max_size=3),
    sound=st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_json_whatsoever_is_the_servers_fault(
    client: TestClient, path: str, body: dict[str, Any], sound: bool
) -> None:
    need: dict[str, dict[str, Any]] = {
        "/detokenize": {"tokens": [5]},
        "/v1/chat/completions": {"messages": CHAT},
        "/v1/embeddings": {"input": "a"},
    }
    if sound:
        body = {**body, **need.get(path, {"prompt": "a"})}
    response = client.post(
        path, content=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    if response.status_code != 200:
        assert response.status_code in (400, 404)
        error(response, response.status_code)


# ---- keys, addresses ----------------------------------------------------------------------------


def test_only_a_key_opens_the_door() -> None:
    app = build_app(service(), keys=["first-key", "zweiter-Schlüssel"])
    with TestClient(app, base_url="http://example.org") as client:
        assert client.get("/health").status_code == 200
        for value in ("", "Bearer", "Bearer wrong", "Basic first-key", "first-key", "Bearer \xff"):
            response = client.get("/v1/models", headers={b"Authorization": value.encode("latin-1")})
            assert error(response, 401)["code"] == "invalid_api_key"
            assert response.headers["www-authenticate"] == "Bearer"
        for key in ("first-key", "zweiter-Schlüssel"):
            headers = {b"Authorization": b"Bearer " + key.encode()}
            assert client.get("/v1/models", headers=headers).status_code == 200


def test_without_a_key_only_this_machines_names_are_answered(client: TestClient) -> None:
    for host in ("localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"):
        assert client.get("/health", headers={"Host": host}).status_code == 200
    for host in ("example.org", "localhost.example.org", "192.168.1.5:8000", "127.0.0.1.nip.io"):
        assert error(client.get("/v1/models", headers={"Host": host}), 403)["code"] == (
            "host_not_allowed"
        )


def test_others_are_let_in_only_with_a_key() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(UserError, match="--api-key-file") as caught:
            listen(host, 0, keys=[])
        assert "\n" not in str(caught.value)
    with listen("0.0.0.0", 0, keys=["k"]) as opened:
        assert address(opened).startswith("http://0.0.0.0:")


def test_without_the_extra_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    gone = ("fastapi", "prometheus_client", "uvicorn")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in gone else find(name, *more)
    )
    with pytest.raises(SystemExit) as stopped:
        main(["serve", "nowhere"])
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "pip install 'glassbox-lm[serve]'" in lines[0]


def test_origins_are_origins() -> None:
    for origin in ("*", "example.org", "https://example.org/", "https://*.example.org", "null"):
        with pytest.raises(UserError, match="--cors-origin"):
            check_origins([origin])


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}.*--port 0"):
            listen("127.0.0.1", port, keys=[])


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("one\n\n two \n")
    assert read_keys(file, {"GLASSBOX_API_KEY": "three"}) == ["one", "two", "three"]
    assert read_keys(None, {}) == []
    for content in (b"", b" \n", b"\xff"):
        file.write_bytes(content)
        with pytest.raises(UserError, match="keys"):
            read_keys(file, {})
    with pytest.raises(UserError, match="cannot be read"):
        read_keys(tmp_path / "none", {})
    with pytest.raises(UserError, match="GLASSBOX_API_KEY is empty"):
        read_keys(None, {"GLASSBOX_API_KEY": " "})
