"""Engines that say what a test wants, when it wants."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from glassbox.inference.detokenizer import TextStream
from glassbox.inference.requests import EngineStats, TokenEvent
from glassbox.inference.sampling.params import SamplingParams
from glassbox.tokenizers import Tokenizer

PATIENCE = 30.0


@dataclass
class _Said:
    request_id: int
    sample: int
    text: TextStream
    place: int = 0


@dataclass
class Scripted:
    """Every answer is `ids`, a token a step; `fail_at` is the place where the step itself breaks, and
    `error_at` where only the first request's first answer does.

    `gate` holds up each step while it is cleared; `steps` counts them, `threads` says who made them.
    """

    tokenizer: Tokenizer
    ids: list[int]
    fail_at: int | None = None
    error_at: int | None = None
    context_length: int = 128
    on_step: Callable[[], None] = lambda: None
    running: list[_Said] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    prompts: list[tuple[list[int], SamplingParams]] = field(default_factory=list)
    tenants: list[str] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    steps: int = 0

    def __post_init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.stepping = threading.Semaphore(0)

    @property
    def has_work(self) -> bool:
        return bool(self.running)

    def add(
        self,
        prompt: Sequence[int],
        params: SamplingParams | None = None,
        *,
        tenant: str = "",
        adapter: str | None = None,
    ) -> int:
        self.tenants.append(tenant)
        params = params or SamplingParams()
        self.prompts.append((list(prompt), params))
        number = len(self.prompts)
        for sample in range(params.n):
            self.running.append(_Said(number, sample, TextStream(self.tokenizer, params.stop)))
        return number

    def compile(self, constraint: object) -> None:
        pass

    def step(self) -> list[TokenEvent]:
        self.stepping.release()
        assert self.gate.wait(PATIENCE)
        self.threads.add(threading.get_ident())
        self.steps += 1
        self.on_step()
        if any(one.place == self.fail_at for one in self.running):
            raise RuntimeError("secret detail")
        return [self._say(one) for one in list(self.running)]

    def _say(self, one: _Said) -> TokenEvent:
        names = {"request_id": one.request_id, "sample_index": one.sample}
        if one.place == self.error_at and one.request_id == 1 and one.sample == 0:
            self.running.remove(one)
            return TokenEvent(-1, "", None, "error", error="a row went wrong", **names)
        token = self.ids[one.place]
        piece = one.text.push(token)
        one.place += 1
        last = one.text.matched is not None or one.place == len(self.ids)
        if last:
            piece += one.text.flush() if one.text.matched is None else ""
            self.running.remove(one)
        reason = "stop" if last else None
        return TokenEvent(token, piece, -0.5, reason, one.text.matched, **names)

    def cancel(self, request_id: int) -> None:
        self.cancelled.append(request_id)
        self.running = [one for one in self.running if one.request_id != request_id]

    def stats(self) -> EngineStats:
        return EngineStats(running=len(self.running))
