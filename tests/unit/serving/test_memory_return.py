"""Free memory goes back to the system after large requests, once for several of them."""

from __future__ import annotations

import asyncio
import platform

import pytest

from glassbox.serving import memory
from glassbox.serving.memory import LARGE_BYTES, MemoryReturn, trim


@pytest.mark.parametrize(
    ("sizes", "expected"), [([10, LARGE_BYTES - 1], 0), ([LARGE_BYTES] * 5, 1)]
)
def test_large_requests_are_followed_by_one_trim(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], expected: int
) -> None:
    trimmed: list[int] = []
    monkeypatch.setattr(memory, "trim", lambda: trimmed.append(1))
    monkeypatch.setattr(memory, "_WAIT_SECONDS", 0.01)

    async def end_all() -> None:
        returns = MemoryReturn()
        for size in sizes:
            returns.ended(size)
        await asyncio.sleep(0.2)

    asyncio.run(end_all())
    assert len(trimmed) == expected


def test_trim_knows_whether_it_can() -> None:
    assert trim() == (platform.libc_ver()[0] == "glibc")
