"""Giving memory back to the system after large requests."""

from __future__ import annotations

import asyncio
import ctypes
import sys

LARGE_BYTES = 1 << 20
_WAIT_SECONDS = 2.0


def trim() -> bool:
    """Have the C library return free pages; whether there was anything to call.

    glibc keeps what a thread has freed for that thread: after bodies of megabytes, read in several
    threads, tens of megabytes stay. Elsewhere nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return False
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if malloc_trim is None:
        return False
    malloc_trim(0)
    return True


class MemoryReturn:
    """Trims once after large requests, some time after the first of them has ended."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    def ended(self, size: int) -> None:
        """A request whose body had so many bytes has ended. To be called in the event loop."""
        if size >= LARGE_BYTES and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_WAIT_SECONDS, self._trim, loop)

    def _trim(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        loop.run_in_executor(None, trim)
