"""The engine thread: requests wait in line, and those being answered take turns, a token each.

The model is only ever called from here. A request with several choices makes them one after the
other, so each request holds at most one cache, and one that asks for much takes no more of a round
than one that asks for little.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from glassbox.core.errors import UserError
from glassbox.inference.engine import FinishReason, TokenEvent

_log = logging.getLogger("glassbox.serving")


@dataclass(frozen=True)
class Delta:
    """One token of choice `index`: what it adds to the text and, with its last, why it ended."""

    index: int
    text: str
    finish_reason: FinishReason | None


@dataclass(frozen=True)
class Failure:
    """The request came to grief; the message is fit for its caller."""

    message: str
    status: int = 500


@dataclass(frozen=True)
class End:
    """Every choice is finished."""


Item = Delta | Failure | End


class QueueFull(Exception):
    """As many requests as allowed are waiting already."""


class Closed(Exception):
    """The engine thread has ended, or is about to."""


class Job:
    """One request: the streams of its choices, and where their tokens go.

    `deliver` is called in the engine thread and must not block. After an `End` or a `Failure`
    nothing more comes.
    """

    def __init__(
        self, streams: Iterable[Iterator[TokenEvent]], deliver: Callable[[Item], None]
    ) -> None:
        self.streams = deque(enumerate(streams))
        self.deliver = deliver
        self.cancelled = False

    def release(self) -> None:
        """Close every stream, and so free its cache."""
        while self.streams:
            _, stream = self.streams.popleft()
            close = getattr(stream, "close", None)
            if close is not None:
                close()


class Worker:
    """Runs jobs in a thread of its own: at most `max_running` at a time, `max_queue` more waiting."""

    def __init__(self, *, max_running: int, max_queue: int) -> None:
        self.max_running = max_running
        self.max_queue = max_queue
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin; to be called once."""
        self._thread.start()

    def close(self) -> None:
        """Drop what is left, end the thread after the step under way, and wait for that."""
        with self._wake:
            self._closing = True
            for job in (*self._waiting, *self._running):
                job.cancelled = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether requests can still be answered."""
        return self._thread.is_alive() and not self._closing

    @property
    def num_running(self) -> int:
        """Requests that hold a cache, or are next to."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests in line."""
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        """Put a job in line. Raises QueueFull, and Closed once the thread is ending."""
        with self._wake:
            if not self.alive:
                raise Closed
            if len(self._running) + len(self._waiting) >= self.max_running + self.max_queue:
                raise QueueFull
            self._waiting.append(job)
            self._wake.notify()

    def abort(self, job: Job) -> None:
        """Give up a job, at any time and from any thread; one that has ended is left alone.

        Its place in line is free at once, its cache after the step under way.
        """
        with self._wake:
            job.cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)

    def _run(self) -> None:
        while self._admit():
            for job in list(self._running):
                last_word = self._advance(job)
                if last_word is not None:
                    with self._wake:  # before the word: its hearer may come back at once
                        self._running.remove(job)
                    _tell(job, last_word)

    def _admit(self) -> bool:
        """Wait for work and fill the free places; False when it is time to go."""
        with self._wake:
            while not (self._running or self._waiting or self._closing):
                self._wake.wait()
            while self._waiting and len(self._running) < self.max_running:
                self._running.append(self._waiting.popleft())
            return bool(self._running)

    @staticmethod
    def _advance(job: Job) -> Item | None:
        """Make one token of a job; its last word when it is over, whatever became of it."""
        try:
            if job.cancelled:
                job.release()
                return End()
            index, stream = job.streams[0]
            event = next(stream)
            if event.finish_reason is not None:
                job.streams.popleft()
            job.deliver(Delta(index, event.text or "", event.finish_reason))
            return None if job.streams else End()
        except Exception as error:
            return _give_up(job, error)


def _give_up(job: Job, error: Exception) -> Failure:
    """End a job by an exception that must not reach the others."""
    _log.error("a request failed", exc_info=error)
    try:
        job.release()
    except Exception as again:
        _log.error("a failed request could not be cleared away", exc_info=again)
    known = isinstance(error, UserError)
    return Failure(str(error) if known else "the server failed on this request; its log says how")


def _tell(job: Job, item: Item) -> None:
    try:
        job.deliver(item)
    except Exception as error:
        _log.error("nobody could be told how a request ended", exc_info=error)
