"""Ctrl-C and SIGTERM as a request to stop at the next safe place, instead of in the middle of one."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

ECHO_SECONDS = 1.0
"""A second signal within this time is the first one again: torchrun passes a terminal's Ctrl-C on."""


class Interrupts:
    """Turns the first SIGINT or SIGTERM into a request to stop after the step under way.

    A second one, more than a second later, raises KeyboardInterrupt where it finds the program.
    """

    def __init__(self) -> None:
        self.requested = False
        self._first_at = 0.0

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
        now = time.monotonic()
        if not self.requested:
            self.requested, self._first_at = True, now
            # not print: the signal may have come in the middle of one, whose buffer is then locked
            os.write(2, b"  stopping after this step; once more to stop at once\n")
        elif now - self._first_at > ECHO_SECONDS:
            raise KeyboardInterrupt
