"""Untrusted templates, rendered in a process of their own with hard limits on time and memory.

Jinja's budget (see `templates`) counts steps and sizes, but a filter's one call can hold the
interpreter for minutes, and many lists below the limit of one take all memory. A process can be
killed whatever it does, and the system keeps its memory.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glassbox.core.errors import UserError
from glassbox.sandbox.templates import MAX_CHARS, MAX_SOURCE_CHARS, Dialect

CHILD = Path(__file__).with_name("_template_child.py")
MEMORY_BYTES = 300 << 20
SECONDS = 1.5
_PATIENCE = 10.0
_START_SECONDS = 60.0


class TemplateProcess:
    """A process that compiles and renders templates, started when first asked, and anew when killed.

    memory_bytes: its address space, Python included (not held by macOS, where only time and the
        budget of `templates` are).
    seconds: what a request may take. Where the machine is so busy that the process had not that much
        processor time, up to ten seconds by the clock.

    Besides, the process is an unprivileged user's where root starts it, can open no file (Landlock)
    and makes no system calls but those of computing (seccomp), as far as the machine offers that.
    One request at a time: threads wait for each other. In a forked process it is another one, and it
    ends with the process that started it. Raises UserError, naming chat_template, for all that
    goes wrong. Tested by: `tests/system/attacks/test_templates.py`.
    """

    def __init__(self, *, memory_bytes: int = MEMORY_BYTES, seconds: float = SECONDS) -> None:
        self.memory_bytes, self.seconds = memory_bytes, seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def compile(self, source: str, dialect: Dialect = "chat") -> None:
        """Raises UserError where a template cannot be compiled."""
        if len(source) > MAX_SOURCE_CHARS:
            raise UserError(
                f"chat_template has {len(source)} characters; at most {MAX_SOURCE_CHARS}"
            )
        self._ask(source, None, dialect)

    def render(self, source: str, variables: Mapping[str, Any], dialect: Dialect = "chat") -> str:
        """A template as text, variables being JSON's own types."""
        return self._ask(source, variables, dialect)

    def close(self) -> None:
        """Kill the process; the next request starts another."""
        with self._lock:
            self._end()

    def forget(self) -> None:
        """In a forked process: do not use the parent's rendering process."""
        self._lock = threading.Lock()
        process, self._process = self._process, None
        if process is not None:
            process.returncode = 0  # it is not ours to wait for
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()

    def _ask(self, source: str, variables: Mapping[str, Any] | None, dialect: Dialect) -> str:
        question = {"source": source, "variables": variables, "dialect": dialect}
        request = json.dumps(question).encode()
        with self._lock:
            process = self._started()
            try:
                data = self._exchange(process, request)
            except BaseException:
                self._end()  # a reply that nobody waits for must not answer the next request
                raise
            if data[1:2] != b"1":
                self._end()
        text = data[2:].decode("utf-8", "surrogatepass")
        if data[:1] != b"+":
            lack = f"it needs more than {self.memory_bytes >> 20} MB of memory"
            raise UserError(text.replace("MemoryError", lack))
        return text

    def _exchange(self, process: subprocess.Popen[bytes], request: bytes) -> bytes:
        started, used = time.monotonic(), _cpu_seconds(process.pid)
        request = len(request).to_bytes(8, "little") + request
        assert process.stdin is not None
        assert process.stdout is not None
        reply, size = bytearray(), None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(process.stdin, selectors.EVENT_WRITE)
            while size is None or len(reply) < size:
                for key, _ in selector.select(0.05):
                    if key.fileobj is process.stdin:
                        with contextlib.suppress(BlockingIOError, BrokenPipeError):
                            request = request[os.write(key.fd, request[: 1 << 16]) :]
                        if not request:
                            selector.unregister(process.stdin)
                        continue
                    part = os.read(key.fd, 1 << 20)
                    if not part:
                        raise UserError(f"chat_template failed: {_how_it_ended(process)}")
                    reply += part
                if size is None and len(reply) >= 8:
                    size = 8 + int.from_bytes(reply[:8], "little")
                    if size > 4 * MAX_CHARS + 64:
                        raise UserError("chat_template failed: its text is too long")
                elapsed = time.monotonic() - started
                if elapsed > self.seconds and size is None:
                    now = _cpu_seconds(process.pid)
                    spent = elapsed if now is None or used is None else now - used
                    if spent > self.seconds * 0.9 or elapsed > _PATIENCE:
                        raise UserError(
                            f"chat_template failed: it takes more than {self.seconds:g} seconds"
                        )
        return bytes(reply[8:])

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        try:
            self._process = process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", str(CHILD), _roots(), str(self.memory_bytes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd="/",
                env={name: os.environ[name] for name in ("TZ", "LC_ALL") if name in os.environ},
            )
        except OSError as error:
            raise UserError(f"chat_template cannot be rendered: no process: {error}") from None
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            ready = selector.select(_START_SECONDS) and os.read(process.stdout.fileno(), 15)
        if ready != (7).to_bytes(8, "little") + b"+1ready":
            self._end()
            raise UserError("chat_template cannot be rendered: its process does not start")
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
            process.wait()


@functools.cache
def shared_template_process() -> TemplateProcess:
    """The one process for all templates of this process; it ends with us."""
    shared = TemplateProcess()
    os.register_at_fork(after_in_child=shared.forget)
    atexit.register(shared.close)
    return shared


@functools.cache
def _roots() -> str:
    """The folders from which the process imports: what lies beside Glassbox and Jinja."""
    import jinja2
    import markupsafe
    import regex

    modules = (jinja2, markupsafe, regex)
    folders = [Path(__file__).resolve().parents[2]]
    folders += [Path(str(module.__file__)).resolve().parents[1] for module in modules]
    return json.dumps(list(dict.fromkeys(map(str, folders))))


def _cpu_seconds(pid: int) -> float | None:
    """Processor time that a process has used; None where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return float(int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


def _how_it_ended(process: subprocess.Popen[bytes]) -> str:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    return f"it ended the process that renders it (status {process.returncode})"
