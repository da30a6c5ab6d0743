"""Attacks on `glassbox serve` as a user runs it: slow connections, hostile bodies, memory."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from glassbox.formats.huggingface import save_pretrained
from support.raw_http import connect, health
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

DESCRIPTORS = 1024
START_SECONDS = 240.0  # a loaded machine takes its time to import torch
BUSY = 10
"""Times by which a figure may be exceeded on a machine that does other work."""


@dataclass
class Server:
    port: int
    process: psutil.Process
    log: Path

    def memory(self) -> int:
        """Resident bytes."""
        found: int = self.process.memory_info().rss
        return found


@pytest.fixture(scope="module", autouse=True)
def many_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard) if hard > 0 else 4096, hard))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("attacked")
    tokenizer = tiny_tokenizer()
    model = tiny_chat_model(tokenizer, context_length=2048)
    save_pretrained(model, root / "tiny", tokenizer=tokenizer)
    command = [sys.executable, "-m", "glassbox", "--threads", "1", "serve", str(root / "tiny")]
    environment = {k: v for k, v in os.environ.items() if k != "GLASSBOX_API_KEY"}
    with (root / "log").open("w") as errors:
        process = subprocess.Popen(
            [*command, "--port", "0", "--device", "cpu"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**environment, "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: resource.setrlimit(
                resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS)
            ),
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("serving tiny on "), (root / "log").read_text()
        found = Server(int(line.rpartition(":")[2]), psutil.Process(process.pid), root / "log")
        for _ in range(20):  # what the first requests build is not held against the attack
            health(found.port)
        yield found
    finally:
        process.kill()
        process.wait(START_SECONDS)
        process.stdout.close()
        assert "Traceback" not in (root / "log").read_text()


def worst_health(server: Server, times: int) -> float:
    return max(health(server.port) for _ in range(times))


def test_a_thousand_slow_connections(server: Server) -> None:
    before = server.log.stat().st_size
    beginnings = [b"", b"GET /hea", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ", b"POST "]
    slow = [connect(server.port, beginnings[n % 4]) for n in range(1000)]
    try:
        seconds = worst_health(server, 20)
        for one in slow[::7]:  # and they go on to send
            with contextlib.suppress(OSError):
                one.sendall(b"X")
        seconds = max(seconds, worst_health(server, 20))
        print(f"/health among 1,000 slow connections: {1000 * seconds:.0f} ms at worst")
        assert seconds < 0.1 * BUSY
        assert server.process.num_fds() < DESCRIPTORS
        assert server.log.stat().st_size - before < 100_000
    finally:
        for one in slow:
            one.close()
    assert health(server.port) < 0.1 * BUSY
