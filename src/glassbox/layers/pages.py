"""Paged addressing: the block slots that a forward pass writes to and reads from.

A pool holds blocks of `block_size` tokens for all rows together. A row's tokens lie in the blocks
that its line of the page table names, in order. The last block of a pool belongs to nobody: padding
is written there and never read. Shorter rows' lines are filled up with a block of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass
class GatheredRows:
    """What a batch of rows has gathered, kept from step to step for as long as the same rows decode.

    The pool stays the truth; this is a copy of it in which each row's tokens lie together, so that
    a step writes one token a row instead of gathering them all again.
    capacity: slots a row. held: of each layer's state its tensors, (K, B, capacity, Dh).
    """

    capacity: int
    held: dict[object, tuple[Tensor, ...]] = field(default_factory=dict, repr=False)


@dataclass
class Pages:
    """The cache addresses of one forward pass, computed once and used by all layers.

    slots: (B*T,) row by row, block * block_size + place of each token that is written.
    table: (B, P) blocks of each row.
    positions: (B, T) of the tokens, as in the Context.
    start: where a single row's blocks follow one another, the first one's first slot; its past is
        then a view of `length` slots that ends with the call's last token. None otherwise.
    length: S, how many slots are looked at: P blocks, or exactly the tokens so far with `start`, `token_slots`
        (and those of the longest row with a window, all rows' where they are `level`).
    window: where the rows' past may be looked for first; passes of one token a row have it.
    token_slots: (S,) the slots of a single row's tokens, in order, where keys and values are gathered one by one.
    scratch: memory for what is gathered, kept from pass to pass: taking it anew from the system
        every time costs three times as much as the gathering.
    """

    slots: Int[Tensor, " B_T"]
    table: Int[Tensor, "B P"]
    positions: Int[Tensor, "B T"]
    length: int
    start: int | None = None
    window: GatheredRows | None = None
    scratch: dict[str, Tensor] = field(default_factory=dict, repr=False)
    level: bool = False
    token_slots: Int[Tensor, " S"] | None = None
    _rows: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)
    _mask: Tensor | None = field(default=None, repr=False)
    _window_slots: Tensor | None = field(default=None, repr=False)

    def rows(self, heads: int, num_blocks: int) -> Int[Tensor, " K_B_P"]:
        """The table's blocks in a pool (K, num_blocks, ...) laid out as K * num_blocks rows."""
        key = (heads, num_blocks)
        if key not in self._rows:
            offset = torch.arange(heads, device=self.table.device) * num_blocks
            self._rows[key] = (offset[:, None] + self.table.flatten()).flatten()
        return self._rows[key]

    def room(self, name: str, like: Tensor, count: int) -> Tensor:
        """`count` numbers of scratch memory; the next call of that name overwrites them."""
        held = self.scratch.get(name)
        if held is None or len(held) < count or held.dtype != like.dtype:
            held = self.scratch[name] = like.new_empty(count + count // 4)
        return held[:count]

    def window_slots(self) -> Int[Tensor, " B"]:
        """Where each row's token goes in the window, its (B, capacity) slots counted through."""
        assert self.window is not None
        if self._window_slots is None:
            row = torch.arange(len(self.positions), device=self.positions.device)
            self._window_slots = row * self.window.capacity + self.positions[:, 0]
        return self._window_slots

    def hidden(self) -> Bool[Tensor, "B T S"] | None:
        """True at the slots behind each query; None where none is, or they are in plain causal order."""
        if self.start is not None or self.level:
            return None
        if self._mask is None:
            order = torch.arange(self.length, device=self.positions.device)
            self._mask = order > self.positions.unsqueeze(-1)
        return self._mask

    def mask(self) -> Bool[Tensor, "B 1 T S"] | None:
        """Where each query may look; None is causal, the last query at the last slot."""
        hidden = self.hidden()
        return None if hidden is None else ~hidden.unsqueeze(1)
