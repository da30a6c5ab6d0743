"""Heads and cache slots shared by the attention layers that select blocks of keys."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from glassbox.core.config import Spec
from glassbox.layers.context import Context
from glassbox.layers.rotary import Rotary
from glassbox.ops.rotary import apply_rotary
from glassbox.ops.selected_blocks import Slots, document_slots, padded_length

SpecT = TypeVar("SpecT", bound="GroupedHeads")


class GroupedHeads(Spec):
    """H query heads that share K key/value heads. Source: Ainslie et al., arXiv:2305.13245."""

    num_heads: int = Field(gt=0)
    num_kv_heads: int | None = Field(None, gt=0, description="num_heads unless given")
    head_dim: int | None = Field(None, gt=0, description="hidden_size / num_heads unless given")
    positions: Rotary | None = None

    @model_validator(mode="after")
    def _heads_divide(self: SpecT) -> SpecT:
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"num_heads = {self.num_heads} is no multiple of num_kv_heads = {self.kv_heads}"
            )
        return self

    @property
    def kv_heads(self) -> int:
        """K, the number of key/value heads; H by default."""
        return self.num_kv_heads or self.num_heads

    def resolve(self: SpecT, hidden_size: int) -> SpecT:
        """Return the spec with all defaults filled in."""
        head_dim = self.resolved_head_dim(hidden_size)
        return self.model_copy(update={"num_kv_heads": self.kv_heads, "head_dim": head_dim})

    def resolved_head_dim(self, hidden_size: int) -> int:
        """Dh: `head_dim`, or hidden_size / num_heads. Raises ValueError if that is not an integer."""
        if self.head_dim is not None:
            return self.head_dim
        if hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size = {hidden_size} is no multiple of num_heads = {self.num_heads}; "
                "change one or give head_dim"
            )
        return hidden_size // self.num_heads


def rotate(
    x: Float[Tensor, "B T heads Dh"], rotary: Rotary | None, head_dim: int, context: Context
) -> Float[Tensor, "B T heads Dh"]:
    """Apply rotary positions to each head, if the layer has them."""
    if rotary is None:
        return x
    cos, sin = context.rotary(rotary.num_channels(head_dim), rotary.base, rotary.scaling)
    return apply_rotary(x, cos, sin, layout=rotary.layout)


def slots_in_row(length: int, context: Context, block_size: int) -> Slots:
    """Slots of this call's tokens, in which each packed document begins at the start of a block."""
    if context.documents is not None:
        return document_slots(context.positions.expand_as(context.documents), block_size)
    own = torch.arange(length, device=context.positions.device).unsqueeze(0)
    return Slots(own, torch.zeros_like(own), padded_length(length, block_size))


def slots_in_cache(context: Context, block_size: int) -> Slots:
    """Slots of a cache: each row is one document, and slots equal positions."""
    assert context.key_length is not None
    size = padded_length(context.key_length, block_size)
    return Slots(context.positions, torch.zeros_like(context.positions), size)


def into_slots(
    x: Float[Tensor, "B K T Dh"], slots: Slots, context: Context
) -> Float[Tensor, "B K S Dh"]:
    """Place the vectors of `slots_in_row`'s tokens in their slots, with zeros elsewhere."""
    batch, heads, length, size = x.shape
    if context.documents is None:
        return F.pad(x, (0, 0, 0, slots.size - length))
    index = slots.own[:, None, :, None].expand_as(x)
    return x.new_zeros(batch, heads, slots.size, size).scatter(2, index, x)
