"""Memory and swap still available to the process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def available_memory(root: Path = Path("/")) -> int:
    """Available bytes under the limits of the system and of the process's control groups; 0 if unknown.

    The least of: MemAvailable of the system; limit minus use, without file pages that can be dropped,
    of each control group that the process is in, whichever version, up to the outermost.
    root: where /proc and /sys are looked for.
    """
    left = [
        1024 * int(line.split()[1])
        for line in _lines(root / "proc/meminfo")
        if line.startswith("MemAvailable:")
    ]
    for folder, names in _groups(root):
        limit, used = (_number(folder / name) for name in names[:2])
        if limit is not None and used is not None and limit < 1 << 60:
            left.append(limit - used + _droppable(folder, names[2]))
    return max(0, min(left, default=0))


def free_swap(root: Path = Path("/")) -> int:
    """Free swap space in bytes; 0 if unknown."""
    lines = _lines(root / "proc/meminfo")
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("SwapFree:"))


_SECOND = ("memory.max", "memory.current", "inactive_file")
_FIRST = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _groups(root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The folders of the process's control groups, and the names of their files."""
    for line in _lines(root / "proc/self/cgroup") or ["0::/", "0:memory:/"]:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        names, top = (_SECOND, root / "sys/fs/cgroup")
        if controllers:
            if "memory" not in controllers.split(","):
                continue
            names, top = (_FIRST, root / "sys/fs/cgroup/memory")
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            yield top.joinpath(*parts[:depth]), names


def _droppable(folder: Path, name: str) -> int:
    found = [line.split()[1] for line in _lines(folder / "memory.stat") if line.split()[0] == name]
    return int(found[0]) if found else 0


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except OSError:
        return []
