"""Grouped-query attention: multi-head (K = H), multi-query (K = 1) and all between.

Source: Ainslie et al., arXiv:2305.13245; rotary positions: arXiv:2104.09864.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from glassbox.core.config import Spec
from glassbox.layers.context import Context
from glassbox.layers.linear import Linear
from glassbox.ops.attention import attention
from glassbox.ops.rotary import apply_rotary


class Rotary(Spec):
    """Rotary positions of an attention layer."""

    kind: Literal["rotary"] = "rotary"
    base: float = Field(10000.0, gt=0, description="theta, the base of the frequencies")
    fraction: float = Field(1.0, gt=0, le=1, description="share of each head's channels turned")
    layout: Literal["half", "interleaved"] = "half"

    def num_channels(self, head_dim: int) -> int:
        """How many of a head's channels are turned: an even number, as they turn in pairs."""
        return int(head_dim * self.fraction) // 2 * 2


class GroupedQuery(Spec):
    """H query heads that share K key/value heads."""

    kind: Literal["grouped_query"] = "grouped_query"
    num_heads: int = Field(gt=0)
    num_kv_heads: int | None = Field(None, gt=0, description="num_heads unless given")
    head_dim: int | None = Field(None, gt=0, description="hidden_size / num_heads unless given")
    positions: Rotary | None = None
    qkv_bias: bool = False
    output_bias: bool = False

    @model_validator(mode="after")
    def _heads_divide(self) -> GroupedQuery:
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"num_heads = {self.num_heads} is no multiple of num_kv_heads = {self.kv_heads}"
            )
        return self

    @property
    def kv_heads(self) -> int:
        """K: the key/value heads, H where none are named."""
        return self.num_kv_heads or self.num_heads

    def resolve(self, hidden_size: int) -> GroupedQuery:
        """The same layer with every default spelled out."""
        head_dim = self.resolved_head_dim(hidden_size)
        return self.model_copy(update={"num_kv_heads": self.kv_heads, "head_dim": head_dim})

    def resolved_head_dim(self, hidden_size: int) -> int:
        """Dh: as given, or hidden_size / num_heads. Raises ValueError where that is no whole number."""
        if self.head_dim is not None:
            return self.head_dim
        if hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size = {hidden_size} is no multiple of num_heads = {self.num_heads}; "
                "change one or give head_dim"
            )
        return hidden_size // self.num_heads


class KeyValueState:
    """Keys and values of the tokens so far, one slot a position, preallocated and written in place.

    Slot = position, so rows of unequal length need no padding on the left: a row's padding is
    written behind its end, where no query looks, and overwritten as the row grows.
    """

    def __init__(
        self,
        batch_size: int,
        num_kv_heads: int,
        max_length: int,
        head_dim: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (batch_size, num_kv_heads, max_length, head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)

    def update(
        self, keys: Float[Tensor, "B K T Dh"], values: Float[Tensor, "B K T Dh"], context: Context
    ) -> tuple[Float[Tensor, "B K S Dh"], Float[Tensor, "B K S Dh"]]:
        """Write this call's keys and values at their positions; return all slots up to key_length."""
        assert context.key_length is not None
        assert context.key_length <= self.keys.shape[2], "the state is shorter than the sequence"
        keys, values = keys.to(self.keys.dtype), values.to(self.values.dtype)
        if context.positions.shape[0] == 1:  # all rows at the same places
            self.keys.index_copy_(2, context.positions[0], keys)
            self.values.index_copy_(2, context.positions[0], values)
        else:
            index = context.positions[:, None, :, None].expand_as(keys)
            self.keys.scatter_(2, index, keys)
            self.values.scatter_(2, index, values)
        return self.keys[:, :, : context.key_length], self.values[:, :, : context.key_length]

    def reorder(self, rows: Tensor) -> None:
        """Keep only these rows, in this order (finished sequences leave, beams branch)."""
        self.keys = self.keys[rows]
        self.values = self.values[rows]

    @property
    def cache_bytes(self) -> int:
        """Memory held."""
        return 2 * self.keys.numel() * self.keys.element_size()


class GroupedQueryAttention(nn.Module):
    """Module of `GroupedQuery`; q, k and v are one matrix, ((H + 2K) Dh, D), so one product.

    Tested against: transformers LlamaAttention and GPT2Attention, outputs and gradients.
    """

    def __init__(self, spec: GroupedQuery, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        self.num_heads = spec.num_heads
        self.num_kv_heads = spec.kv_heads
        self.head_dim = spec.resolved_head_dim(hidden_size)
        query_size = self.num_heads * self.head_dim
        key_size = self.num_kv_heads * self.head_dim
        self.qkv = Linear(hidden_size, query_size + 2 * key_size, bias=spec.qkv_bias)
        self.output = Linear(query_size, hidden_size, bias=spec.output_bias, into_residual=True)

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> KeyValueState:
        """An empty cache for `batch_size` rows of up to `max_length` tokens."""
        return KeyValueState(
            batch_size, self.num_kv_heads, max_length, self.head_dim, device=device, dtype=dtype
        )

    def forward(
        self, hidden: Float[Tensor, "B T D"], context: Context, state: KeyValueState | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix each token with the earlier ones of its document (and, with a state, of its past)."""
        batch, length, _ = hidden.shape
        turned, kv_heads = self.num_heads + self.num_kv_heads, self.num_kv_heads
        heads = self.qkv(hidden).view(batch, length, -1, self.head_dim)
        qk, v = heads.split((turned, kv_heads), dim=2)  # (B, T, H + K, Dh), (B, T, K, Dh)
        rotary = self.spec.positions
        if rotary is not None:
            cos, sin = context.rotary(rotary.num_channels(self.head_dim), rotary.base)
            qk = apply_rotary(qk, cos, sin, layout=rotary.layout)
        q, k = qk.split((self.num_heads, kv_heads), dim=2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, heads, T, Dh)
        if state is not None:
            k, v = (past.to(q.dtype) for past in state.update(k, v, context))
        mixed = attention(q, k, v, context.mask(), hides_future=context.in_order)
        return self.output(mixed.transpose(1, 2).reshape(batch, length, -1))
