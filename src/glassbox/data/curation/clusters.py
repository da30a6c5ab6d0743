"""Groups of documents that are alike: pairs that share a key are compared, and those that match joined."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from glassbox.data.curation.step import Dropped

Keys = npt.NDArray[np.uint64]


class UnionFind:
    """Sets of the numbers 0 ... count - 1 that can be joined; a set is known by its smallest number.

    Each operation takes next to constant time. Source: Tarjan and van Leeuwen (1984), path halving.
    """

    def __init__(self, count: int) -> None:
        self._parent = array("q", range(count))

    def find(self, item: int) -> int:
        """The smallest number of the set that holds `item`."""
        parent = self._parent
        while (above := parent[item]) != item:
            parent[item] = item = parent[above]
        return item

    def join(self, one: int, other: int) -> None:
        """Make one set of those of both."""
        one, other = self.find(one), self.find(other)
        self._parent[max(one, other)] = min(one, other)


def buckets(keys: Keys) -> Iterator[npt.NDArray[np.intp]]:
    """The rows that share a key with another one, a group a key, rows rising.

    >>> [group.tolist() for group in buckets(np.array([7, 5, 7, 8, 7], np.uint64))]
    [[0, 2, 4]]
    """
    order, begins, sizes = _sorted_runs(keys)
    for i in np.flatnonzero(sizes > 1).tolist():
        yield order[begins[i] : begins[i] + sizes[i]]


def all_buckets(columns: Iterable[Keys]) -> list[list[int]]:
    """The `buckets` of several columns of keys over the same rows, each once: pairs, then larger ones.

    Documents that are alike share many keys, and most groups are pairs: those are told apart in
    one array.

    >>> all_buckets(np.array([[7, 5, 7, 8], [1, 2, 1, 1], [4, 3, 4, 9]], np.uint64))
    [[0, 2], [0, 2, 3]]
    """
    pairs: list[npt.NDArray[np.int64]] = []
    larger: dict[tuple[int, ...], None] = {}
    for keys in columns:
        order, begins, sizes = _sorted_runs(keys)
        two = begins[sizes == 2]
        pairs.append((order[two] << 32) | order[two + 1])
        for i in np.flatnonzero(sizes > 2).tolist():
            larger[tuple(order[begins[i] : begins[i] + sizes[i]].tolist())] = None
    each = np.unique(np.concatenate(pairs))
    found = np.stack([each >> 32, each & 0xFFFFFFFF], axis=1).tolist()
    return [*found, *map(list, larger)]


def _sorted_runs(
    keys: Keys,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows in the order of their keys, and where each run of one key begins and how long it is."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    borders = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1], True])
    return order, borders[:-1], np.diff(borders)


@dataclass
class Matches:
    """Pairs that were compared and matched, as sets of documents.

    `how` says for each document of a set which one it matches, and how well.
    """

    count: int
    compare: Callable[[int, int], str | None]
    compared: int = 0
    how: dict[int, tuple[int, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sets = UnionFind(self.count)
        self._refused: set[tuple[int, int]] = set()

    def add_bucket(self, rows: Sequence[int]) -> None:
        """Compare all pairs of a group but those that are in one set already."""
        if len(rows) > 2 and len(set(map(self.sets.find, rows))) == 1:
            return  # most large groups: alike in one band, alike in many
        for place, later in enumerate(rows):
            for earlier in rows[:place]:
                if self.sets.find(earlier) != self.sets.find(later):
                    self._try(earlier, later)

    def _try(self, earlier: int, later: int) -> None:
        if (earlier, later) in self._refused:
            return
        self.compared += 1
        found = self.compare(earlier, later)
        if found is None:
            self._refused.add((earlier, later))
            return
        self.sets.join(earlier, later)
        self.how.setdefault(later, (earlier, found))
        self.how.setdefault(earlier, (later, found))

    def dropped(self, ids: Sequence[str], reason: str) -> Mapping[str, Dropped]:
        """All documents of each set but the first one."""
        out: dict[str, Dropped] = {}
        for row in sorted(self.how):
            first = self.sets.find(row)
            if first == row:
                continue
            match, measured = self.how[row]
            detail = f"{measured} with {ids[match]}"
            if match != first:
                detail += f"; {ids[first]} stays"
            out[ids[row]] = Dropped(reason, detail)
        return out
