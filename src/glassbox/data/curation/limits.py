"""What one record of a source may cost: bytes, seconds and memory. What costs more is counted, never fatal."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import AnyStr

RECORD_BYTES = 16 << 20
RECORD_SECONDS = 20.0
TOO_LARGE = "too large"
TOO_SLOW = "over the time limit"


@dataclass(frozen=True)
class Limits:
    """The largest record in bytes of UTF-8, and the longest time that one step may take for it."""

    record_bytes: int = RECORD_BYTES
    record_seconds: float = RECORD_SECONDS


@dataclass(frozen=True)
class TooLarge:
    """A record that was passed over because of its size; its text was never held."""

    id: str
    detail: str


class TooSlow(BaseException):
    """Raised inside a step that exceeds its time; no `except Exception` of the step holds it up."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """A function that makes context managers; what runs longer in one of them gets TooSlow raised.

    By SIGALRM, which interrupts Python code and regular expressions, but no other call into C code
    (HTML is parsed in a process of its own for that reason). Off the main thread and on Windows
    there is no such signal, and no limit. The handler and timer found are put back at the end.
    """
    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield contextlib.nullcontext
        return
    armed = False

    def ring(number: int, frame: FrameType | None) -> None:
        if armed:
            raise TooSlow

    @contextlib.contextmanager
    def limited() -> Iterator[None]:
        nonlocal armed
        armed = True
        # again every half second: one exception may be lost in a destructor
        signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)
        try:
            yield
        finally:
            armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield limited
    finally:
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def memory_limit(extra_bytes: int) -> Iterator[None]:
    """At most so much more address space inside the block; beyond it, MemoryError. Linux alone."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as stream:
            used = int(stream.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = used + extra_bytes
    if soft != resource.RLIM_INFINITY and soft <= wanted:
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def bound_lines(
    blocks: Iterable[AnyStr], largest: int, newline: AnyStr, quote: AnyStr | None = None
) -> Iterator[AnyStr]:
    r"""Blocks as they are, but of a line that goes on through many no more than `largest` + 1 characters.

    So a reader that holds one line holds no more than a block beyond `largest`, and sees by its
    length that the line is too long. Line ends stay, and so do the numbers of lines; of an odd number of
    `quote` in what is left out, one stays, so that a reader still knows what is quoted.

    >>> list(bound_lines(["ab", "cdef", "g\nh"], 3, "\n"))
    ['ab', 'cd', '\nh']
    """
    length = 0
    for block in blocks:
        first = block.find(newline)
        head = len(block) if first < 0 else first
        room = max(0, largest + 1 - length)
        kept = block
        if head > room:
            odd = quote is not None and block.count(quote, room, head) % 2
            kept = block[:room] + (quote if odd and quote else newline[:0]) + block[head:]
        length = length + head if first < 0 else len(block) - 1 - block.rfind(newline)
        if kept:
            yield kept
