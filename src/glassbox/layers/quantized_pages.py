"""Paged caches in 8 or 4 bits: written in codes, widened as they are read.

A call's own tokens are attended to as they are where nothing came before them; everything read back from the
pool is what the codes say.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from glassbox.layers.context import Context
from glassbox.layers.paged_state import PagedKeyValue, PagedLatent
from glassbox.layers.pages import Pages
from glassbox.ops.cache_codes import code_bytes, decode_tokens, encode_tokens, groups_of


def code_pools(
    name: str, pool: Tensor, bits: int, *, device: torch.device | None = None
) -> dict[str, Tensor]:
    """The pools of codes and scales in the place of a plain one."""
    *lead, channels = pool.shape
    device = pool.device if device is None else device
    codes = torch.zeros(*lead, code_bytes(channels, bits), dtype=torch.uint8, device=device)
    width = 2 * groups_of(channels, bits)
    scales = torch.zeros(*lead, width, dtype=torch.float16, device=device)
    return {f"{name}.codes": codes, f"{name}.scales": scales}


class QuantizedPagedKeyValue(PagedKeyValue):
    """`PagedKeyValue` in codes (`ops.cache_codes`), a step and a least value a token, head and group.

    What batches gather is not kept from step to step: such a copy would be the plain cache again.
    Tested against: `PagedKeyValue` that is given the widened keys and values.
    """

    def __init__(self, plain: PagedKeyValue, bits: int) -> None:
        self.bits = bits
        self.channels = {name: pool.shape[-1] for name, pool in plain.pools.items()}
        self.dtype = plain.pools["keys"].dtype
        self.pools = {}
        for name, pool in plain.pools.items():
            self.pools |= code_pools(name, pool, bits)

    def write(
        self,
        keys: Float[Tensor, "B K T Dh"],
        values: Float[Tensor, "B K T Dh"],
        pages: Pages,
    ) -> tuple[Float[Tensor, "K B_T Dh"], Float[Tensor, "K B_T Dh"]]:
        """Put this call's keys and values into their slots, in codes."""
        by_token = [x.transpose(0, 1).flatten(1, 2) for x in (keys, values)]
        for name, new in zip(("keys", "values"), by_token, strict=True):
            for part, found in zip(("codes", "scales"), encode_tokens(new, self.bits), strict=True):
                pool = self.pools[f"{name}.{part}"]
                pool.flatten(1, 2).index_copy_(1, pages.slots, found)
        return by_token[0], by_token[1]

    def read(self, name: str, pages: Pages) -> Float[Tensor, "K B S Dh"]:
        """One pool's slots of every row, widened."""
        codes = super().read(f"{name}.codes", pages)
        scales = super().read(f"{name}.scales", pages)
        return decode_tokens(codes, scales, self.channels[name], self.bits, self.dtype)

    def past(
        self, written: tuple[Tensor, Tensor], pages: Pages
    ) -> tuple[Float[Tensor, "K B S Dh"], Float[Tensor, "K B S Dh"]]:
        """Keys and values of every row, widened anew."""
        return self.read("keys", pages), self.read("values", pages)


class QuantizedPagedLatent(PagedLatent):
    """`PagedLatent` in codes, a step and a least value a token and group; index keys likewise."""

    def __init__(self, plain: PagedLatent, bits: int) -> None:
        self.bits = bits
        self.channels = {name: pool.shape[-1] for name, pool in plain.pools.items()}
        self.dtype = next(iter(plain.pools.values())).dtype
        pools: dict[str, Tensor] = {}
        for name, pool in plain.pools.items():
            pools |= code_pools(name, pool, bits)
        super().__init__(pools)

    def _see(self, name: str, new: Tensor, context: Context, pages: Pages) -> Tensor:
        seen = [
            super(QuantizedPagedLatent, self)._see(f"{name}.{part}", found, context, pages)
            for part, found in zip(("codes", "scales"), encode_tokens(new, self.bits), strict=True)
        ]
        if context.in_order:
            return new
        return decode_tokens(seen[0], seen[1], self.channels[name], self.bits, self.dtype)
