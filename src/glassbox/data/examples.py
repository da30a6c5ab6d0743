"""Endless batches of numbered examples in a seeded order, whatever the examples are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.data.order import SeededOrder

BatchT = TypeVar("BatchT")


class ExampleSource(ABC, Generic[BatchT]):
    """Endless batches: every epoch a new seeded permutation, no example left out.

    One optimizer step takes `per_step` examples over all ranks, in micro-batches of at most
    `per_batch`, examples of like length together. The position is the count of examples taken by
    all ranks, so a run goes on at the exact example on any number of ranks.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        per_step: int,
        per_batch: int | None = None,
        seed: int = 0,
        group: Group | None = None,
        what: str = "pairs",
    ) -> None:
        self.lengths = lengths
        self.per_step = per_step
        self.per_batch = per_batch or per_step
        self.seed = seed
        self.group = group or Group()
        self.what = what
        if per_step % self.group.world_size:
            raise UserError(
                f"{per_step} {what} a step cannot be shared by {self.group.world_size} ranks; "
                "make data.pairs_per_step a multiple of the number of ranks"
            )
        self.cursor = 0
        self._order = SeededOrder(len(lengths), seed, what)

    @abstractmethod
    def batch(self, part: list[int], step: list[int]) -> BatchT:
        """The examples of these numbers as one batch; `step` are all that this rank takes at once."""

    def next_step(self) -> list[BatchT]:
        """This rank's micro-batches of the next optimizer step."""
        numbers = [self._order[self.cursor + i] for i in range(self.per_step)]
        self.cursor += self.per_step
        mine = numbers[self.group.rank :: self.group.world_size]
        mine.sort(key=lambda number: (self.lengths[number], number))
        return [
            self.batch(mine[first : first + self.per_batch], mine)
            for first in range(0, len(mine), self.per_batch)
        ]

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON."""
        return {"cursor": self.cursor, self.what: len(self.lengths), "seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved position. Raises UserError where the data are not the ones it was saved with."""
        check_resumable(state, {self.what: len(self.lengths), "seed": self.seed})
        self.cursor = int(state["cursor"])


def check_resumable(state: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise UserError naming the first key in which a saved position and these data differ."""
    for key, value in expected.items():
        if state.get(key) != value:
            raise UserError(
                f"the checkpoint was made with {key} = {state.get(key)}, here it is {value}; "
                "resume with the same data and seed"
            )
