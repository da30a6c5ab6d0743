"""Paged addressing: where a pass writes its tokens in a pool of blocks, and where it finds the past.

A pool holds blocks of `block_size` tokens for all rows together. A row's tokens lie in the blocks
that its line of the page table names, in order. The last block of a pool belongs to nobody: padding
is written there, and shorter rows' tables are filled up with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass
class Pages:
    """The addresses of one pass, made once and used by all layers.

    slots: (B*T,) row by row, block * block_size + place of each token that is written.
    table: (B, P) blocks of each row.
    positions: (B, T) of the tokens, as in the Context.
    start: where a single row's blocks follow one another, the first one's first slot; its past is
        then a view of `length` slots that ends with the call's last token. None otherwise.
    length: S, how many slots are looked at: P blocks, or exactly the tokens so far with `start`.
    """

    slots: Int[Tensor, " B_T"]
    table: Int[Tensor, "B P"]
    positions: Int[Tensor, "B T"]
    length: int
    start: int | None = None
    _rows: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)
    _mask: Tensor | None = field(default=None, repr=False)

    def rows(self, heads: int, num_blocks: int) -> Int[Tensor, " K_B_P"]:
        """The table's blocks in a pool (K, num_blocks, ...) laid out as K * num_blocks rows."""
        key = (heads, num_blocks)
        if key not in self._rows:
            offset = torch.arange(heads, device=self.table.device) * num_blocks
            self._rows[key] = (offset[:, None] + self.table.flatten()).flatten()
        return self._rows[key]

    def hidden(self) -> Bool[Tensor, "B T S"] | None:
        """True at the slots behind each query; None where none is, or they are in plain causal order."""
        if self.start is not None:
            return None
        if self._mask is None:
            order = torch.arange(self.length, device=self.positions.device)
            self._mask = order > self.positions.unsqueeze(-1)
        return self._mask

    def mask(self) -> Bool[Tensor, "B 1 T S"] | None:
        """Where each query may look; None is causal, the last query at the last slot."""
        hidden = self.hidden()
        return None if hidden is None else ~hidden.unsqueeze(1)
