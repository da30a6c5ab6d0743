"""Weighted mixture of data sources, each in its own seeded order."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import torch

from glassbox.core.errors import UserError
from glassbox.data.loader import PackedRows, PackedSource, TokenBatch
from glassbox.data.order import SeededOrder


class MixedRows:
    """The rows of several shards, numbered one shard after the other."""

    def __init__(self, parts: Sequence[PackedRows]) -> None:
        lengths = {part.row_length for part in parts}
        if len(lengths) != 1:
            raise UserError(f"rows of lengths {sorted(lengths)}: a mixture has rows of one length")
        self.parts = tuple(parts)
        self.row_length = lengths.pop()
        self.firsts = [0, *itertools.accumulate(map(len, parts))]
        """The number of each part's first row, and of all rows."""

    def __len__(self) -> int:
        return self.firsts[-1]

    @property
    def identity(self) -> Any:
        """The checksums of all parts and how many rows each has."""
        return [[part.identity, len(part)] for part in self.parts]

    @property
    def fill_rate(self) -> float:
        """Share of the positions of all rows that are used."""
        return sum(part.num_pairs for part in self.parts) / (len(self) * self.row_length)

    def batch(self, indices: Sequence[int]) -> TokenBatch:
        """The rows of these numbers, in their order."""
        rows = []
        for index in indices:
            number = bisect_right(self.firsts, index) - 1
            rows.append(self.parts[number].batch([index - self.firsts[number]]))
        return TokenBatch(
            torch.cat([row.ids for row in rows]),
            torch.cat([row.targets for row in rows]),
            torch.cat([row.documents for row in rows]),
        )


class MixedSource(PackedSource):
    """Infinite batches in which source k has a share of w_k / sum w of the rows at every point.

    Of any first n rows, source k has n w_k / sum w, with an error below one: each row is taken from
    the source that would otherwise be the first to fall behind. Sources are repeated as needed, in
    a new order each time. Positions and resuming are as in `PackedSource`.
    Source: Tijdeman, "The chairman assignment problem" (1980).
    """

    rows: MixedRows

    def __init__(self, rows: MixedRows, weights: Sequence[float], **options: Any) -> None:
        if len(weights) != len(rows.parts) or not all(weight > 0 for weight in weights):
            raise UserError(f"weights = {list(weights)}: each source needs one above 0")
        super().__init__(rows, **options)
        self.weights = [float(weight) for weight in weights]
        self.taken = [0] * len(rows.parts)
        self._shares = [weight / sum(self.weights) for weight in self.weights]
        self._orders = [
            SeededOrder(len(part), self.seed, f"rows of source {number}")
            for number, part in enumerate(rows.parts)
        ]

    def _take(self, count: int) -> list[int]:
        numbers = []
        for position in range(self.cursor + 1, self.cursor + count + 1):
            part = next_source(position, self._shares, self.taken)
            numbers.append(self.rows.firsts[part] + self._orders[part][self.taken[part]])
            self.taken[part] += 1
        return numbers

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "weights": self.weights}

    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON: how many rows were taken, in all and of each source."""
        return {**super().state_dict(), "taken": list(self.taken)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved position. Raises UserError if data, weights, row length or seed differ."""
        super().load_state_dict(state)
        self.taken = [int(count) for count in state["taken"]]


def next_source(position: int, shares: Sequence[float], taken: Sequence[int]) -> int:
    """Which source the row at `position`, counted from 1, is taken from.

    With K sources, n_k of the rows so far, and d = 1 / (2K - 2): of those with
    position share_k - n_k >= d, the one whose (n_k + 1 - d) / share_k is the lowest: the moment at
    which it would have fallen behind by 1 - d.

    >>> taken = [0, 0]
    >>> for position in range(1, 9):
    ...     taken[next_source(position, [0.75, 0.25], taken)] += 1
    >>> taken
    [6, 2]
    """
    if len(shares) == 1:
        return 0
    margin = 1 / (2 * len(shares) - 2)
    _, part = min(
        ((count + 1 - margin) / share, part)
        for part, (share, count) in enumerate(zip(shares, taken, strict=True))
        if position * share - count >= margin - 1e-9
    )
    return part
