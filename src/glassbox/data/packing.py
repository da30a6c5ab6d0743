"""Packing: documents of varying length into rows of fixed length, each token exactly once.

A document of n ids has n - 1 pairs (id, next id). A piece is a sequence of consecutive pairs; a
document longer than a row is cut into several pieces, and every pair is in exactly one, unless a
stride shorter than a row makes windows overlap.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Piece = tuple[int, int]
"""(start, length): the pairs (ids[j], ids[j + 1]) for start <= j < start + length."""

WINDOW = 1 << 16


def cut_documents(
    offsets: NDArray[np.int64], capacity: int, stride: int | None = None, overlap: int = 0
) -> Iterator[Piece]:
    """The pieces of documents `ids[offsets[i] : offsets[i + 1]]`, none longer than `capacity`.

    A piece begins every `stride` pairs (None: `capacity`, so that each pair is in one piece) until
    one reaches the end of its document. overlap: number of ids after a document that also belong to
    it. Raises ValueError for a stride that would skip pairs.

    >>> list(cut_documents(np.array([0, 4, 11]), 4))
    [(0, 3), (4, 4), (8, 2)]
    >>> list(cut_documents(np.array([0, 4, 11]), 4, stride=1))
    [(0, 3), (4, 4), (5, 4), (6, 4)]
    """
    stride = stride or capacity
    if not 0 < stride <= capacity:
        raise ValueError(f"a stride of {stride} with rows of {capacity} leaves pairs out")
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        pairs_end = end + overlap - 1
        for piece in range(start, pairs_end, stride):
            yield piece, min(capacity, pairs_end - piece)
            if piece + capacity >= pairs_end:
                break


def pack_greedy(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Fill a row in the given order until the next piece does not fit, then begin another.

    >>> pack_greedy([3, 3, 2, 1], 6)
    [[0, 1], [2, 3]]
    """
    rows: list[list[int]] = []
    free = 0
    for index, length in enumerate(lengths):
        _check(length, capacity)
        if length > free:
            rows.append([])
            free = capacity
        rows[-1].append(index)
        free -= length
    return rows


def pack_best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: longest piece first, each into the fullest row with enough room.

    Uses at most 11/9 of the fewest rows possible, plus 4 (Johnson 1973). Source for its use in
    training: Ding et al., arXiv:2404.10830.

    >>> pack_best_fit([3, 3, 2, 1], 5)
    [[0, 2], [1, 3]]
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (free, row), sorted
    for index in order:
        length = lengths[index]
        _check(length, capacity)
        place = bisect_left(open_rows, (length, -1))
        if place == len(open_rows):
            rows.append([])
            free, row = capacity, len(rows) - 1
        else:
            free, row = open_rows.pop(place)
        rows[row].append(index)
        if free > length:
            insort(open_rows, (free - length, row))
    return rows


def _check(length: int, capacity: int) -> None:
    if not 0 < length <= capacity:
        raise ValueError(f"a piece of {length} pairs does not fit a row of {capacity}")


def pack_documents(
    offsets: NDArray[np.int64],
    capacity: int,
    *,
    strategy: Literal["best_fit", "greedy"] = "best_fit",
    stride: int | None = None,
    overlap: int = 0,
) -> Iterator[list[Piece]]:
    """Rows of pieces for a shard's documents, window by window so that memory stays bounded."""
    pack = pack_best_fit if strategy == "best_fit" else pack_greedy
    for first in range(0, max(0, len(offsets) - 1), WINDOW):
        pieces = list(cut_documents(offsets[first : first + WINDOW + 1], capacity, stride, overlap))
        for row in pack([length for _, length in pieces], capacity):
            yield [pieces[index] for index in row]
