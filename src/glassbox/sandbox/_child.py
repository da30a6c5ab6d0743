"""The program that `python.py` starts: it walls itself in, then runs the code it is sent.

It is run by `python -I -S`, alone, and may import nothing but the standard library and `_walls.py`.
Arguments: the settings as JSON, the number of a pipe to report on, and the work folder.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
from typing import Any, NoReturn

NOBODY = 65534
LIBRARY_BYTES = 64 << 30  # address space, little of it used


def load_walls() -> Any:
    """`_walls.py` beside this file, which `-I` does not find by its name."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_walls.py")
    spec = importlib.util.spec_from_file_location("_walls", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


walls = load_walls()


def main() -> NoReturn:
    settings, report, folder = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    join_control_groups(settings["control_groups"])
    os.umask(0o022)
    libc = walls.load_libc()
    world = False
    if libc is not None:
        libc.prctl(walls.DUMPABLE, 1, 0, 0, 0)
        walls.die_with_parent(libc)
        if settings["namespaces"]:
            world = walls.enter_namespaces(libc, NOBODY)
    if not world and os.geteuid() == 0:
        ask_for_copy(settings, report)
        give_up_root(libc, folder)
        if libc is not None and settings["namespaces"] and os.geteuid() != 0:
            libc.prctl(walls.DUMPABLE, 1, 0, 0, 0)
            world = walls.enter_namespaces(libc, NOBODY)
    if not world:
        begin(libc, settings, report, folder, world=False, root=False)
    first = os.fork()
    if first == 0:  # process 1 of its own world: when it ends, all in that world end
        walls.die_with_parent(libc)
        os.chdir("/")
        root = walls.make_root(
            libc, folder, settings["shown"], settings["hidden"], settings["links"],
            settings["file_bytes"],
        )  # fmt: skip
        if os.geteuid() == 0:
            if not root:
                ask_for_copy(settings, report)
            give_up_root(libc, folder)
        walls.drop_capabilities(libc)
        walls.die_with_parent(libc)
        second = os.fork()
        if second == 0:
            walls.die_with_parent(libc)
            begin(libc, settings, report, folder, world=True, root=root)
        let_go(report, settings)
        leave_as(wait_for(second))
    let_go(report, settings)
    leave_as(wait_for(first))


def begin(
    libc: Any, settings: dict[str, Any], report: int, folder: str, *, world: bool, root: bool
) -> NoReturn:
    """Raise the last walls, say which are missing, and run the code. It does not return."""
    os.chdir(folder)
    missing = [] if world and root else ["namespaces"]
    limit = {
        "RLIMIT_CPU": settings["cpu_seconds"],
        "RLIMIT_AS": settings["memory_bytes"],
        "RLIMIT_FSIZE": settings["file_bytes"],
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
        "RLIMIT_NPROC": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
    }
    if settings["packages"]:
        limit["RLIMIT_AS"] += LIBRARY_BYTES
        limit["RLIMIT_DATA"] = settings["memory_bytes"]
    if settings["copy"] and not root:
        use_copy(settings)
    sys.path += settings["packages"]
    if not walls.is_unprivileged():
        missing.append("unprivileged user")
    walls.set_limits(limit)
    if libc is None:
        refuse_by_hook()
        missing += ["files", "no capabilities", "system calls"]
    else:
        if not walls.drop_capabilities(libc):
            missing.append("no capabilities")
        readable = ["/"] if root else [source for source, _ in settings["shown"]]
        readable += [] if root or not settings["copy"] else [settings["copy"]]
        devices = [f"/dev/{name}" for name in walls.DEVICES]
        landlock = walls.restrict_files(libc, readable, [folder], devices)
        if not landlock:
            missing.append("landlock")
        if not landlock and not root:
            missing.append("files")
        if not walls.filter_system_calls(libc, own_files=root):
            missing.append("system calls")
    if not settings["control_groups"]:
        missing.append("control group")
    needed = {"unprivileged user", "files", "no capabilities", "system calls"}
    if settings["required"]:
        needed |= {"namespaces"}
    lacking = sorted(needed.intersection(missing))
    refused = bool(lacking) and (
        settings["required"] or (settings["as_root"] and not settings["weak_walls_as_root"])
    )
    say = {"missing": missing, "refused": lacking if refused else []}
    if refused:
        answer(report, say)
    os.write(report, json.dumps(say).encode())
    os.close(report)
    run(settings["channel"])


def answer(report: int, say: dict[str, Any]) -> NoReturn:
    """Report, and end without running anything."""
    os.write(report, json.dumps(say).encode())
    os._exit(1)


def ask_for_copy(settings: dict[str, Any], report: int) -> None:
    """Ask the parent to start again with a readable copy of the standard library, where the original cannot be read."""
    if settings["private_python"] and not settings["copy"]:
        answer(report, {"copy": True})


def let_go(report: int, settings: dict[str, Any]) -> None:
    """Close these descriptors: the parent waits until their other ends are closed."""
    for descriptor in (0, 1, 2, report, *settings["channel"]):
        os.close(descriptor)


def join_control_groups(paths: list[str]) -> None:
    for path in paths:
        with contextlib.suppress(OSError), open(os.path.join(path, "cgroup.procs"), "w") as stream:
            stream.write("0")


def give_up_root(libc: Any, folder: str) -> None:
    with contextlib.suppress(OSError):
        os.chown(folder, NOBODY, NOBODY)
    walls.become(NOBODY)
    if libc is not None:
        walls.die_with_parent(libc)


def use_copy(settings: dict[str, Any]) -> None:
    """Import from the copy of the standard library, as the original cannot be read."""
    original, copy = settings["standard_library"], settings["copy"]
    packages = [getattr(module, "__path__", []) for module in sys.modules.values()]
    for paths in (sys.path, *packages):
        paths[:] = [copy + at[len(original) :] if at.startswith(original) else at for at in paths]
    sys.path_importer_cache.clear()


def refuse_by_hook() -> None:
    """Refuse calls by an audit hook where no seccomp filter is available; hostile code can bypass it."""
    refused = ("socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn", "os.system")

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(refused):
            raise PermissionError(f"{event} is not allowed here")

    sys.addaudithook(refuse)


def run(channel: list[int]) -> NoReturn:
    """Execute the parts in one namespace, and after the last write the completion word.

    What a part writes as this word itself says nothing more than that it wanted to be seen as done.
    """
    status = 1
    try:
        count = int.from_bytes(read_exactly(4), "little")
        names = {"__name__": "__main__", "__builtins__": __builtins__}
        if channel:
            names["CHANNEL"] = tuple(channel)
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
    """Reap all children that end, until `child` has."""
    while True:
        ended, status = os.wait()
        if ended == child:
            return status


def leave_as(status: int) -> NoReturn:
    """Exit with the child's status; a signal n becomes 128 + n, since process 1 cannot die of a signal."""
    os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


if __name__ == "__main__":
    main()
