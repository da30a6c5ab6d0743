"""Prefetching: batches are prepared in threads ahead of the training step.

The workers are threads: they share the memory map, and nothing is copied from one process to another. While one
waits for a disk the others and the step go on.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

from glassbox.core.errors import UserError

Batch = TypeVar("Batch")
Numbers = list[list[int]]


class Numbered(Protocol[Batch]):
    """A source whose position moves on before its batches are made, such as `PackedSource`."""

    def next_step(self) -> list[Batch]:
        """The batches of `next_numbers`."""

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in which everything is taken once."""

    def next_numbers(self) -> Numbers:
        """What the next step's micro-batches hold; the position moves on."""

    def batches(self, numbers: Numbers) -> list[Batch]:
        """These micro-batches; it may be called from several threads at once."""

    def state_dict(self) -> dict[str, Any]:
        """The position."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position."""


class PrefetchedSource(Generic[Batch]):
    """The batches of a source in their order, the next `workers` steps of them being made already.

    The position is that of the last step handed out, not of what is made ahead: it is the source's own,
    and the batches are the same for any number of workers, none included, before and after a resume.
    Memory holds `workers` steps more. What a worker raises is raised by the step that needs its batches;
    files that can no longer be read as a UserError.
    """

    def __init__(self, source: Numbered[Batch], workers: int) -> None:
        if workers < 1:
            raise UserError(f"workers = {workers}: give one or more, or leave the source as it is")
        self.source = source
        self.workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
        self._ahead: deque[tuple[dict[str, Any], Future[list[Batch]]]] = deque()
        self._position = source.state_dict()

    @property
    def steps_per_epoch(self) -> float:
        """The source's."""
        return self.source.steps_per_epoch

    def next_step(self) -> list[Batch]:
        """This rank's micro-batches of the next optimizer step."""
        self._begin()
        position, future = self._ahead.popleft()
        try:
            batches = future.result()
        except OSError as error:
            raise UserError(
                f"the data of the next step cannot be read: {error}; run the same command to go on"
            ) from error
        self._position = position
        self._begin()
        return batches

    def _begin(self) -> None:
        """Have as many steps under way as there are workers."""
        while len(self._ahead) < self.workers:
            numbers = self.source.next_numbers()
            work = self._pool.submit(self.source.batches, numbers)
            self._ahead.append((self.source.state_dict(), work))

    def state_dict(self) -> dict[str, Any]:
        """The position behind the last step handed out, as JSON."""
        return self._position

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position; what was made ahead is forgotten."""
        for _, work in self._ahead:
            work.cancel()
        self._ahead.clear()
        self.source.load_state_dict(state)
        self._position = self.source.state_dict()


def prefetched(source: Numbered[Batch], workers: int) -> Numbered[Batch] | PrefetchedSource[Batch]:
    """The source itself for no workers, else one that makes batches ahead."""
    return PrefetchedSource(source, workers) if workers else source
