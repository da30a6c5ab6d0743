"""Restrictions that a process applies to itself: namespaces, capabilities, Landlock, seccomp, resource limits.

Standard library alone: `_child.py` runs as `python -I -S` and loads this file by its path.
Each function says by its return value whether its wall stands; none raises.

Sources: the manual pages seccomp(2), landlock(7), user_namespaces(7), pivot_root(2),
mount_setattr(2), capabilities(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Iterable, Sequence
from typing import Any

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
PDEATHSIG, DUMPABLE, SECCOMP, CAPBSET_DROP, NO_NEW_PRIVS, GET_NO_NEW_PRIVS = 1, 4, 22, 24, 38, 39
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
RDONLY, NOSUID, NODEV, BIND, MOVE, REC, PRIVATE = 1, 2, 4, 1 << 12, 1 << 13, 1 << 14, 1 << 18
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
DETACH = 2
DEVICES = ("null", "zero", "full", "random", "urandom")


def load_libc() -> Any:
    """The C library, or None where this is no Linux."""
    return ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None


def die_with_parent(libc: Any) -> None:
    """Have the kernel kill this process when its parent dies. A change of user id clears it: call it again after one."""
    libc.prctl(PDEATHSIG, 9, 0, 0, 0)


# ---- who the process is -------------------------------------------------------------------------


def become(user: int) -> bool:
    """Change from root to an unprivileged user id and the group of the same number, dropping all other groups."""
    try:
        os.setgroups([])
        os.setgid(user)  # of root: the real, the effective and the saved one
        os.setuid(user)
    except OSError:
        return False
    return is_unprivileged()


def is_unprivileged() -> bool:
    """Whether no id of this process is root's."""
    return 0 not in (os.getuid(), os.geteuid(), os.getgid(), os.getegid())


def drop_capabilities(libc: Any) -> bool:
    """Drop all capabilities, and set no_new_privs so that no program that is started can gain any."""
    for capability in range(64):
        libc.prctl(CAPBSET_DROP, capability, 0, 0, 0)
    libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    held = (ctypes.c_uint32 * 6)()
    libc.capset(header, held)
    libc.capget(header, held)
    return not any(held) and libc.prctl(GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1


# ---- a world of its own -------------------------------------------------------------------------


def enter_namespaces(libc: Any, user: int) -> bool:
    """Enter new namespaces for network, processes, IPC and mounts; the next child process runs inside them.

    Root does so by its own power; an ordinary user in a user namespace, in which it is `user`.
    """
    world = NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS
    if os.geteuid() == 0:
        return bool(libc.unshare(world) == 0)
    outside, group = os.getuid(), os.getgid()
    if libc.unshare(world | NEWUSER) != 0:
        return False
    try:
        for name, content in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {outside} 1"),
            ("gid_map", f"{user} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as stream:
                stream.write(content)
    except OSError:
        return False
    return True


def make_root(
    libc: Any,
    folder: str,
    shown: Iterable[tuple[str, str]],
    hidden: Iterable[str],
    links: Iterable[tuple[str, str]],
    file_bytes: int,
) -> bool:
    """A root of its own, read-only: what Python needs, five devices, and a small memory disk.

    folder:     an empty folder outside; inside, the memory disk lies at the same path.
    shown:      (path outside, path inside) of folders and files, mounted read-only.
    hidden:     folders inside over which an empty one is mounted.
    links:      (path inside, what it points to).
    file_bytes: the size of the memory disk.
    There is no /proc and no /sys.
    """

    def mount(
        source: str | None, target: str, kind: str | None, flags: int, data: str = ""
    ) -> None:
        names = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
        if libc.mount(*names, ctypes.c_ulong(flags), data.encode() or None) != 0:
            raise OSError(ctypes.get_errno(), f"mount at {target}")

    def make_read_only(target: str, *, devices: bool = False) -> None:
        wanted = RDONLY | NOSUID | (0 if devices else NODEV)
        attributes = (ctypes.c_uint64 * 4)(wanted, 0, 0, 0)
        size = ctypes.c_size_t(ctypes.sizeof(attributes))
        if libc.syscall(
            MOUNT_SETATTR, AT_FDCWD, os.fsencode(target), AT_RECURSIVE, attributes, size
        ):
            raise OSError(ctypes.get_errno(), f"read-only at {target}")

    new = folder
    try:
        mount(None, "/", None, REC | PRIVATE)
        mount("tmpfs", new, "tmpfs", NOSUID | NODEV, "size=1m,mode=0755,nr_inodes=4096")
        for name in DEVICES:
            place = f"{new}/dev/{name}"
            _make_place(place, folder=False)
            mount(f"/dev/{name}", place, None, BIND)
            make_read_only(place, devices=True)
        for path, target in links:
            os.makedirs(os.path.dirname(new + path), exist_ok=True)
            os.symlink(target, new + path)
        for source, target in shown:
            _make_place(new + target, folder=os.path.isdir(source))
            mount(source, new + target, None, BIND | REC)
            make_read_only(new + target)
        for target in hidden:
            mount("tmpfs", new + target, "tmpfs", RDONLY | NOSUID | NODEV, "size=4k,mode=0555")
        os.makedirs(new + folder, exist_ok=True)
        options = f"size={file_bytes},mode=0777,nr_inodes=1024"
        mount("tmpfs", new + folder, "tmpfs", NOSUID | NODEV, options)
        os.chdir(new)
        pivot = PIVOT_ROOT.get(os.uname().machine, -1)
        if libc.syscall(pivot, b".", b".") == 0:
            if libc.umount2(b".", DETACH) != 0:
                return False
        else:  # the root of an initial memory disk cannot be pivoted
            mount(".", "/", None, MOVE)
            os.chroot(".")
        os.chdir("/")
        attributes = (ctypes.c_uint64 * 4)(RDONLY | NOSUID | NODEV, 0, 0, 0)
        if libc.syscall(MOUNT_SETATTR, AT_FDCWD, b"/", 0, attributes, ctypes.c_size_t(32)) != 0:
            return False
    except OSError:
        libc.umount2(os.fsencode(folder), DETACH)
        return False
    return not os.path.exists("/proc/self") and not os.path.exists("/sys/kernel")


def _make_place(path: str, *, folder: bool) -> None:
    os.makedirs(path if folder else os.path.dirname(path), exist_ok=True)
    if not folder and not os.path.exists(path):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o444))


# ---- files, by Landlock -------------------------------------------------------------------------

_EXECUTE, _WRITE, _READ, _LIST = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15


def restrict_files(
    libc: Any, readable: Sequence[str], writable: Sequence[str], devices: Sequence[str] = ()
) -> bool:
    """Landlock: of all files these alone can be opened; no TCP, no signals or sockets outwards.

    It needs Linux 5.13; the kernel's version says which of its newer rights are there.
    """
    version = libc.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    files = (1 << 13) - 1
    files |= (1 << 13 if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    files |= _IOCTL if version >= 5 else 0
    network, scoped = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
    rules = struct.pack("QQQ", files, network, scoped)[: 8 * (1 + (version >= 4) + (version >= 6))]
    ruleset = libc.syscall(LANDLOCK_CREATE, rules, ctypes.c_size_t(len(rules)), 0)
    if ruleset < 0:
        return False
    everything = files & ~_EXECUTE & ~(0b11 << 10) & ~(1 << 6)  # no devices, no programs
    wanted = [
        *((path, _READ | _LIST) for path in readable),
        *((path, everything) for path in writable),
        *((path, _READ | _WRITE) for path in devices),
    ]
    held = True
    try:
        for path, rights in wanted:
            try:
                place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue  # what is not there needs no rule
            if not os.path.isdir(path):
                rights &= _READ | _WRITE | _TRUNCATE
            rule = struct.pack("=Qi", rights, place)
            held &= libc.syscall(LANDLOCK_ADD, ruleset, 1, rule, 0) == 0
            os.close(place)
        libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
        return held and libc.syscall(LANDLOCK_RESTRICT, ruleset, 0) == 0
    finally:
        os.close(ruleset)


# ---- system calls, by seccomp -------------------------------------------------------------------

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# What Python needs to compute, and to use files that the other walls let it open: (x86_64, aarch64).
# All else is answered with EPERM: new processes, threads and programs, sockets, mounts, tracing,
# signals to others, shared memory (SysV, memfd), message queues, keys, clocks, io_uring, bpf, perf.
_CALLS: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66),
    "pread64": (17, 67), "pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70),
    "close": (3, 57), "close_range": (436, 436), "open": (2, None), "openat": (257, 56),
    "openat2": (437, 437), "creat": (85, None), "lseek": (8, 62), "stat": (4, None),
    "fstat": (5, 80), "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getdents": (78, None),
    "getdents64": (217, 61), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50),
    "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "unlink": (87, None),
    "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36),
    "ftruncate": (77, 46), "fallocate": (285, 47), "fsync": (74, 82), "fdatasync": (75, 83),
    "copy_file_range": (326, 285), "sendfile": (40, 71), "umask": (95, 166),
    "statfs": (137, 43), "fstatfs": (138, 44), "flock": (73, 32), "fadvise64": (221, 223),
    "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "pipe": (22, None),
    "pipe2": (293, 59), "poll": (7, None), "ppoll": (271, 73), "select": (23, None),
    "pselect6": (270, 72), "epoll_create": (213, None), "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22),
    "epoll_pwait2": (441, 441), "eventfd": (284, None), "eventfd2": (290, 19),
    "timerfd_create": (283, 85), "timerfd_settime": (286, 86), "timerfd_gettime": (287, 87),
    "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226),
    "madvise": (28, 233), "brk": (12, 214), "msync": (26, 227), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133), "rt_sigtimedwait": (128, 137), "sigaltstack": (131, 132),
    "alarm": (37, None), "pause": (34, None), "getitimer": (36, 102), "setitimer": (38, 103),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, None),
    "times": (100, 153), "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178),
    "getpgrp": (111, None), "getpgid": (121, 155), "getsid": (124, 156), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "getresuid": (118, 148), "getresgid": (120, 150), "getgroups": (115, 158),
    "getrlimit": (97, 163), "getrusage": (98, 165), "getpriority": (140, 141),
    "sysinfo": (99, 179), "uname": (63, 160), "getcpu": (309, 168), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "getrandom": (318, 278), "membarrier": (324, 283),
    "rseq": (334, 293), "futex": (202, 98), "set_robust_list": (273, 99),
    "get_robust_list": (274, 100), "set_tid_address": (218, 96), "restart_syscall": (219, 128),
    "arch_prctl": (158, None), "exit": (60, 93), "exit_group": (231, 94), "wait4": (61, 260),
    "waitid": (247, 95), "recvfrom": (45, 207), "shutdown": (48, 210),
    "getsockname": (51, 204), "getsockopt": (55, 209),
}  # fmt: skip

# Allowed only where every file is one of the work folder's own: Landlock does not look at these.
_ATTRIBUTE_CALLS: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "utime": (132, None),
    "utimes": (235, None), "utimensat": (280, 88), "futimesat": (261, None), "truncate": (76, 45),
}  # fmt: skip

_LOAD, _EQUAL, _ANSWER = 0x20, 0x15, 0x06
_REFUSE, _ALLOW, _KILL = 0x00050001, 0x7FFF0000, 0x80000000


def filter_system_calls(libc: Any, *, own_files: bool) -> bool:
    """Only the calls listed above, and a few of which an argument must be one of a few values.

    The filter is a small program of the kernel's packet language: look at the machine, then at
    the number of the call. False where the machine is not known or the kernel refuses.
    """
    if os.uname().machine not in _MACHINES or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    column, machine = _MACHINES[os.uname().machine]
    own = os.getpid()
    # the call, the argument that is looked at (its lower half), what it may be
    limited: dict[str, tuple[tuple[int | None, int | None], int, tuple[int, ...]]] = {
        "kill": ((62, 129), 0, (own,)),
        "tkill": ((200, 130), 0, (own,)),
        "tgkill": ((234, 131), 0, (own,)),
        "prlimit64": ((302, 261), 0, (0, own)),
        "prctl": ((157, 167), 0, (15, 16, 0x53564D41)),  # names of the thread and of memory
        # duplicates, flags, locks: no owner who would get signals, no longer pipes
        "fcntl": ((72, 25), 1, (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)),
        "ioctl": ((16, 29), 1, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)),
        "socketpair": ((53, 199), 0, (1,)),  # asyncio's pipe to itself
    }
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, machine), (_ANSWER, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    for numbers in [*_CALLS.values(), *(_ATTRIBUTE_CALLS.values() if own_files else ())]:
        if numbers[column] is not None:
            program += [(_EQUAL, 0, 1, numbers[column] or 0), (_ANSWER, 0, 0, _ALLOW)]
    for numbers, argument, values in limited.values():
        tests = [(_EQUAL, len(values) - 1 - n, int(n == len(values) - 1), value)
                 for n, value in enumerate(values)]  # fmt: skip
        block = [(_LOAD, 0, 0, 16 + 8 * argument), *tests, (_ANSWER, 0, 0, _ALLOW),
                 (_ANSWER, 0, 0, _REFUSE)]  # fmt: skip
        program += [(_EQUAL, 0, len(block), numbers[column] or 0), *block]
    # sendto: on a pair of sockets, never with an address
    halves = [(_LOAD, 0, 0, 48), (_EQUAL, 0, 3, 0), (_LOAD, 0, 0, 52), (_EQUAL, 0, 1, 0),
              (_ANSWER, 0, 0, _ALLOW), (_ANSWER, 0, 0, _REFUSE)]  # fmt: skip
    program += [(_EQUAL, 0, len(halves), (44, 206)[column]), *halves, (_ANSWER, 0, 0, _REFUSE)]
    packed = b"".join(struct.pack("HBBI", *line) for line in program)
    lines = ctypes.create_string_buffer(packed, len(packed))
    head = struct.pack("HxxxxxxP", len(program), ctypes.addressof(lines))
    libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(libc.prctl(SECCOMP, 2, ctypes.c_char_p(head), 0, 0) == 0)


# ---- limits -------------------------------------------------------------------------------------


def set_limits(limits: dict[str, int]) -> None:
    """Limits by the names of `resource`, hard as well as soft; those unknown here are left out."""
    import resource

    for name, limit in limits.items():
        which = getattr(resource, name, None)
        if which is not None:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(which, (limit, limit))
