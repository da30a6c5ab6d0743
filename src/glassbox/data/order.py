"""Infinite seeded order over a fixed number of items, with a new permutation each epoch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from glassbox.core.seeding import derive_seed

HELD = 1 << 20
ROUNDS = 6
_WORD = (1 << 64) - 1


class SeededOrder:
    """Maps positions to items; every epoch of `count` positions has each item once.

    Only the position has to be saved to resume at the exact item. For up to `held` items an epoch's
    permutation is kept in memory (8 bytes each); for more, each item is computed separately.

    >>> order = SeededOrder(3, 0, "demo")
    >>> sorted(order[i] for i in range(3)), sorted(order[i] for i in range(3, 6))
    ([0, 1, 2], [0, 1, 2])
    """

    def __init__(self, count: int, seed: int, name: str, *, held: int = HELD) -> None:
        self.count = count
        self.seed = seed
        self.name = name
        self.held = held
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._keys: list[int] = []

    def __getitem__(self, position: int) -> int:
        """The item at a position of the endless sequence."""
        epoch, place = divmod(position, self.count)
        if epoch != self._epoch:
            seed = derive_seed(self.seed, self.name, epoch)
            if self.count <= self.held:
                self._order = np.random.Generator(np.random.Philox(seed)).permutation(self.count)
            else:
                self._keys = [derive_seed(seed, turn) for turn in range(ROUNDS)]
            self._epoch = epoch
        if self.count <= self.held:
            return int(self._order[place])
        return scramble(place, self.count, self._keys)


def scramble(place: int, count: int, keys: list[int]) -> int:
    """Item at `place` of the keyed permutation of `count` items, computed without storing it.

    A Feistel network, which permutes 2^(2b) >= count numbers whatever its round function is, walked
    until it comes upon one below `count`; four turns or fewer on average.
    Source: Black and Rogaway, "Ciphers with arbitrary finite domains" (2002), cycle walking.

    >>> sorted(scramble(place, 5, [7, 8, 9]) for place in range(5))
    [0, 1, 2, 3, 4]
    """
    bits = max(1, ((count - 1).bit_length() + 1) // 2)
    mask = (1 << bits) - 1
    while True:
        left, right = place >> bits, place & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right + key) & mask)
        place = left << bits | right
        if place < count:
            return place


def _mixed(value: int) -> int:
    """The finaliser of SplitMix64 (Steele et al. 2014): every bit depends on every other."""
    value &= _WORD
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _WORD
    return value ^ value >> 31
