"""Graceful interruption: Ctrl-C and SIGTERM stop a run after the current step."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

ECHO_SECONDS = 1.0
"""A second signal within this time is ignored as a duplicate: torchrun forwards the terminal's Ctrl-C."""


class Interrupts:
    """Turns the first SIGINT or SIGTERM into a request to stop after the current step.

    A second one, more than a second later, raises KeyboardInterrupt immediately.
    """

    def __init__(self) -> None:
        self.requested = False
        self._first_at = 0.0

    @contextlib.contextmanager
    def watching(self) -> Iterator[Interrupts]:
        """Handle signals while the block runs (only in the main thread, since others receive none)."""
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
        now = time.monotonic()
        if not self.requested:
            self.requested, self._first_at = True, now
            # not print: the signal may have come in the middle of one, whose buffer is then locked
            os.write(2, b"  stopping after this step; once more to stop at once\n")
        elif now - self._first_at > ECHO_SECONDS:
            raise KeyboardInterrupt
