"""Ctrl-C and SIGTERM as a request to stop at the next safe place, instead of in the middle of one."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator


class Interrupts:
    """Turns the first SIGINT or SIGTERM into a request to stop after the step under way."""

    def __init__(self) -> None:
        self.requested = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[Interrupts]:
        """Listen for signals while the block runs (in the main thread only: others get none)."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        old = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("  stopping after this step; once more to stop at once", file=sys.stderr, flush=True)
