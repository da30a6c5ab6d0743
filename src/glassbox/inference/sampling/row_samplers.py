"""The sampler of a step's rows, made out of that of the step before."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from glassbox.inference.requests import Answer
from glassbox.inference.sampling.sampler import RowSampler


class RowSamplers:
    """Keeps settings and histories of the rows of the last step; only what is new is built."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab_size, self._device = vocab_size, device
        self.forget()

    def forget(self) -> None:
        """Nothing is running."""
        self._sampler: RowSampler | None = None
        self._rows: list[Answer] = []  # whose rows the sampler has

    def of(self, answers: Sequence[Answer]) -> RowSampler:
        """The sampler of these, in this order; that of the step before where they are the same."""
        if self._sampler is not None and self._rows == answers:
            return self._sampler
        known = {id(answer): row for row, answer in enumerate(self._rows)}
        kept = [answer for answer in answers if id(answer) in known]
        fresh = [answer for answer in answers if id(answer) not in known]
        sampler = None
        if kept and self._sampler is not None:
            sampler = self._sampler.select([known[id(answer)] for answer in kept])
        if fresh:
            rows = [answer.row() for answer in fresh]
            more = RowSampler.of(rows, self._vocab_size, self._device)
            sampler = more if sampler is None else sampler.extend(more)
        assert sampler is not None
        order = kept + fresh
        if order != answers:
            at = {id(answer): row for row, answer in enumerate(order)}
            sampler = sampler.select([at[id(answer)] for answer in answers])
        self._sampler, self._rows = sampler, list(answers)
        return sampler
