"""Paged addressing: the block slots that a forward pass writes and reads.

A pool holds blocks of `block_size` tokens for all rows. A row's tokens are in the blocks listed in
its line of the page table, in order. The last block of a pool is a spare one: padding is written
there and never read. Lines of shorter rows are padded with one of their own blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass
class GatheredRows:
    """The gathered cache of a batch of rows, reused from step to step while the same rows are
    decoded.

    A copy of the pool in which the tokens of each row are contiguous, so that a step appends one
    token per row instead of gathering all of them again.
    capacity: slots per row. held: for each layer's state its tensors, (K, B, capacity, Dh).
    """

    capacity: int
    held: dict[object, tuple[Tensor, ...]] = field(default_factory=dict, repr=False)


@dataclass
class Pages:
    """The cache addresses of one forward pass, computed once and used by all layers.

    slots: (B*T,) row by row, block * block_size + offset of each token to be written.
    table: (B, P) blocks of each row.
    positions: (B, T) of the tokens, as in the Context.
    start: first slot of a single row whose blocks are consecutive; its past is then a view of
        `length` slots that ends with the call's last token. None otherwise.
    length: S, number of slots attended to: P blocks, or exactly the tokens so far with `start` or
        `token_slots` (with a window those of the longest row, or of all rows if they are `level`).
    window: gathered copies of the rows' past, for passes of one token per row.
    token_slots: (S,) the slots of a single row's tokens, in order, if keys and values are gathered
        token by token.
    scratch: memory for gathered values, reused from pass to pass; allocating it each time takes
        three times as long as the gathering.
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
        """The blocks of the table in a pool (K, num_blocks, ...), as K * num_blocks row indices."""
        key = (heads, num_blocks)
        if key not in self._rows:
            offset = torch.arange(heads, device=self.table.device) * num_blocks
            self._rows[key] = (offset[:, None] + self.table.flatten()).flatten()
        return self._rows[key]

    def room(self, name: str, like: Tensor, count: int) -> Tensor:
        """Return scratch memory for `count` numbers; the next call with that name overwrites it."""
        held = self.scratch.get(name)
        if held is None or len(held) < count or held.dtype != like.dtype:
            held = self.scratch[name] = like.new_empty(count + count // 4)
        return held[:count]

    def window_slots(self) -> Int[Tensor, " B"]:
        """Slot of each row's token in the window, as an index into its (B, capacity) slots."""
        assert self.window is not None
        if self._window_slots is None:
            row = torch.arange(len(self.positions), device=self.positions.device)
            self._window_slots = row * self.window.capacity + self.positions[:, 0]
        return self._window_slots

    def hidden(self) -> Bool[Tensor, "B T S"] | None:
        """True at the slots after each query; None if there are none or they are in plain causal
        order.
        """
        if self.start is not None or self.level:
            return None
        if self._mask is None:
            order = torch.arange(self.length, device=self.positions.device)
            self._mask = order > self.positions.unsqueeze(-1)
        return self._mask

    def mask(self) -> Bool[Tensor, "B 1 T S"] | None:
        """The slots that each query may attend to; None means causal, the last query at the last
        slot.
        """
        hidden = self.hidden()
        return None if hidden is None else ~hidden.unsqueeze(1)
