"""Untrusted Python code, run in a process of its own that cannot outlive its limits."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import math
import os
import secrets
import selectors
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from glassbox.core.config import Spec
from glassbox.core.errors import UserError

CHILD = Path(__file__).with_name("_child.py")
Outcome = Literal["done", "failed", "timeout", "flood"]
Walls = Literal["full", "partial", "limits only"]
Wall = Literal[
    "unprivileged user",
    "namespaces",
    "files",
    "no capabilities",
    "system calls",
    "landlock",
    "control group",
]

_LIBRARIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/nix/store")
_DATA = ("/etc/ld.so.cache", "/usr/share/zoneinfo")
_POLL_SECONDS = 0.1
_SLACK_BYTES = 64 << 10  # blocks are larger than the bytes in them


class SandboxRefused(UserError):
    """This machine lacks restrictions that the limits require; nothing was run."""


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
    weak_walls_as_root: bool = Field(
        False, description="run root's code even where a needed wall is missing (see `run_python`)"
    )


@dataclass(frozen=True)
class SandboxResult:
    """The result of running code in the sandbox.

    outcome: done (ran to its end, by its own account), failed (raised, left early or was killed by
        a limit), timeout (the wall clock), flood (more output, or files, than allowed).
    stdout, stderr: what it wrote, cut at the limit; bytes that are no UTF-8 are replaced.
    returncode: of the process, negative for a signal; 128 + n for signal n within namespaces.
    walls: full (all but the two extra ones, `landlock` and `control group`, which not every machine
        has), partial (one is missing), limits only.
    missing: the walls that this machine did not give.
    """

    outcome: Outcome
    stdout: str
    stderr: str
    returncode: int
    walls: Walls
    missing: tuple[Wall, ...] = field(default=())


def run_python(
    code: str | Sequence[str], limits: SandboxLimits | None = None, *, packages: bool = False
) -> SandboxResult:
    """Run Python code, or several pieces one after another in one namespace, and report.

    The process is `python -I -S` (no site packages, no environment, no descriptors but its three
    pipes) in an empty work folder. Its walls, each raised where the machine has it:

    - unprivileged user: root becomes `nobody`; Python may lie in a folder of root's own.
    - namespaces: no network, no sight of other processes, no shared memory or host name of others.
      Its root folder is a new one: Python's standard library and the system's libraries read-only,
      five devices, no /proc, no /sys, and a memory disk of `file_bytes` as the work folder, so that
      no file of anyone's can be read, written or seen. All in it ends with it.
    - files: the above or, where namespaces are missing, Landlock: no file but those can be opened.
      (Names and sizes of others' files can then be seen, and the limit on all files together is
      kept by a look every 0.1 seconds.)
    - no capabilities, and none to be had from programs (no_new_privs).
    - system calls: those on a list alone (seccomp). None starts a process, thread or program, opens
      a socket, mounts, traces, signals another process, makes shared memory (SysV, POSIX, memfd) or
      message queues, sets a clock or name, or reaches keys, bpf, perf, io_uring, userfaultfd, kexec.
    - landlock: besides the new root folder.
    - control group: memory and processes counted by the kernel, where we may make one. Address
      space, processor time, file size, descriptors and output are limited everywhere.

    What is missing is named in the result. Root's code is refused where any of `unprivileged user`,
    `files`, `no capabilities`, `system calls` is missing, unless `weak_walls_as_root` is set; with
    `namespaces: required` everybody's code is refused where one of these or `namespaces` is. On
    macOS and unknown machines there are only limits and a hook that hostile code can get round, and
    macOS does not hold the limit on memory.

    packages: let the code import what is installed beside Glassbox (torch, NumPy). The folders of
        packages are then shown read-only, and `memory_bytes` bounds what the code allocates, not
        the address space, of which libraries take gigabytes. No thread can be started.

    `done` is the code's own account: it shares its process with what reports its end. To grade code,
    use `run_tests`, whose tests live elsewhere. The code shares the kernel with us: against faults
    of the kernel itself only a virtual machine helps.

    Tested by: `tests/system/attacks/test_sandbox.py`, which tries to break each of these walls as
    root, as root with Python in a private folder, and as an ordinary user.

    Raises SandboxRefused, a UserError, on Windows, and where code is refused (see above); nothing has run then.

    >>> run_python("print(6 * 7)").stdout
    '42\\n'
    """
    parts = [code] if isinstance(code, str) else list(code)
    return execute(parts, limits or SandboxLimits(), packages=packages)


def execute(
    parts: Sequence[str],
    limits: SandboxLimits,
    *,
    channel: Sequence[int] = (),
    stop: int | None = None,
    packages: bool = False,
) -> SandboxResult:
    """`run_python` with descriptors that the code gets as `CHANNEL`; ours are closed here.

    stop: a descriptor at whose end of file the code is killed (its outcome is then `timeout`).
    """
    if os.name != "posix":
        raise SandboxRefused(
            "the sandbox needs Linux or macOS; on Windows use WSL or leave code out"
        )
    try:
        result = _attempt(parts, limits, channel, stop, None, packages)
        if result is None:
            result = _attempt(parts, limits, channel, stop, _public_copy(), packages)
    finally:
        for descriptor in channel:
            os.close(descriptor)
    assert result is not None, "the sandbox asked for a copy of Python twice"
    return result


def _attempt(
    parts: Sequence[str],
    limits: SandboxLimits,
    channel: Sequence[int],
    stop: int | None,
    copy: str | None,
    packages: bool,
) -> SandboxResult | None:
    """None where the sandbox asks for a copy of Python's library that others may read."""
    word = secrets.token_hex(16).encode()
    payload = _pack(parts) + word
    with (
        _work_folder() as tmp,
        _control_groups(limits, Path(tmp).name) as groups,
    ):
        report_read, report_write = os.pipe()
        try:
            process = subprocess.Popen(
                [
                    *_command(),
                    _settings(limits, groups, channel, copy, packages),
                    str(report_write),
                    tmp,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=tmp,
                env={"LC_ALL": "C.UTF-8", **(_ONE_THREAD if packages else {})},
                pass_fds=(report_write, *channel),
                start_new_session=True,
            )
        finally:
            os.close(report_write)
        try:
            stopped, out, err = _watch(process, payload, limits, Path(tmp), stop)
            said = os.read(report_read, 65536) if stopped is None or _ready(report_read) else b""
        finally:
            os.close(report_read)
            returncode = _end(process)
    told: dict[str, Any] = json.loads(said) if said else {}
    if told.get("copy"):
        return None
    if told.get("refused"):
        raise SandboxRefused(_refusal(limits, told["refused"]))
    missing: tuple[Wall, ...] = tuple(told.get("missing", get_args(Wall)))
    finished = returncode == 0 and out.endswith(word)
    text = out.removesuffix(word).decode(errors="replace")
    outcome: Outcome = stopped or ("done" if finished else "failed")
    return SandboxResult(
        outcome, text, err.decode(errors="replace"), returncode, _height(missing), missing
    )


def _height(missing: Sequence[Wall]) -> Walls:
    if not set(missing) - {"landlock", "control group"}:
        return "full"
    return "limits only" if {"namespaces", "files", "system calls"} <= set(missing) else "partial"


def _refusal(limits: SandboxLimits, lacking: Sequence[str]) -> str:
    lost = ", ".join(lacking)
    if limits.namespaces == "required":
        return (
            f"the sandbox asks for Linux namespaces (namespaces: required), but this system gives no:"
            f" {lost}; allow them (sysctl kernel.unprivileged_userns_clone=1) or use namespaces: auto"
        )
    return (
        f"the sandbox runs no code as root here, as this system gives no: {lost}; run as another user,"
        " or say weak_walls_as_root: true, and the code may do what root may"
    )


def _command() -> list[str]:
    return [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(CHILD)]


def _settings(
    limits: SandboxLimits,
    groups: Sequence[str],
    channel: Sequence[int],
    copy: str | None,
    packages: bool,
) -> str:
    shown, hidden, links = _visible()
    folders = _package_folders() if packages else []
    inside = {os.path.realpath(target) for _, target in shown}
    shown = [
        *shown,
        *(
            (path, path)
            for path in folders
            if not any(path.startswith(f"{other}/") for other in inside)
        ),
    ]
    hidden = [path for path in hidden if os.path.realpath(path) not in folders]
    library = _standard_library()
    unreadable = os.geteuid() == 0 and not _files_are_readable()
    if copy is None and unreadable:
        copy = _public_copy()
    if copy is not None:
        shown = [*shown, (copy, library)]
    return json.dumps(
        {
            **limits.model_dump(),
            "namespaces": limits.namespaces != "none",
            "required": limits.namespaces == "required",
            "as_root": os.geteuid() == 0,
            "private_python": not _others_reach(library),
            "copy": copy,
            "standard_library": library,
            "shown": shown,
            "hidden": hidden,
            "links": links,
            "control_groups": list(groups),
            "channel": list(channel),
            "packages": folders,
        }
    )


_ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}


def _package_folders() -> list[str]:
    """Where installed packages lie, as this process finds them."""
    names = ("site-packages", "dist-packages")
    found = [os.path.realpath(path) for path in sys.path if os.path.basename(path) in names]
    return [path for path in dict.fromkeys(found) if os.path.isdir(path)]


# ---- what Python needs --------------------------------------------------------------------------


def _standard_library() -> str:
    return os.path.dirname(os.__file__)


@functools.cache
def _visible() -> tuple[list[tuple[str, str]], list[str], list[tuple[str, str]]]:
    """What the new root shows: (path outside, path inside), folders to hide, symbolic links."""
    prefix = f"{sys.base_prefix}/lib"
    wanted = [*_LIBRARIES, prefix, _standard_library(), *_DATA]
    shown: list[tuple[str, str]] = []
    links: list[tuple[str, str]] = []
    for path in dict.fromkeys(wanted):
        if not os.path.exists(path):
            continue
        if path in _LIBRARIES and os.path.islink(path):
            links.append((path, os.readlink(path)))
        elif not any(path.startswith(f"{other}/") for _, other in shown):
            shown.append((os.path.realpath(path), path))
    packages = [
        *Path(prefix).glob("python3*/*-packages"),
        Path(_standard_library(), "site-packages"),
    ]
    return shown, sorted({str(path) for path in packages if path.is_dir()}), links


def _others_reach(path: str) -> bool:
    """Whether a user without rights of their own may look into a folder."""
    folders = [Path(path), *Path(path).parents]
    reached = all(os.stat(folder).st_mode & 0o001 for folder in folders)
    return reached and bool(os.stat(path).st_mode & 0o004)


@functools.cache
def _files_are_readable() -> bool:
    """Whether others may read what lies in the standard library (not so under a umask of 077)."""
    for folder, folders, files in os.walk(_standard_library()):
        folders[:] = [name for name in folders if name not in _NOT_COPIED]
        for name in (*folders, *files):
            mode = os.lstat(os.path.join(folder, name)).st_mode
            if not stat.S_ISLNK(mode) and not mode & 0o004:
                return False
    return True


_NOT_COPIED = ("site-packages", "dist-packages", "test", "idlelib", "tkinter", "ensurepip")


_COPYING = threading.Lock()


def _public_copy() -> str:
    """The standard library in a temporary folder that every user may read, until we end."""
    with _COPYING:
        return _make_public_copy()


@functools.cache
def _make_public_copy() -> str:
    folder = tempfile.mkdtemp(prefix="glassbox-python-")
    atexit.register(_remove_of_process, os.getpid(), folder)
    os.chmod(folder, 0o755)
    target = os.path.join(folder, os.path.basename(_standard_library()))
    ignored = shutil.ignore_patterns(*_NOT_COPIED, "config-*")
    shutil.copytree(_standard_library(), target, ignore=ignored)
    for place, folders, files in os.walk(target):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            if not os.path.islink(path):
                os.chmod(path, 0o755 if name in folders else 0o644)
    return target


def _remove_of_process(owner: int, folder: str) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


# ---- control groups -----------------------------------------------------------------------------


@contextlib.contextmanager
def _control_groups(limits: SandboxLimits, name: str) -> Iterator[list[str]]:
    """Folders of the kernel's control groups that limit memory and processes; none where forbidden."""
    memory = limits.memory_bytes + (64 << 20)  # the code's, and that of the two that watch over it
    made: list[str] = []
    try:
        for place, values in _places_of_groups():
            path = os.path.join(place, name)
            try:
                os.mkdir(path)
                made.append(path)
                for file, value in values.items():
                    with open(os.path.join(path, file), "w") as stream:
                        stream.write(str(value or memory))
            except OSError:
                break
        else:
            yield made
            return
        _remove_groups(made)
        made = []
        yield made
    finally:
        _remove_groups(made)


def _places_of_groups() -> list[tuple[str, dict[str, int]]]:
    """Where groups of ours may be made: (folder, the files in it and their values; 0: the memory)."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return [("/nowhere", {})]
    own = dict(line.split(":", 2)[1:3] for line in lines)
    if "memory" in own and "pids" in own:  # version 1
        memory, pids = (f"/sys/fs/cgroup/{kind}{own[kind]}" for kind in ("memory", "pids"))
        return [(memory, {"memory.limit_in_bytes": 0}), (pids, {"pids.max": 16})]
    here = Path(f"/sys/fs/cgroup{own.get('', '/nowhere')}")
    for place in (here, here.parent):
        with contextlib.suppress(OSError):
            enabled = (place / "cgroup.subtree_control").read_text().split()
            if {"memory", "pids"} <= set(enabled) and os.access(place, os.W_OK):
                return [(str(place), {"memory.max": 0, "pids.max": 16})]
    return [("/nowhere", {})]


def _remove_groups(paths: Sequence[str]) -> None:
    deadline = time.monotonic() + 1.0
    for path in paths:
        while time.monotonic() < deadline:
            try:
                os.rmdir(path)
                break
            except OSError:  # its last process is still on its way out
                time.sleep(0.005)


# ---- watching -----------------------------------------------------------------------------------


def _pack(parts: Sequence[str]) -> bytes:
    encoded = [part.encode(errors="replace") for part in parts]
    sized = [len(part).to_bytes(4, "little") + part for part in encoded]
    return len(parts).to_bytes(4, "little") + b"".join(sized)


def _watch(
    process: subprocess.Popen[bytes],
    payload: bytes,
    limits: SandboxLimits,
    folder: Path,
    stop: int | None,
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
        if stop is not None:
            selector.register(stop, selectors.EVENT_READ)
        while stopped is None and any(stream in selector.get_map() for stream in kept):
            left = deadline - time.monotonic()
            events = selector.select(min(left, _POLL_SECONDS)) if left > 0 else []
            if left <= 0:
                stopped = "timeout"
            elif _size_of(folder) > limits.file_bytes + _SLACK_BYTES:
                stopped = "flood"
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
                if key.fileobj == stop:
                    stopped = "timeout"
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


def _size_of(folder: Path) -> float:
    """Bytes of the files in the work folder, in blocks; infinite where some cannot be looked at.

    In namespaces the folder is empty for us: there, the memory disk's own size is the limit.
    """
    size, waiting = 0, [str(folder)]
    try:
        while waiting:
            entries = list(os.scandir(waiting.pop()))
            blocks = [entry.stat(follow_symlinks=False).st_blocks for entry in entries]
            size += sum(max(4096, 512 * count) for count in blocks)
            waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:  # it went away meanwhile: look again next time
        return size
    except OSError:  # a path that is too long, or a folder that hides its files
        return math.inf
    return size


@contextlib.contextmanager
def _work_folder() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="glassbox-sandbox-")
    try:
        yield os.path.realpath(folder)
    finally:
        with contextlib.suppress(OSError):
            _remove_folder(folder)


def _remove_folder(folder: str) -> None:
    """Remove a folder, however deep it is: what lies in its folders is moved up until none is left."""
    while folders := list(os.scandir(folder)):
        for entry in folders:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            for inner in list(os.scandir(entry.path)):
                if inner.is_dir(follow_symlinks=False):
                    os.chmod(inner.path, 0o700)
                    os.rename(inner.path, os.path.join(folder, secrets.token_hex(16)))
                else:
                    os.unlink(inner.path)
            os.rmdir(entry.path)
    os.rmdir(folder)


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
