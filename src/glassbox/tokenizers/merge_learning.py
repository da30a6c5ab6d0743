"""Learning merges without ever looking at a word that does not hold the pair.

For each pair its count and its positions are kept, and a heap of counts that is mended lazily. The
symbols may be anything that can be joined: bytes, or pieces of words.

Most pairs are too rare ever to be joined, and millions of them would fill the memory. A pair's count
never rises once both of its tokens are there, so only pairs of at least some `floor` are kept; when
none of them is left, all pairs are counted anew and the floor is lowered. The merges are the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Progress = Callable[[str, int, "int | None"], None]
"""Called with a stage's name, how much of it is done, and how much there is (None: not known)."""

Integers = npt.NDArray[np.integer]
Symbol = TypeVar("Symbol")

_EDGE, _GONE = -1, -2  # symbols of a place between two words, and of one joined to its left
_REPORT_EVERY = 64
_STEP = 8  # the floor is this share of the most frequent pair


def learn_merges(
    words: LinkedWords,
    tokens: list[Symbol],
    num_tokens: int,
    *,
    join: Callable[[Symbol, Symbol], Symbol],
    never: Collection[Symbol] = (),
    min_frequency: int = 1,
    progress: Progress | None = None,
) -> list[tuple[Symbol, Symbol]]:
    """Join the most frequent pair, then the lowest ids, until there are `num_tokens` or no pair is left.

    tokens: the alphabet; what is learned is added to it. join: what a pair becomes. never: tokens
    that no merge may make. A pair of fewer than `min_frequency` is not joined.
    """
    first = len(tokens)
    ids = {token: number for number, token in enumerate(tokens)}
    merges: list[tuple[Symbol, Symbol]] = []
    pairs = _Frequent(words, min_frequency)
    while len(tokens) < num_tokens and (pair := pairs.pop()) is not None:
        left, right = pair >> 32, pair & 0xFFFFFFFF
        joined = join(tokens[left], tokens[right])
        if joined in never:
            pairs.refuse(pair)
            continue
        is_new = joined not in ids
        if is_new:
            ids[joined] = len(tokens)
            tokens.append(joined)
        merges.append((tokens[left], tokens[right]))
        pairs.merge(pair, ids[joined], is_new=is_new)
        if progress is not None and len(merges) % _REPORT_EVERY == 0:
            progress("learn merges", len(tokens) - first, num_tokens - first)
    if progress is not None:
        progress("learn merges", len(tokens) - first, max(num_tokens, len(tokens)) - first)
    return merges


class _Frequent:
    """The pairs of at least `floor` occurrences, each with its exact count and its positions."""

    def __init__(self, words: LinkedWords, least: int) -> None:
        self.words = words
        self.least = max(1, least)
        self.floor: int | None = None  # None: nothing was counted yet
        self.counts: dict[int, int] = {}
        self.positions: dict[int, Integers] = {}
        self.heap: list[tuple[int, int]] = []
        self.refused: list[int] = []

    def pop(self) -> int | None:
        """The most frequent pair, of equal ones the lowest; None where none has `least` left."""
        while self.heap or self._count_anew():
            negative, pair = heapq.heappop(self.heap)
            count = self.counts.get(pair, 0)
            if count == -negative:
                return pair
            if count:  # it lost some since it was pushed
                heapq.heappush(self.heap, (-count, pair))
        return None

    def refuse(self, pair: int) -> None:
        """Never offer this pair again."""
        self.refused.append(pair)
        self._forget(pair)

    def _forget(self, pair: int) -> None:
        del self.counts[pair], self.positions[pair]

    def merge(self, pair: int, joined: int, *, is_new: bool) -> None:
        """Join a pair wherever it stands, and mend the counts of its neighbours' pairs."""
        where = self.positions[pair]
        self._forget(pair)
        lost, won = self.words.merge(pair >> 32, pair & 0xFFFFFFFF, joined, where)
        assert self.floor is not None
        for other, loss, _ in lost.at_least(1):
            if other not in self.counts:  # rarer than the floor
                continue
            self.counts[other] -= loss
            if self.counts[other] < self.floor:
                self._forget(other)
        if not is_new:  # another merge spelled this token, and rare pairs of it were let go
            won = self.words.pairs_with(joined)
        self._keep(won)

    def _count_anew(self) -> bool:
        """Lower the floor and keep all pairs from there on; whether there are any."""
        if self.floor is not None and self.floor <= self.least:
            return False
        found = self.words.count_pairs()
        found.totals[np.isin(found.keys, self.refused)] = 0
        most = int(found.totals.max(initial=0))
        if most < self.least:
            return False
        self.floor = max(self.least, most // _STEP)
        self.counts, self.positions = {}, {}
        self._keep(found)
        return True

    def _keep(self, found: Grouped) -> None:
        assert self.floor is not None
        for pair, count, where in found.at_least(self.floor):
            self.positions[pair] = where.copy()  # a view would hold what the rare pairs had, too
            if self.counts.get(pair) != count:
                self.counts[pair] = count
                heapq.heappush(self.heap, (-count, pair))


@dataclass(frozen=True)
class Grouped:
    """Pairs, the total weight of each, and the positions of each: from `begins` on in `positions`."""

    keys: npt.NDArray[np.int64]
    totals: npt.NDArray[np.int64]
    begins: npt.NDArray[np.int64]
    positions: Integers

    @classmethod
    def of(cls, keys: Integers, weights: Integers, positions: Integers) -> Grouped:
        """Equal keys together, each group's positions in the order given."""
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        weights = weights[order]
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else _NONE
        totals = np.add.reduceat(weights, starts, dtype=np.int64) if len(keys) else _NONE
        few = keys[starts].astype(np.int64)
        return cls(few, totals, np.append(starts, len(keys)), positions[order])

    def at_least(self, least: int) -> Iterator[tuple[int, int, Integers]]:
        """(pair, total, positions) of those with such a total."""
        for i in np.flatnonzero(self.totals >= least).tolist():
            where = self.positions[self.begins[i] : self.begins[i + 1]]
            yield int(self.keys[i]), int(self.totals[i]), where


_NONE = np.empty(0, np.int64)


class LinkedWords:
    """All distinct words end to end, each symbol linked to the next one that is still there.

    A pair (a, b) is keyed as a * 2^32 + b, so that keys sort as pairs do. 16 bytes a symbol (32 where
    there are 2^31 of them).
    """

    def __init__(self, symbols: Integers, lengths: Sequence[int], weights: Sequence[int]) -> None:
        """symbols: the ids of all words, end to end; lengths and weights (counts): of each word."""
        sizes, counts = np.array(lengths, np.int64), np.array(weights, np.int64)
        ends = np.cumsum(sizes + 1)  # each word is followed by an edge, and one comes first
        total = int(ends[-1]) + 1 if len(ends) else 1
        small = np.int32 if max(total, counts.max(initial=0)) < 1 << 31 else np.int64
        inside = np.ones(total, bool)
        inside[0] = False
        inside[ends] = False
        self.symbol = np.full(total, _EDGE, small)
        self.symbol[inside] = symbols
        self.weight = np.zeros(total, small)
        self.weight[inside] = np.repeat(counts.astype(small), sizes)
        self.next = np.arange(1, total + 1, dtype=small)
        self.next[-1] = total - 1
        self.previous = np.arange(-1, total - 1, dtype=small)

    def count_pairs(self) -> Grouped:
        """Each pair's count and the positions of its left symbol, in ascending order."""
        inside = self.symbol >= 0
        inside &= self.symbol[self.next] >= 0
        here = np.flatnonzero(inside).astype(self.next.dtype)
        del inside
        return self._grouped(here)

    def pairs_with(self, joined: int) -> Grouped:
        """The same of those pairs alone that hold this token."""
        there = np.flatnonzero(self.symbol == joined)
        here = np.union1d(there, self.previous[there])
        here = here[(self.symbol[here] >= 0) & (self.symbol[self.next[here]] >= 0)]
        return self._grouped(here.astype(self.next.dtype))

    def _grouped(self, here: Integers) -> Grouped:
        bits = max(1, int(self.symbol.max(initial=0)).bit_length())
        narrow = np.uint16 if bits <= 8 else np.uint32 if bits <= 16 else np.int64
        keys = self.symbol[here].astype(narrow)  # the narrower, the faster sorted
        keys <<= narrow(bits if narrow is not np.int64 else 32)
        keys |= self.symbol[self.next[here]].astype(narrow)
        found = Grouped.of(keys, self.weight[here], here)
        if narrow is np.int64:
            return found
        wide = (found.keys >> bits) << 32 | (found.keys & ((1 << bits) - 1))
        return Grouped(wide, found.totals, found.begins, found.positions)

    def merge(
        self, left: int, right: int, joined: int, positions: Integers
    ) -> tuple[Grouped, Grouped]:
        """Join every `left right` that still stands at one of `positions`: what pairs lose, and what they win."""
        symbol, follow, precede = self.symbol, self.next, self.previous
        positions = positions[symbol[positions] == left]
        partner = follow[positions]
        here = symbol[partner] == right
        positions, partner = positions[here], partner[here]
        if left == right and len(positions) > 1:  # in a run such as aaa, only every other pair
            apart = np.ones(len(positions), bool)
            apart[1:] = partner[:-1] != positions[1:]
            index = np.arange(len(positions))
            run_start = np.maximum.accumulate(np.where(apart, index, 0))
            every_other = (index - run_start) % 2 == 0
            positions, partner = positions[every_other], partner[every_other]

        after = follow[partner]
        before = precede[positions]
        symbol_after_old = symbol[after]
        symbol[positions] = joined
        symbol[partner] = _GONE
        follow[positions] = after
        precede[after] = positions

        # A neighbour that was itself joined: the pair between the two is counted from its left.
        weight = self.weight[positions]
        has_after = symbol_after_old >= 0
        has_before = symbol[before] >= 0
        weight_after, weight_before = weight[has_after], weight[has_before]
        symbol_before = symbol[before[has_before]]
        lost = np.concatenate(
            [_pairs(right, symbol_after_old[has_after]), _pairs(symbol_before, left)]
        )
        won = np.concatenate(
            [_pairs(joined, symbol[after[has_after]]), _pairs(symbol_before, joined)]
        )
        weights = np.concatenate([weight_after, weight_before])
        where = np.concatenate([positions[has_after], before[has_before]])

        return Grouped.of(lost, weights, where), Grouped.of(won, weights, where)


def _pairs(left: Integers | int, right: Integers | int) -> npt.NDArray[np.int64]:
    """The keys of pairs."""
    return np.asarray(left, np.int64) << 32 | np.asarray(right, np.int64)
