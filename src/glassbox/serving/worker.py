"""The engine thread: requests are queued, and all running ones share the engine's steps.

The model is only ever called from here. Between two steps one piece of a request's own computation
(prompt scores, embeddings) is done, so that none delays the others for long.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from glassbox.core.errors import UserError
from glassbox.inference.constraints.specs import Constraint
from glassbox.inference.plan import QueueFull
from glassbox.inference.requests import EngineStats, TokenEvent
from glassbox.inference.sampling.params import SamplingParams

_log = logging.getLogger("glassbox.serving")
_OUR_FAULT = "the server failed on this request; its log says how"


class Steps(Protocol):
    """What the server needs of an engine."""

    @property
    def context_length(self) -> int:
        """The most tokens of prompt and answer together."""

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do."""

    def add(
        self,
        prompt: Sequence[int],
        params: SamplingParams | None = None,
        *,
        tenant: str = "",
        adapter: str | None = None,
    ) -> int:
        """Queue a request; its number. Prefixes are never shared between tenants."""

    def compile(self, constraint: Constraint) -> object:
        """Compile a constraint; raises UserError for one that is not supported."""

    def step(self) -> list[TokenEvent]:
        """One step of all running sequences."""

    def cancel(self, request_id: int) -> None:
        """Cancel a request and free its blocks."""

    def stats(self) -> EngineStats:
        """Counts and cache use."""


class Meter(Protocol):
    """Records tokens and latencies."""

    def token(self, *, begun: float, previous: float | None, now: float) -> None:
        """A token was made: of a request that came at `begun`, after the one at `previous`."""


class _NoMeter:
    def token(self, *, begun: float, previous: float | None, now: float) -> None:
        pass


@dataclass(frozen=True)
class Token:
    """One token of choice `index`."""

    index: int
    event: TokenEvent


@dataclass(frozen=True)
class Result:
    """A value of a request's own computation."""

    value: Any


@dataclass(frozen=True)
class Failure:
    """The request failed; the message may be shown to the client."""

    message: str
    status: int = 500
    code: str | None = None


@dataclass(frozen=True)
class End:
    """Every choice is finished."""


Item = Token | Result | Failure | End


class Closed(Exception):
    """The engine thread has ended or is ending."""


@dataclass(frozen=True)
class Caller:
    """The id of a request and its tenant: prefixes are not shared between tenants, so that timing
    tells nothing about another's requests."""

    request_id: str = ""
    tenant: str = ""


class Job:
    """A request: prompts to generate from, work to do first, and the callback for results.

    prompts: ids and settings; the choices are numbered through, each prompt's n together.
    adapter: the name of an adapter; None for the base model.
    work: what to do first; each of its values but None is delivered as a `Result`.
    `deliver` is called in the engine thread and must not block. After an `End` or a `Failure`
    nothing more comes.
    """

    def __init__(
        self,
        prompts: Sequence[tuple[Sequence[int], SamplingParams]],
        deliver: Callable[[Item], None],
        *,
        work: Iterator[Any] | None = None,
        caller: Caller | None = None,
        adapter: str | None = None,
    ) -> None:
        self.prompts = prompts
        self.adapter = adapter
        self.deliver = deliver
        self.work = work
        self.caller = Caller() if caller is None else caller
        self.begun = time.monotonic()
        self.cancelled = False
        self.num_choices = sum(params.n for _, params in prompts)
        self.unfinished = self.num_choices
        self.numbers: list[int] = []  # the engine's
        self.latest: dict[int, float] = {}  # when each choice's last token came

    @property
    def size(self) -> int:
        """Number of sequences it runs; at least one."""
        return max(1, self.num_choices)


class Worker:
    """Runs jobs in a thread of its own.

    A job begins while fewer than `max_running` choices are being made; `max_queue` jobs more wait.
    """

    def __init__(
        self, engine: Steps, *, max_running: int, max_queue: int, meter: Meter | None = None
    ) -> None:
        self.engine = engine
        self.max_running = max_running
        self.max_queue = max_queue
        self._meter = _NoMeter() if meter is None else meter
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._owners: dict[int, tuple[Job, int]] = {}  # engine's number -> job, its first choice
        self._turn = 0
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread; call once."""
        self._thread.start()

    def close(self) -> None:
        """Cancel all jobs, end the thread after the current step, and wait for it."""
        with self._wake:
            self._closing = True
            for job in (*self._waiting, *self._running):
                job.cancelled = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether requests are accepted."""
        return self._thread.is_alive() and not self._closing

    @property
    def num_running(self) -> int:
        """Running requests."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Queued requests."""
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        """Queue a job. Raises QueueFull, and Closed once the thread is ending."""
        with self._wake:
            if not self.alive:
                raise Closed
            if len(self._waiting) >= self.max_queue + self._num_next():
                raise QueueFull
            self._waiting.append(job)
            self._wake.notify()

    def abort(self, job: Job) -> None:
        """Cancel a job, from any thread; no effect on one that has ended.

        Its place in the queue is free at once, its cache blocks after the current step.
        """
        with self._wake:
            job.cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)

    def _num_next(self) -> int:
        """How many queued jobs can start now."""
        room = self.max_running - sum(job.size for job in self._running)
        count = 0
        for job in self._waiting:
            if room <= 0:
                return count
            room -= job.size
            count += 1
        return count + (room > 0)

    def _run(self) -> None:
        try:
            while self._admit():
                for job in [job for job in self._running if job.cancelled]:
                    self._finish(job, End())
                self._work()
                self._step()
        finally:  # nobody is left waiting, whatever ended the thread
            with self._wake:
                self._closing = True
                left = [*self._running, *self._waiting]
                self._waiting.clear()
            for job in left:
                self._finish(job, Failure("the engine has stopped", 503, "engine_stopped"))

    def _admit(self) -> bool:
        """Wait for work and start queued jobs; False when closing."""
        with self._wake:
            while not (self._running or self._waiting or self._closing):
                self._wake.wait()
            begun = []
            while self._waiting and sum(job.size for job in self._running) < self.max_running:
                begun.append(self._waiting.popleft())
                self._running.append(begun[-1])
            going_on = bool(self._running)
        for job in begun:
            if job.work is None and not job.cancelled:
                self._add(job)
        return going_on

    def _add(self, job: Job) -> None:
        """Submit a job's prompts to the engine."""
        if not job.prompts:
            self._finish(job, End())
            return
        first = 0
        try:
            for prompt, params in job.prompts:
                number = self.engine.add(
                    prompt, params, tenant=job.caller.tenant, adapter=job.adapter
                )
                job.numbers.append(number)
                self._owners[number] = (job, first)
                first += params.n
        except Exception as error:
            self._fail(job, error)

    def _work(self) -> None:
        """One piece of one job's own computation, round-robin."""
        jobs = [job for job in self._running if job.work is not None]
        if not jobs:
            return
        job = jobs[self._turn % len(jobs)]
        self._turn += 1
        assert job.work is not None
        try:
            value = next(job.work)
            if value is not None:
                job.deliver(Result(value))
        except StopIteration:
            job.work = None
            self._add(job)
        except Exception as error:
            self._fail(job, error)

    def _step(self) -> None:
        """One step of the engine; deliver its tokens."""
        generating = [job for job in self._running if job.work is None]
        if not generating:
            return
        try:
            assert self.engine.has_work, "requests are unfinished but the engine is idle"
            events = self.engine.step()
        except Exception as error:  # whose fault it was cannot be told: the next begin afresh
            for job in generating:
                self._fail(job, error)
            return
        now = time.monotonic()
        for event in events:
            owner = self._owners.get(event.request_id)
            if owner is not None:
                self._deliver(owner[0], owner[1] + event.sample_index, event, now)

    def _deliver(self, job: Job, index: int, event: TokenEvent, now: float) -> None:
        if event.finish_reason == "error":
            reason = event.error or _OUR_FAULT
            _log.error("a request failed: %s", reason, extra={"request_id": job.caller.request_id})
            self._finish(job, Failure(reason))
            return
        self._meter.token(begun=job.begun, previous=job.latest.get(index), now=now)
        job.latest[index] = now
        try:
            job.deliver(Token(index, event))
        except Exception as error:
            self._fail(job, error)
            return
        if event.finish_reason is not None:
            job.unfinished -= 1
            if job.unfinished == 0:
                self._finish(job, End())

    def _fail(self, job: Job, error: Exception) -> None:
        """End a job by an exception without affecting others."""
        if isinstance(error, UserError):
            self._finish(job, Failure(str(error), 400, "invalid_parameter"))
            return
        _log.error("a request failed", exc_info=error, extra={"request_id": job.caller.request_id})
        self._finish(job, Failure(_OUR_FAULT))

    def _finish(self, job: Job, last_word: Item) -> None:
        """Free all that a job holds, then deliver its last item: the client may send its next request at once."""
        for number in job.numbers:
            self._owners.pop(number, None)
            try:
                self.engine.cancel(number)
            except Exception as error:
                _log.error("a request could not be cleared away", exc_info=error)
        close = getattr(job.work, "close", None)
        if close is not None:
            close()
        with self._wake:
            if job in self._running:
                self._running.remove(job)
        try:
            job.deliver(last_word)
        except Exception as error:
            _log.error("nobody could be told how a request ended", exc_info=error)
