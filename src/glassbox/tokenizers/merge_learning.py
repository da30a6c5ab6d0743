"""Learning merges without ever looking at a word that does not hold the pair.

For each pair its count and its places are kept, and a heap of counts that is mended lazily. The
symbols may be anything that can be joined: bytes, or pieces of words.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Progress = Callable[[str, int, "int | None"], None]
"""Called with a stage's name, how much of it is done, and how much there is (None: not known)."""

Positions = npt.NDArray[np.int64]
Symbol = TypeVar("Symbol")

_EDGE, _GONE = -1, -2  # symbols of a place between two words, and of one joined to its left
_REPORT_EVERY = 64


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
    counts, places = words.count_pairs()
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)

    first = len(tokens)
    ids = {token: number for number, token in enumerate(tokens)}
    merges: list[tuple[Symbol, Symbol]] = []
    while len(tokens) < num_tokens and heap:
        negative, pair = heapq.heappop(heap)
        count = counts.get(pair, 0)
        if count != -negative:  # it lost some since it was pushed
            if count > 0:
                heapq.heappush(heap, (-count, pair))
            continue
        if count < min_frequency:
            break
        left, right = pair >> 32, pair & 0xFFFFFFFF
        joined = join(tokens[left], tokens[right])
        if joined in never:
            del counts[pair]
            continue
        if joined not in ids:
            ids[joined] = len(tokens)
            tokens.append(joined)
        merges.append((tokens[left], tokens[right]))

        change = words.merge(left, right, ids[joined], places.pop(pair))
        del counts[pair]
        for other, loss in change.losses:
            if other in counts:  # not the pair itself, just joined
                counts[other] -= loss
        for other, gain, where in change.gains:
            known = places.get(other)
            places[other] = where if known is None else np.union1d(known, where)
            counts[other] = counts.get(other, 0) + gain
            heapq.heappush(heap, (-counts[other], other))
        if progress is not None and len(merges) % _REPORT_EVERY == 0:
            progress("learn merges", len(tokens) - first, num_tokens - first)
    if progress is not None:
        progress("learn merges", len(tokens) - first, max(num_tokens, len(tokens)) - first)
    return merges


@dataclass(frozen=True)
class _Change:
    """What one merge did to the counts of its neighbours' pairs."""

    losses: list[tuple[int, int]]
    gains: list[tuple[int, int, Positions]]


class LinkedWords:
    """All distinct words end to end, each symbol linked to the next one that is still there.

    A pair (a, b) is keyed as a * 2^32 + b, so that keys sort as pairs do.
    """

    def __init__(self, symbols: Positions, lengths: Sequence[int], weights: Sequence[int]) -> None:
        """symbols: the ids of all words, end to end; lengths and weights (counts): of each word."""
        sizes, counts = np.array(lengths, np.int64), np.array(weights, np.int64)
        ends = np.cumsum(sizes + 1)  # each word is followed by an edge, and one comes first
        total = int(ends[-1]) + 1 if len(ends) else 1
        inside = np.ones(total, bool)
        inside[0] = False
        inside[ends] = False
        self.symbol = np.full(total, _EDGE, np.int64)
        self.symbol[inside] = symbols
        self.weight = np.zeros(total, np.int64)
        self.weight[inside] = np.repeat(counts, sizes)
        self.next = np.arange(1, total + 1)
        self.previous = np.arange(-1, total - 1)

    def count_pairs(self) -> tuple[dict[int, int], dict[int, Positions]]:
        """Each pair's count and the places of its left symbol, in ascending order."""
        here = np.flatnonzero((self.symbol[:-1] >= 0) & (self.symbol[1:] >= 0))
        keys = (self.symbol[here] << 32) | self.symbol[here + 1]
        if keys.max(initial=0) >> 32 < 256 and self.symbol[here + 1].max(initial=0) < 256:
            small = ((keys >> 32) * 256 + (keys & 255)).astype(np.uint16)  # sorts faster
            order = np.argsort(small, kind="stable")
        else:
            order = np.argsort(keys, kind="stable")
        keys = keys[order]
        counts, places = {}, {}
        for pair, count, where in _grouped(keys, self.weight[here[order]], here[order]):
            counts[pair] = count
            places[pair] = where
        return counts, places

    def merge(self, left: int, right: int, joined: int, places: Positions) -> _Change:
        """Join every `left right` that still stands at one of `places`."""
        symbol, follow, precede = self.symbol, self.next, self.previous
        places = places[symbol[places] == left]
        partner = follow[places]
        here = symbol[partner] == right
        places, partner = places[here], partner[here]
        if left == right and len(places) > 1:  # in a run such as aaa, only every other pair
            apart = np.ones(len(places), bool)
            apart[1:] = partner[:-1] != places[1:]
            index = np.arange(len(places))
            run_start = np.maximum.accumulate(np.where(apart, index, 0))
            every_other = (index - run_start) % 2 == 0
            places, partner = places[every_other], partner[every_other]

        after = follow[partner]
        before = precede[places]
        symbol_after_old = symbol[after]
        symbol[places] = joined
        symbol[partner] = _GONE
        follow[places] = after
        precede[after] = places

        # A neighbour that was itself joined: the pair between the two is counted from its left.
        weight = self.weight[places]
        has_after = symbol_after_old >= 0
        has_before = symbol[before] >= 0
        weight_after, weight_before = weight[has_after], weight[has_before]
        symbol_before = symbol[before[has_before]]
        lost = np.concatenate(
            [(right << 32) | symbol_after_old[has_after], (symbol_before << 32) | left]
        )
        won = np.concatenate(
            [(joined << 32) | symbol[after[has_after]], (symbol_before << 32) | joined]
        )
        weights = np.concatenate([weight_after, weight_before])
        where = np.concatenate([places[has_after], before[has_before]])

        order = np.argsort(lost, kind="stable")
        losses = [(p, n) for p, n, _ in _grouped(lost[order], weights[order], where[order])]
        order = np.argsort(won, kind="stable")
        gains = _grouped(won[order], weights[order], where[order])
        return _Change(losses, gains)


def _grouped(
    keys: Positions, weights: Positions, places: Positions
) -> list[tuple[int, int, Positions]]:
    """(key, total weight, places) of each run of equal keys."""
    if not len(keys):
        return []
    starts = np.concatenate([[0], np.flatnonzero(keys[1:] != keys[:-1]) + 1])
    totals = np.add.reduceat(weights, starts).tolist()
    return list(zip(keys[starts].tolist(), totals, np.split(places, starts[1:]), strict=True))
