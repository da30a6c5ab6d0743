"""Free memory: the least that the system and any control group has left."""

from __future__ import annotations

from pathlib import Path

import pytest

from glassbox.core.memory import available_memory


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


SYSTEM = {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:  7 kB\n"}
GROUP = "sys/fs/cgroup/"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 0),
        (SYSTEM, 7168),
        ({GROUP + "memory.max": "max", GROUP + "memory.current": "5"}, 0),
        (SYSTEM | {GROUP + "memory.max": "max", GROUP + "memory.current": "5"}, 7168),
        (SYSTEM | {GROUP + "memory.max": "4000", GROUP + "memory.current": "5"}, 3995),
        # file pages that can be dropped are no use of memory
        (
            SYSTEM
            | {
                GROUP + "memory.max": "4000",
                GROUP + "memory.current": "3000",
                GROUP + "memory.stat": "anon 100\ninactive_file 2500\n",
            },
            3500,
        ),
        # the group that the process is in, and one around it
        (
            SYSTEM
            | {
                "proc/self/cgroup": "0::/a/b\n",
                GROUP + "a/b/memory.max": "max",
                GROUP + "a/b/memory.current": "10",
                GROUP + "a/memory.max": "2000",
                GROUP + "a/memory.current": "500",
            },
            1500,
        ),
        # the first version of control groups, without and with a limit
        (
            SYSTEM
            | {
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/x\n",
                GROUP + "memory/x/memory.limit_in_bytes": "9223372036854771712",
                GROUP + "memory/x/memory.usage_in_bytes": "1",
            },
            7168,
        ),
        (
            SYSTEM
            | {
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/x\n",
                GROUP + "memory/x/memory.limit_in_bytes": "1000",
                GROUP + "memory/x/memory.usage_in_bytes": "900",
                GROUP + "memory/x/memory.stat": "total_inactive_file 50\n",
            },
            150,
        ),
        (SYSTEM | {GROUP + "memory.max": "4", GROUP + "memory.current": "5"}, 0),
    ],
)
def test_the_least_counts(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    write(tmp_path, files)
    assert available_memory(tmp_path) == expected


def test_this_machine_has_some() -> None:
    assert available_memory() >= 0
