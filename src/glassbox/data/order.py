"""An endless seeded order over a fixed number of items: epoch after epoch, each a new permutation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from glassbox.core.seeding import derive_seed


class SeededOrder:
    """Position -> item, where every stretch of `count` positions from a multiple of it holds each once.

    Only the position need be saved to go on at the exact item.

    >>> order = SeededOrder(3, 0, "demo")
    >>> sorted(order[i] for i in range(3)), sorted(order[i] for i in range(3, 6))
    ([0, 1, 2], [0, 1, 2])
    """

    def __init__(self, count: int, seed: int, name: str) -> None:
        self.count = count
        self.seed = seed
        self.name = name
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def __getitem__(self, position: int) -> int:
        """The item at a position of the endless sequence."""
        epoch, place = divmod(position, self.count)
        if epoch != self._epoch:
            seed = derive_seed(self.seed, self.name, epoch)
            self._order = np.random.Generator(np.random.Philox(seed)).permutation(self.count)
            self._epoch = epoch
        return int(self._order[place])
