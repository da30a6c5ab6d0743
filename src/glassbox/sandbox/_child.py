"""The program that `sandbox` starts: it walls itself in, then runs the code it is sent.

It is run by `python -I -S`, alone, and may import nothing but the standard library.
Arguments: the settings as JSON, the number of a pipe to report on, and the work folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
NOBODY = 65534
PDEATHSIG, DUMPABLE, SECCOMP, CAPBSET_DROP, NO_NEW_PRIVS = 1, 4, 22, 24, 38
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, RDONLY = 442, -100, 0x8000, 1
NOSUID, NODEV, NOEXEC, PRIVATE, REC = 2, 4, 8, 1 << 18, 1 << 14


def main() -> NoReturn:
    settings, report, folder = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    linux = sys.platform.startswith("linux")
    libc: Any = ctypes.CDLL(None, use_errno=True) if linux else None
    become_nobody(folder)
    if linux:
        libc.prctl(DUMPABLE, 1, 0, 0, 0)
        libc.prctl(PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    walled = linux and settings["namespaces"] and enter_namespaces(libc)
    os.chdir("/")
    if not walled:
        begin(libc, settings, report, folder, walled=False)
    first = os.fork()
    if first == 0:  # process 1 of its own world: when it ends, all in that world end
        libc.prctl(PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        made = make_read_only(libc, folder, settings)
        second = os.fork()
        if second == 0:
            drop_capabilities(libc)
            begin(libc, settings, report, folder, walled=made)
        let_go(report)
        leave_as(wait_for(second))
    let_go(report)
    leave_as(wait_for(first))


def begin(
    libc: Any, settings: dict[str, Any], report: int, folder: str, *, walled: bool
) -> NoReturn:
    """Set the last limits, say how high the walls are, and run the code. It does not return."""
    confine(settings, folder)
    filtered = libc is not None and filter_system_calls(libc)
    if libc is None:
        refuse_by_hook()
    os.write(report, b"1" if walled and filtered else b"2" if walled or filtered else b"0")
    os.close(report)
    run()


def let_go(report: int) -> None:
    """The parent waits for the other ends of these."""
    for descriptor in (0, 1, 2, report):
        os.close(descriptor)


def become_nobody(folder: str) -> None:
    """Root gives up being root, where an ordinary user may still read Python's own files."""
    if os.geteuid() != 0 or not all(
        os.stat(part).st_mode & 0o005 == 0o005 for part in parents(os.path.dirname(os.__file__))
    ):
        return
    os.chown(folder, NOBODY, NOBODY)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def parents(path: str) -> Iterator[str]:
    while path != os.path.dirname(path):
        yield path
        path = os.path.dirname(path)


def enter_namespaces(libc: Any) -> bool:
    """A world without network, other processes or a way out; False where the system forbids it."""
    user, group = os.getuid(), os.getgid()
    if libc.unshare(NEWUSER | NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS) != 0:
        return False
    try:
        for name, content in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as stream:
                stream.write(content)
    except OSError:
        pass  # the world is there all the same; its user is nobody
    return True


def make_read_only(libc: Any, folder: str, settings: dict[str, Any]) -> bool:
    """Every file read-only but for a small memory disk at the work folder; whether all of that holds."""
    attributes = (ctypes.c_uint64 * 4)(RDONLY, 0, 0, 0)
    held = libc.mount(None, b"/", None, REC | PRIVATE, None) == 0
    held &= (
        libc.syscall(MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, ctypes.sizeof(attributes))
        == 0
    )  # fmt: skip
    size = f"size={settings['file_bytes']},mode=0777,nr_inodes=1024".encode()
    held &= libc.mount(b"tmpfs", folder.encode(), b"tmpfs", NOSUID | NODEV, size) == 0
    if libc.mount(b"proc", b"/proc", b"proc", NOSUID | NODEV | NOEXEC, None) != 0:
        libc.mount(b"tmpfs", b"/proc", b"tmpfs", NOSUID | NODEV, b"size=4096")
    return bool(held)


def drop_capabilities(libc: Any) -> None:
    """Nothing that this process starts may mount, trace or change what has been set here."""
    for capability in range(64):
        libc.prctl(CAPBSET_DROP, capability, 0, 0, 0)
    libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    libc.capset(header, (ctypes.c_uint32 * 6)())


def confine(settings: dict[str, Any], folder: str) -> None:
    os.chdir(folder)
    limits = {
        "RLIMIT_CPU": settings["cpu_seconds"],
        "RLIMIT_AS": settings["memory_bytes"],
        "RLIMIT_FSIZE": settings["file_bytes"],
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
        "RLIMIT_NPROC": 0,
    }
    for name, limit in limits.items():
        which = getattr(resource, name, None)
        if which is not None:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(which, (limit, limit))


def filter_system_calls(libc: Any) -> bool:
    """No new process or thread, no socket, no tracing: the kernel answers EPERM to these calls.

    The filter is a small program of the kernel's packet language (seccomp(2)): look at the machine,
    then at the number of the call. False where the machine is not known or the kernel refuses.
    """
    calls = {
        # clone, fork, vfork, clone3, socket, io_uring_setup, ptrace, unshare, setns
        "x86_64": (0xC000003E, (56, 57, 58, 435, 41, 425, 101, 272, 308)),
        "aarch64": (0xC00000B7, (220, 435, 198, 425, 117, 97, 268)),
    }
    if os.uname().machine not in calls:
        return False
    machine, refused = calls[os.uname().machine]
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    refuse, allow, kill = 0x00050001, 0x7FFF0000, 0x80000000
    program = [(load, 0, 0, 4), (equal, 1, 0, machine), (answer, 0, 0, kill), (load, 0, 0, 0)]
    rest = [(at_least, 0x40000000), *((equal, number) for number in refused)]
    program += [(code, len(rest) - place, 0, k) for place, (code, k) in enumerate(rest)]
    program += [(answer, 0, 0, allow), (answer, 0, 0, refuse)]
    packed = b"".join(struct.pack("HBBI", *line) for line in program)
    lines = ctypes.create_string_buffer(packed, len(packed))
    head = struct.pack("HxxxxxxP", len(program), ctypes.addressof(lines))
    libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(libc.prctl(SECCOMP, 2, ctypes.c_char_p(head), 0, 0) == 0)


def refuse_by_hook() -> None:
    """Where there is no filter: a politeness that honest code respects, and hostile code can undo."""
    refused = ("socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn", "os.system")

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(refused):
            raise PermissionError(f"{event} is not allowed here")

    sys.addaudithook(refuse)


def run() -> NoReturn:
    """The parts one after another in one namespace; then, after the last, the word that says so.

    The word is still in the pipe while the code runs: it is in no variable that the code could read.
    """
    status = 1
    try:
        count = int.from_bytes(read_exactly(4), "little")
        names = {"__name__": "__main__", "__builtins__": __builtins__}
        sys.argv = ["main.py"]
        for number in range(count):
            size = int.from_bytes(read_exactly(4), "little")
            source = read_exactly(size).decode()
            exec(compile(source, f"<part {number + 1}>", "exec", dont_inherit=True), names)
        sys.stdout.flush()
        os.write(1, read_exactly(32))
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        with contextlib.suppress(BaseException):
            sys.stderr.flush()
        os._exit(status & 0xFF)


def read_exactly(size: int) -> bytes:
    parts = []
    while size:
        part = os.read(0, size)
        if not part:
            raise EOFError("the code was cut short")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def wait_for(child: int) -> int:
    """Reap whatever ends, until `child` has."""
    while True:
        ended, status = os.wait()
        if ended == child:
            return status


def leave_as(status: int) -> NoReturn:
    """End as the child ended, a signal included (process 1 cannot die of one, hence 128 + n)."""
    os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


if __name__ == "__main__":
    main()
