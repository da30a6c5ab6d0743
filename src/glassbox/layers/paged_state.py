"""Paged KV caches: blocks shared by all rows, for keys and values or for latent attention.

`Context.pages` has the addresses; a call without a past attends to its own tokens and only writes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.layers.context import Context
from glassbox.layers.key_value_state import AttendedKeys, KeyValueView
from glassbox.layers.pages import GatheredRows, Pages
from glassbox.layers.state import RowState
from glassbox.ops.single_query import single_query_attention


class PagedState(RowState):
    """Base class of paged states: pools, (..., N, block_size, width), that grow by blocks.

    Rows cannot be selected from it; `Pages` does that.
    """

    def __init__(self, pools: dict[str, Tensor]) -> None:
        self.pools = pools

    def grow(self, num_blocks: int) -> None:
        """Grow to a number of blocks, including the spare one; stored values are kept, and the
        spare block moves.

        Pools that already have that size, after a growth that ran out of memory half way, are left
        as they are.
        """
        for name, old in self.pools.items():
            if old.shape[-3] >= num_blocks:
                continue
            new = old.new_zeros((*old.shape[:-3], num_blocks, *old.shape[-2:]))
            kept = old.shape[-3] - 1
            new[..., :kept, :, :] = old[..., :kept, :, :]
            self.pools[name] = new

    def copy_blocks(self, sources: Int[Tensor, " M"], destinations: Int[Tensor, " M"]) -> None:
        """Copy whole blocks; all sources are read before any block is written."""
        for pool in self.pools.values():
            pool.index_copy_(-3, destinations, pool.index_select(-3, sources))

    def clear_blocks(self, blocks: Int[Tensor, " M"]) -> None:
        """Set whole blocks to zero."""
        for pool in self.pools.values():
            pool.index_fill_(-3, blocks, 0)

    @property
    def cache_bytes(self) -> int:
        """Memory used, in bytes."""
        return sum(pool.numel() * pool.element_size() for pool in self.pools.values())


class PagedKeyValue(PagedState, KeyValueView):
    """Keys and values of softmax attention, (K, N, block_size, Dh), with heads first, so that the
    values gathered for a step form a batch of K B matrices without a further copy.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (num_kv_heads, num_blocks, block_size, head_dim)
        names = ("keys", "values")
        super().__init__({n: torch.zeros(shape, device=device, dtype=dtype) for n in names})

    def write(
        self,
        keys: Float[Tensor, "B K T Dh"],
        values: Float[Tensor, "B K T Dh"],
        pages: Pages,
    ) -> tuple[Float[Tensor, "K B_T Dh"], Float[Tensor, "K B_T Dh"]]:
        """Write this call's keys and values into their slots; return both in the cache's dtype."""
        pool = self.pools["keys"]
        by_token = [x.transpose(0, 1).flatten(1, 2).to(pool.dtype) for x in (keys, values)]
        for name, new in zip(("keys", "values"), by_token, strict=True):
            self.pools[name].flatten(1, 2).index_copy_(1, pages.slots, new)
        return by_token[0], by_token[1]

    def read(self, name: str, pages: Pages) -> Float[Tensor, "K B S Dh"]:
        """Read the slots of every row from one pool: a view if the blocks of a single row are
        consecutive, otherwise a copy.

        Without `token_slots` the copy is in the pages' scratch memory and valid until the next
        layer reads.
        """
        pool = self.pools[name]
        heads, num_blocks, block_size, size = pool.shape
        if pages.token_slots is not None:
            return pool.flatten(1, 2).index_select(1, pages.token_slots).unsqueeze(1)
        if pages.start is not None:
            return pool.flatten(1, 2).narrow(1, pages.start, pages.length).unsqueeze(1)
        blocks = pool.view(heads * num_blocks, block_size * size)
        rows = pages.rows(heads, num_blocks)
        found = pages.room(name, pool, len(rows) * blocks.shape[1]).view(len(rows), -1)
        torch.index_select(blocks, 0, rows, out=found)
        return found.view(heads, len(pages.table), -1, size)[:, :, : pages.length]

    def attended(
        self, keys: Float[Tensor, "B K T Dh"], values: Float[Tensor, "B K T Dh"], context: Context
    ) -> AttendedKeys:
        """Write, and return what this call's queries may attend to."""
        pages = context.pages
        assert pages is not None
        self.write(keys, values, pages)
        if context.in_order:
            return AttendedKeys(keys, values, None, True, None)
        past_keys = self.read("keys", pages).transpose(0, 1)
        past_values = self.read("values", pages).transpose(0, 1)
        order = torch.arange(pages.length, device=keys.device).unsqueeze(0)
        aligned = pages.start is not None
        return AttendedKeys(past_keys, past_values, pages.mask(), aligned, (pages.positions, order))

    def attend(
        self,
        q: Float[Tensor, "B H T Dh"],
        keys: Float[Tensor, "B K T Dh"],
        values: Float[Tensor, "B K T Dh"],
        context: Context,
        *,
        scale: float | None = None,
        window: int | None = None,
        softcap: float | None = None,
        sinks: Float[Tensor, " H"] | None = None,
        slopes: Float[Tensor, " H"] | None = None,
    ) -> Float[Tensor, "B H T Dh"]:
        """Attend as every view does; a single token per row on a CPU uses `decode`, which copies
        less.
        """
        if q.shape[2] == 1 and q.device.type == "cpu" and not context.in_order:
            assert context.pages is not None
            return self.decode(
                q, keys, values, context.pages,
                scale=scale, softcap=softcap, sinks=sinks, slopes=slopes,
            )  # fmt: skip
        return super().attend(
            q, keys, values, context,
            scale=scale, window=window, softcap=softcap, sinks=sinks, slopes=slopes,
        )  # fmt: skip

    def decode(
        self,
        q: Float[Tensor, "B H 1 Dh"],
        keys: Float[Tensor, "B K 1 Dh"],
        values: Float[Tensor, "B K 1 Dh"],
        pages: Pages,
        *,
        scale: float | None,
        softcap: float | None,
        sinks: Float[Tensor, " H"] | None,
        slopes: Float[Tensor, " H"] | None,
    ) -> Float[Tensor, "B H 1 Dh"]:
        """Write one token per row and attend, all rows and heads in two products.

        Tested against: `attended` and `attention`.
        """
        written = self.write(keys, values, pages)
        past_keys, past_values = self.past(written, pages)
        hidden = pages.hidden()
        return single_query_attention(
            q.squeeze(2),
            past_keys,
            past_values,
            None if hidden is None else hidden.squeeze(1),
            scale=scale,
            softcap=softcap,
            sinks=sinks,
            slopes=slopes,
            positions=pages.positions.squeeze(1),
        ).unsqueeze(2)

    def past(
        self, written: tuple[Tensor, Tensor], pages: Pages
    ) -> tuple[Float[Tensor, "K B S Dh"], Float[Tensor, "K B S Dh"]]:
        """Keys and values of every row, the token just written among them."""
        if pages.window is None:
            return self.read("keys", pages), self.read("values", pages)
        keys, values = self._windowed(written, pages.window, pages)
        return keys, values

    def _windowed(
        self, new: tuple[Tensor, Tensor], window: GatheredRows, pages: Pages
    ) -> tuple[Tensor, ...]:
        """Keys and values out of the window, with the tokens just written to the pool."""
        held = window.held.get(self)
        if held is None:
            gathered = [self.read(name, pages) for name in ("keys", "values")]
            shape = (*gathered[0].shape[:2], window.capacity, gathered[0].shape[3])
            held = tuple(past.new_zeros(shape) for past in gathered)
            for buffer, past in zip(held, gathered, strict=True):
                buffer[:, :, : pages.length] = past
            window.held[self] = held
        else:
            slots = pages.window_slots()
            for buffer, by_row in zip(held, new, strict=True):
                buffer.flatten(1, 2).index_copy_(1, slots, by_row)
        return tuple(buffer[:, :, : pages.length] for buffer in held)


class PagedLatent(PagedState):
    """Entries of latent attention, (N, block_size, C), and the indexer's keys if there is an
    indexer.
    """

    def attended(
        self,
        entries: Float[Tensor, "B T C"],
        index_keys: Float[Tensor, "B T Di"] | None,
        context: Context,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Write this call's entries; return what its queries may attend to: entries, index keys and
        the mask.
        """
        pages = context.pages
        assert pages is not None
        found = [self._see("entries", entries, context, pages)]
        if index_keys is not None:
            found.append(self._see("index_keys", index_keys, context, pages))
        mask = None if context.in_order else pages.mask()
        return found[0], found[1] if len(found) > 1 else None, mask

    def _see(self, name: str, new: Tensor, context: Context, pages: Pages) -> Tensor:
        pool = self.pools[name]
        pool.flatten(0, 1).index_copy_(0, pages.slots, new.flatten(0, 1).to(pool.dtype))
        if context.in_order:
            return new
        if pages.start is not None:
            return pool.flatten(0, 1).narrow(0, pages.start, pages.length).unsqueeze(0)
        table = pages.table.flatten()
        found = pages.room(name, pool, len(table) * pool[0].numel()).view(-1, *pool.shape[1:])
        torch.index_select(pool, 0, table, out=found)
        return found.view(len(pages.table), -1, pool.shape[-1])[:, : pages.length]
