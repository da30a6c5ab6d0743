"""Infinite batches of indexed examples in a seeded order."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.data.order import SeededOrder

BatchT = TypeVar("BatchT")


class ExampleSource(ABC, Generic[BatchT]):
    """Infinite batches: a new seeded permutation each epoch, with every example used once.

    One optimizer step takes `per_step` examples over all ranks, in micro-batches of at most
    `per_batch`, with examples of similar length. The position is the number of examples taken by
    all ranks, so that a run resumes at the exact example on any number of ranks. `identity`
    identifies the examples and their order, without which a position is meaningless.
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
        identity: str | None = None,
    ) -> None:
        self.lengths = lengths
        self.per_step = per_step
        self.per_batch = per_batch or per_step
        self.seed = seed
        self.group = group or Group()
        self.what = what
        self.identity = identity
        if per_step % self.group.world_size:
            raise UserError(
                f"{per_step} {what} a step cannot be shared by {self.group.world_size} ranks; "
                "make data.pairs_per_step a multiple of the number of ranks"
            )
        self.cursor = 0
        self._order = SeededOrder(len(lengths), seed, what)

    @abstractmethod
    def batch(self, part: list[int], step: list[int]) -> BatchT:
        """A batch of the examples with these indices; `step` has those of all ranks in this step."""

    def next_step(self) -> list[BatchT]:
        """This rank's micro-batches of the next optimizer step."""
        numbers = [self._order[self.cursor + i] for i in range(self.per_step)]
        self.cursor += self.per_step
        return self._batches(numbers[self.group.rank :: self.group.world_size], numbers)

    def every_example(self) -> list[BatchT]:
        """This rank's share of all examples, each once, for evaluation. The position does not
        change.
        """
        numbers = list(range(len(self.lengths)))
        return self._batches(numbers[self.group.rank :: self.group.world_size], numbers)

    def _batches(self, mine: list[int], step: list[int]) -> list[BatchT]:
        mine, step = (
            sorted(part, key=lambda number: (self.lengths[number], number)) for part in (mine, step)
        )
        return [
            self.batch(mine[first : first + self.per_batch], step)
            for first in range(0, len(mine), self.per_batch)
        ]

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in which every example is taken once."""
        return len(self.lengths) / self.per_step

    def _identity(self) -> dict[str, Any]:
        data = {} if self.identity is None else {"data": self.identity}
        return {self.what: len(self.lengths), "seed": self.seed, **data}

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON."""
        return {"cursor": self.cursor, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved position. Raises UserError if the data differ from those it was saved with."""
        check_resumable(state, self._identity())
        self.cursor = int(state["cursor"])


def identity_of(examples: Iterable[Any]) -> str:
    """A hash of examples in order, from their repr.

    >>> identity_of([1, 2]) == identity_of([1, 2]), identity_of([1, 2]) == identity_of([2, 1])
    (True, False)
    """
    digest = hashlib.blake2b(digest_size=16)
    for example in examples:
        digest.update(repr(example).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def check_resumable(state: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise UserError naming the first key in which a saved position and these data differ."""
    for key, value in expected.items():
        if state.get(key, value if key == "data" else None) != value:  # older positions have none
            raise UserError(
                f"the checkpoint was made with {key} = {state.get(key)}, here it is {value}; "
                "resume with the same data and seed"
            )
