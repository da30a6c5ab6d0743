"""Runs code in the sandbox as somebody else: `python sandbox_driver.py WHO`, a request a line.

WHO is `own` (whoever starts it), `private` (root, with Python below a folder that root alone may
enter), `user` (an ordinary user without rights), `no_namespaces` (root whom the system forbids
namespaces, as containers do) or `no_walls` (Landlock is missing, too). All but the first need root:
they make a mount namespace in which Python lies so, or refuse themselves system calls, and change
nothing outside.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import struct
import sys
import tempfile
from pathlib import Path

USER = 54321
NEWNS, BIND, MOVE, REC, PRIVATE = 0x20000, 1 << 12, 1 << 13, 1 << 14, 1 << 18
libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    names = [None if text is None else text.encode() for text in (source, target, kind)]
    if libc.mount(*names, ctypes.c_ulong(flags), data and data.encode()) != 0:
        raise OSError(ctypes.get_errno(), f"mount of {source} at {target}")


def place_below(folder: str, path: str, mode: str) -> None:
    """Cover a folder with an empty one of that mode, in which `path` alone is as before."""
    aside = tempfile.mkdtemp()
    mount(path, aside, None, BIND | REC)
    mount("tmpfs", folder, "tmpfs", 0, f"mode={mode}")
    os.makedirs(path, exist_ok=True)
    mount(aside, path, None, MOVE)
    os.rmdir(aside)


def closed_ancestor(path: str) -> str | None:
    closed = [str(p) for p in Path(path).parents if not os.stat(p).st_mode & 0o001]
    return closed[-1] if closed else None


def refuse_calls(*numbers: int) -> None:
    """As a kernel without these calls would; inherited by all that this process starts."""
    program = [(0x20, 0, 0, 0)]
    for number in numbers:
        program += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050001)]
    packed = b"".join(struct.pack("HBBI", *line) for line in [*program, (0x06, 0, 0, 0x7FFF0000)])
    lines = ctypes.create_string_buffer(packed, len(packed))
    head = struct.pack("HxxxxxxP", len(packed) // 8, ctypes.addressof(lines))
    if libc.prctl(22, 2, ctypes.c_char_p(head), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def become(who: str) -> None:
    if who == "own":
        return
    if who in ("no_namespaces", "no_walls"):
        unshare = 97 if platform.machine() == "aarch64" else 272
        refuse_calls(unshare, *([444] if who == "no_walls" else []))
        return
    if libc.unshare(NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", "/", None, REC | PRIVATE)
    os.umask(0o022)
    closed = closed_ancestor(sys.base_prefix)
    if who == "private" and closed is None:
        place_below(str(Path(sys.base_prefix).parent), sys.base_prefix, "0700")
    if who == "user":
        if closed is not None:
            place_below(closed, sys.base_prefix, "0755")
        os.setgroups([])
        os.setgid(USER)
        os.setuid(USER)


def main() -> None:
    from glassbox.core.errors import UserError
    from glassbox.sandbox.python import SandboxLimits, run_python

    become(sys.argv[1])
    print(json.dumps({"uid": os.getuid()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            result = run_python(request["code"], SandboxLimits(**request["limits"]))
            answer = {**vars(result)}
        except UserError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
