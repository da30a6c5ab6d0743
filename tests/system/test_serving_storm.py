"""Many clients that come and go, SIGTERM in their midst, and one who reads too slowly."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

from glassbox.formats.huggingface import save_pretrained
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

ROOT = Path(__file__).parents[2]
PATIENCE = 240.0


def tiny_model(folder: Path) -> Path:
    tokenizer = tiny_tokenizer()
    model = tiny_chat_model(tokenizer, context_length=20_000)
    save_pretrained(model, folder, tokenizer=tokenizer)
    return folder


def test_forty_clients_some_of_whom_hang_up_and_the_end_in_their_midst(tmp_path: Path) -> None:
    script = ROOT / "bench" / "serve_storm.py"
    ended = subprocess.run(
        [
            sys.executable,
            str(script),
            str(tiny_model(tmp_path / "tiny")),
            "--clients",
            "40",
            "--seconds",
            "5",
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "lost or wrong: none" in ended.stdout
    assert re.search(r"blocks in use while all pause: 0 of [1-9]", ended.stdout)
    assert "faults in the log: none" in ended.stdout


def ask(port: int, body: dict[str, object], *, buffer: int | None = None) -> socket.socket:
    content = json.dumps(body).encode()
    connection = socket.socket()
    if buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(PATIENCE)
    connection.connect(("127.0.0.1", port))
    connection.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content)
    )
    return connection


def test_who_reads_slowly_holds_up_nobody(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny")
    log = tmp_path / "log"
    command = [sys.executable, "-m", "glassbox", "--threads", "1", "serve", str(model)]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, "--port", "0", "--device", "cpu", "--max-tokens", "20000"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "GLASSBOX_API_KEY"},
        )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline().rpartition(":")[2])
        body = {"prompt": "The fox", "temperature": 0, "stream": True, "ignore_eos": True}
        # far more than the sockets hold, and none of it is read
        slow = ask(port, {**body, "n": 6, "max_tokens": 1000, "logprobs": 20}, buffer=2048)
        until = time.monotonic() + PATIENCE
        running = 1
        while running:  # its tokens are all made though nobody takes them
            quick = ask(port, {**body, "max_tokens": 5})
            received = b""
            while part := quick.recv(65_536):
                received += part
            assert b"data: [DONE]" in received
            quick.close()
            assert time.monotonic() < until
            connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            connection.request("GET", "/health")
            running = json.loads(connection.getresponse().read())["running"]
            connection.close()
        assert '"completion_tokens": 6000' not in log.read_text()  # it is still being sent
        whole = b""
        while part := slow.recv(65_536):
            whole += part
        assert len(whole) > 5_000_000
        assert b"data: [DONE]" in whole
        assert b'"finish_reason":"length"' in whole
        slow.close()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert "Traceback" not in log.read_text()
