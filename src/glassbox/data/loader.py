"""Batches of packed rows in a seeded order, resumable and sharded over ranks."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.data.order import SeededOrder
from glassbox.data.packing import Piece, pack_documents
from glassbox.data.shards import Shard
from glassbox.ops.cross_entropy import IGNORE


@dataclass
class TokenBatch:
    """Rows of input ids and targets; targets without loss are IGNORE.

    documents numbers the packed documents of each row, so that attention can stay inside them.
    """

    ids: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]
    documents: Int[Tensor, "B T"]

    @property
    def num_tokens(self) -> int:
        """How many tokens a forward pass reads, padding included."""
        return self.ids.numel()

    def to(self, device: torch.device) -> TokenBatch:
        """Return the batch on another device."""
        return TokenBatch(
            self.ids.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
            self.documents.to(device, non_blocking=True),
        )


class Rows(Protocol):
    """Rows of one length that can be read in any order."""

    @property
    def row_length(self) -> int:
        """Number of pairs per row."""

    @property
    def identity(self) -> Any:
        """Identifies the data, as JSON."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> TokenBatch:
        """The rows of these numbers."""


class PackedRows:
    """A shard laid out as rows of `row_length` (input, target) pairs.

    A long document is cut into windows that begin every `stride` pairs; None: every `row_length`,
    so that each pair occurs once.
    """

    def __init__(
        self,
        shard: Shard,
        row_length: int,
        *,
        strategy: Literal["best_fit", "greedy"] = "best_fit",
        stride: int | None = None,
    ) -> None:
        if row_length < 1:
            raise UserError(f"row_length = {row_length}: a row holds one pair or more")
        if stride is not None and not 0 < stride <= row_length:
            raise UserError(
                f"stride = {stride}: windows of row_length = {row_length} begin every 1 to "
                f"{row_length} tokens, or tokens would be left out"
            )
        self.shard = shard
        self.row_length = row_length
        # flat arrays, not lists of tuples: 16 bytes a piece for millions of documents
        starts, lengths, first_pieces = array("q"), array("q"), array("q", [0])
        packed = pack_documents(
            shard.offsets, row_length, strategy=strategy, stride=stride, overlap=shard.overlap
        )
        for row in packed:
            for start, length in row:
                starts.append(start)
                lengths.append(length)
            first_pieces.append(len(starts))
        self._starts, self._lengths, self._first_pieces = starts, lengths, first_pieces
        if not starts:
            raise UserError("the data holds no document of two tokens or more; give it more text")

    def __len__(self) -> int:
        return len(self._first_pieces) - 1

    def pieces(self, row: int) -> list[Piece]:
        """The pieces of a row, in order."""
        here = slice(self._first_pieces[row], self._first_pieces[row + 1])
        return list(zip(self._starts[here], self._lengths[here], strict=True))

    @property
    def identity(self) -> Any:
        """The checksum of the ids."""
        return self.shard.info.get("files", {}).get(".bin")

    @property
    def num_pairs(self) -> int:
        """How many (input, target) pairs over all rows; with a stride some are counted again."""
        return sum(self._lengths)

    @property
    def fill_rate(self) -> float:
        """Share of the rows' positions that are used; the rest is padding."""
        return self.num_pairs / (len(self) * self.row_length)

    def batch(self, indices: Sequence[int]) -> TokenBatch:
        """The rows of these numbers, padded at the end with documents of their own."""
        shape = (len(indices), self.row_length)
        ids = np.zeros(shape, dtype=np.int64)
        targets = np.full(shape, IGNORE, dtype=np.int64)
        documents = np.full(shape, -1, dtype=np.int64)
        for place, index in enumerate(indices):
            at = 0
            for number, (start, length) in enumerate(self.pieces(index)):
                here = slice(at, at + length)
                ids[place, here] = self.shard.ids[start : start + length]
                following = self.shard.ids[start + 1 : start + 1 + length].astype(np.int64)
                if self.shard.mask is not None:
                    trained = self.shard.mask[start + 1 : start + 1 + length]
                    following = np.where(trained, following, IGNORE)
                targets[place, here] = following
                documents[place, here] = number
                at += length
        return TokenBatch(
            torch.from_numpy(ids), torch.from_numpy(targets), torch.from_numpy(documents)
        )


class PackedSource:
    """Infinite batches of packed rows: a new seeded permutation each epoch, with every row used
    once.

    One optimizer step takes `rows_per_step` rows over all ranks, in micro-batches of at most
    `rows_per_batch`. The position is the number of rows taken by all ranks, so that a run resumes
    at the exact row on any number of ranks.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        rows_per_step: int,
        rows_per_batch: int | None = None,
        seed: int = 0,
        group: Group | None = None,
    ) -> None:
        if rows_per_step < 1 or (rows_per_batch is not None and rows_per_batch < 1):
            raise UserError(
                f"rows_per_step = {rows_per_step}, rows_per_batch = {rows_per_batch}: "
                "each step and batch takes one row or more"
            )
        self.rows = rows
        self.rows_per_step = rows_per_step
        self.rows_per_batch = rows_per_batch or rows_per_step
        self.seed = seed
        self.group = group or Group()
        if rows_per_step % self.group.world_size:
            raise UserError(
                f"{rows_per_step} rows a step cannot be shared by {self.group.world_size} ranks; "
                "make data.rows_per_step a multiple of the number of ranks"
            )
        self.cursor = 0
        self._order = SeededOrder(len(rows), seed, "rows")

    def next_step(self) -> list[TokenBatch]:
        """This rank's micro-batches of the next optimizer step."""
        return self.batches(self.next_numbers())

    def batches(self, numbers: Sequence[Sequence[int]]) -> list[TokenBatch]:
        """The micro-batches of these rows. Nothing is changed, so that threads may make some ahead."""
        return [self.rows.batch(part) for part in numbers]

    def next_numbers(self) -> list[list[int]]:
        """The row indices of this rank's next micro-batches; advances the position."""
        mine = self._take(self.rows_per_step)[self.group.rank :: self.group.world_size]
        self.cursor += self.rows_per_step
        return [
            mine[first : first + self.rows_per_batch]
            for first in range(0, len(mine), self.rows_per_batch)
        ]

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in which every row is taken once."""
        return len(self.rows) / self.rows_per_step

    def some_rows(self, numbers: Sequence[int]) -> list[TokenBatch]:
        """This rank's share of these rows, such as those that are evaluated on. The position stays."""
        mine = list(numbers)[self.group.rank :: self.group.world_size]
        size = self.rows_per_batch
        return self.batches([mine[first : first + size] for first in range(0, len(mine), size)])

    def _take(self, count: int) -> list[int]:
        """The next rows of all ranks together."""
        return [self._order[self.cursor + i] for i in range(count)]

    def _identity(self) -> dict[str, Any]:
        """What a position means nothing without."""
        return {
            "rows": len(self.rows),
            "row_length": self.rows.row_length,
            "seed": self.seed,
            "ids": self.rows.identity,
        }

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON."""
        return {"cursor": self.cursor, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved position. Raises UserError if the data differ from those it was saved with."""
        for key, value in self._identity().items():
            if state.get(key) != value:
                raise UserError(
                    f"the checkpoint was made with data of {key} = {state.get(key)}, "
                    f"these have {value}; resume with the same data, row length and seed"
                )
        self.cursor = int(state["cursor"])
