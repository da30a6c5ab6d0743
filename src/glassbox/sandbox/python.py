"""Python code of unknown worth, run in a process of its own that cannot outlive its limits."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from glassbox.core.config import Spec
from glassbox.core.errors import UserError

CHILD = Path(__file__).with_name("_child.py")
Outcome = Literal["done", "failed", "timeout", "flood"]
Walls = Literal["full", "partial", "limits only"]


class SandboxLimits(Spec):
    """What a piece of code may use."""

    wall_seconds: float = Field(5.0, gt=0, description="by the clock, start of Python included")
    cpu_seconds: int = Field(5, gt=0)
    memory_bytes: int = Field(512 << 20, ge=64 << 20, description="address space")
    file_bytes: int = Field(1 << 20, gt=0, description="size of a file, and of all together")
    output_bytes: int = Field(64 << 10, gt=0, description="of standard output, and of errors")
    namespaces: Literal["auto", "required", "none"] = Field(
        "auto", description="required: refuse to run where the system forbids Linux namespaces"
    )


@dataclass(frozen=True)
class SandboxResult:
    """What became of a piece of code.

    outcome: done (ran to its end), failed (raised, left early or was killed by a limit), timeout
        (the wall clock), flood (more output than allowed).
    stdout, stderr: what it wrote, cut at the limit; bytes that are no UTF-8 are replaced.
    returncode: of the process, negative for a signal; 128 + n for signal n within namespaces.
    walls: full (namespaces, read-only files, filtered system calls), partial (one of these is
        missing), limits only.
    """

    outcome: Outcome
    stdout: str
    stderr: str
    returncode: int
    walls: Walls


def run_python(code: str | Sequence[str], limits: SandboxLimits | None = None) -> SandboxResult:
    """Run Python code, or several pieces one after another in one namespace, and report.

    The process: `python -I -S` (no site packages, no environment) in an empty temporary folder,
    with limits on processor time, address space, and the size and number of files. Root becomes
    `nobody` first, where `nobody` may read Python. On Linux the kernel then refuses it new processes,
    threads and sockets; where namespaces are allowed it also has a world of its own: no network, no
    sight of other processes, every file read-only but for a small memory disk, and all that is in
    that world ends with it. On a timeout or a flood the whole process group is killed.

    What it is not: a jail for an attacker. The code shares the kernel with us, and may read what its
    user may read; its tests run in its own process, so code made to cheat them could. Where
    `walls` is "partial" (no namespaces, as in many containers) it may write its user's files; where
    it is "limits only" (macOS, unknown machines) network and processes are refused only by a hook that
    hostile code can get round, and macOS does not hold the limit on memory. For hostile code use a
    virtual machine.

    Raises UserError on Windows, and where namespaces are required but forbidden.

    >>> run_python("print(6 * 7)").stdout
    '42\\n'
    """
    limits = limits or SandboxLimits()
    if os.name != "posix":
        raise UserError("the sandbox needs Linux or macOS; on Windows use WSL or leave code out")
    parts = [code] if isinstance(code, str) else list(code)
    word = secrets.token_hex(16).encode()
    payload = _pack(parts) + word
    with tempfile.TemporaryDirectory(prefix="glassbox-sandbox-", ignore_cleanup_errors=True) as tmp:
        report_read, report_write = os.pipe()
        try:
            process = subprocess.Popen(
                [*_command(), _settings(limits), str(report_write), tmp],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=tmp,
                env={"LC_ALL": "C.UTF-8"},
                pass_fds=(report_write,),
                start_new_session=True,
            )
        finally:
            os.close(report_write)
        try:
            stopped, out, err = _watch(process, payload, limits)
            said = os.read(report_read, 1) if stopped is None or _ready(report_read) else b""
        finally:
            os.close(report_read)
            returncode = _end(process)
    walls: Walls = {b"1": "full", b"2": "partial"}.get(said, "limits only")  # type: ignore[assignment]
    if limits.namespaces == "required" and said in (b"0", b"2"):
        raise UserError(
            "the sandbox asks for Linux namespaces (namespaces: required), which this system "
            "forbids; allow them (sysctl kernel.unprivileged_userns_clone=1) or use namespaces: auto"
        )
    finished = returncode == 0 and out.endswith(word)
    text = out.removesuffix(word).decode(errors="replace")
    outcome: Outcome = stopped or ("done" if finished else "failed")
    return SandboxResult(outcome, text, err.decode(errors="replace"), returncode, walls)


def _command() -> list[str]:
    return [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(CHILD)]


def _settings(limits: SandboxLimits) -> str:
    return json.dumps({**limits.model_dump(), "namespaces": limits.namespaces != "none"})


def _pack(parts: Sequence[str]) -> bytes:
    encoded = [part.encode(errors="replace") for part in parts]
    sized = [len(part).to_bytes(4, "little") + part for part in encoded]
    return len(parts).to_bytes(4, "little") + b"".join(sized)


def _watch(
    process: subprocess.Popen[bytes], payload: bytes, limits: SandboxLimits
) -> tuple[Outcome | None, bytes, bytes]:
    """Feed the code and collect the output until both ends close, the clock runs out, or it floods."""
    deadline = time.monotonic() + limits.wall_seconds
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    kept = {process.stdout: bytearray(), process.stderr: bytearray()}
    stopped: Outcome | None = None
    with selectors.DefaultSelector() as selector:
        os.set_blocking(process.stdin.fileno(), False)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        for stream in kept:
            selector.register(stream, selectors.EVENT_READ)
        while stopped is None and any(stream in selector.get_map() for stream in kept):
            left = deadline - time.monotonic()
            events = selector.select(max(0.0, left)) if left > 0 else []
            if not events and deadline <= time.monotonic():
                stopped = "timeout"
            for key, _ in events:
                if key.fileobj is process.stdin:
                    try:
                        payload = payload[os.write(key.fd, payload[:65536]) :]
                    except (BrokenPipeError, BlockingIOError) as error:
                        payload = payload if isinstance(error, BlockingIOError) else b""
                    if not payload:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                    continue
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fileobj)
                    continue
                held = kept[key.fileobj]  # type: ignore[index]
                held += chunk
                if len(held) > limits.output_bytes + 64:
                    stopped = "flood"
        if stopped is None:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:  # it closed its output and goes on
                stopped = "timeout"
    out, err = (bytes(held) for held in kept.values())
    cut = limits.output_bytes + 32
    return stopped, out[:cut] if stopped != "flood" else out[: limits.output_bytes], err[:cut]


def _ready(descriptor: int) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        return bool(selector.select(0))


def _end(process: subprocess.Popen[bytes]) -> int:
    """Kill whatever is left of the group, and reap."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        process.kill()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    return process.wait()
