"""The capacity of a KV cache, given the free memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from glassbox.core.errors import UserError
from glassbox.core.memory import available_memory
from glassbox.layers.paged_state import PagedKeyValue, PagedLatent, PagedState
from glassbox.layers.quantized_pages import QuantizedPagedKeyValue, QuantizedPagedLatent
from glassbox.models.causal_lm import CausalLM

SHARE = 4
"""Fraction of the free memory used for the cache; the rest is left for activations, packed weights
and other processes.
"""
_BLOCK = 16


@dataclass(frozen=True)
class CacheSize:
    """Capacity of a paged cache: `tokens` of `token_bytes` each, chosen with `free_bytes` of memory
    free (0: unknown).
    """

    tokens: int
    token_bytes: int
    free_bytes: int

    def __str__(self) -> str:
        mebibytes = self.tokens * self.token_bytes / 2**20
        size = f"{mebibytes / 1024:.1f} GiB" if mebibytes >= 1024 else f"{mebibytes:.0f} MiB"
        free = f" of {self.free_bytes / 2**30:.1f} GiB free" if self.free_bytes else ""
        return f"KV cache: up to {self.tokens:,} tokens, {size}{free}"


def cache_bits(kv_cache: str | None) -> int | None:
    """Bits of a number in the paged cache: "int8" 8, "int4" 4, None or "auto" those of the weights.

    Raises UserError for others.
    """
    if kv_cache in (None, "auto"):
        return None
    if kv_cache not in ("int8", "int4"):
        raise UserError(f"kv_cache = {kv_cache!r} is unknown; use auto, int8 or int4")
    return 8 if kv_cache == "int8" else 4


def in_bits(paged: PagedState, bits: int | None) -> PagedState:
    """An empty pool in so many bits; states of other kinds, and all with None, stay as they are.

    Raises UserError for latent caches in 4 bits: their entries are compressed already.
    """
    if bits is None:
        return paged
    if isinstance(paged, PagedKeyValue):
        return QuantizedPagedKeyValue(paged, bits)
    if isinstance(paged, PagedLatent):
        if bits == 4:
            raise UserError("kv_cache = 'int4': latent attention keeps its cache in int8 at least")
        return QuantizedPagedLatent(paged, bits)
    return paged


def bytes_per_token(*models: CausalLM, kv_cache: str | None = None) -> int:
    """Bytes of the paged cache for each token, summed over the models and their layers.

    States of fixed size per sequence (recurrent states) are not included.
    Tested against: the memory that an engine's cache takes.
    """
    total = 0
    for model in models:
        where = {"device": torch.device("meta"), "dtype": model.dtype}
        for block in model.blocks:
            paged = block.init_paged(1, _BLOCK, model.config.context_length, **where)  # type: ignore[operator]
            total += 0 if paged is None else in_bits(paged, cache_bits(kv_cache)).cache_bytes
    return total // _BLOCK


def choose_cache_tokens(wanted: int, *models: CausalLM, kv_cache: str | None = None) -> CacheSize:
    """`wanted` tokens, or as many as a quarter of the free memory holds.

    Raises UserError if that is less than one block of 16 tokens.
    """
    size = bytes_per_token(*models, kv_cache=kv_cache)
    device = models[0].device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    tokens = wanted
    if free and size:
        tokens = min(wanted, free // SHARE // size)
    if tokens < _BLOCK:
        raise UserError(
            f"{free / 2**20:.0f} MiB of memory are free, too few for a KV cache of {size} bytes a "
            "token; free some, or give --cache-tokens"
        )
    return CacheSize(tokens, size, free)
