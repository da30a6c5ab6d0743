"""Mixture of block attention (MoBA): each query attends to selected blocks of keys.

Source: Lu et al., arXiv:2502.13189.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from glassbox.layers.context import Context
from glassbox.layers.grouped_heads import (
    GroupedHeads,
    into_slots,
    rotate,
    slots_in_cache,
    slots_in_row,
)
from glassbox.layers.inside import SlotHeads
from glassbox.layers.key_value_state import KeyValueState
from glassbox.layers.linear import Linear
from glassbox.layers.parameter_roles import FusedRows
from glassbox.layers.state import RowState
from glassbox.ops.block_mixture import block_means, block_mixture
from glassbox.ops.selected_blocks import padded_length


class BlockMixture(GroupedHeads):
    """Each query head attends to its own block and the top_k - 1 highest-scoring earlier blocks.

    If top_k times block_size is at least the sequence length, this equals full attention.
    """

    kind: Literal["block_mixture"] = "block_mixture"
    block_size: int = Field(512, gt=0, description="tokens a block")
    top_k: int = Field(3, gt=0, description="blocks a query looks at, its own among them")

    def build(self, hidden_size: int) -> BlockMixtureAttention:
        """Return the module; its weights are not yet initialized."""
        return BlockMixtureAttention(self, hidden_size)


class BlockMixtureState(RowState):
    """Keys and values of the tokens so far, and the sum of the keys of each block.

    Sums of incomplete blocks are not used.
    """

    kept = ("cache", "sums")

    def __init__(self, cache: KeyValueState, block_size: int) -> None:
        keys = cache.keys
        self.cache = cache
        self.block_size = block_size
        shape = (*keys.shape[:2], keys.shape[2] // block_size, keys.shape[3])
        wide = torch.float64 if keys.dtype == torch.float64 else torch.float32
        self.sums = torch.zeros(shape, device=keys.device, dtype=wide)  # (B, K, J, Dh)

    def update(
        self, keys: Float[Tensor, "B K T Dh"], values: Float[Tensor, "B K T Dh"], context: Context
    ) -> Float[Tensor, "B K J Dh"]:
        """Append this call's tokens, without padding; return the means of all blocks, of which
        those of full blocks are valid.
        """
        self.cache.update(keys, values, context)
        batch, _, length, _ = keys.shape
        positions = context.positions.expand(batch, length)
        added = keys.to(self.sums.dtype)
        if context.lengths is not None:
            order = torch.arange(length, device=keys.device)
            padding = order >= context.lengths[:, None]
            added = added.masked_fill(padding[:, None, :, None], 0.0)
        block = (positions // self.block_size)[:, None, :, None].expand_as(added)
        self.sums.scatter_add_(2, block, added)
        return self.sums / self.block_size


class BlockMixtureAttention(nn.Module):
    """The module of `BlockMixture`; one fused matrix, ((H + 2K) Dh, D), computes q, k and v.

    Block scores use the rotated keys. Tested against: the paper's equations as loops, and
    `GroupedQueryAttention` with the same weights where every block is selected.
    """

    attend = staticmethod(block_mixture)
    inside = SlotHeads()

    def __init__(self, spec: BlockMixture, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        self.num_heads = spec.num_heads
        self.num_kv_heads = spec.kv_heads
        self.head_dim = spec.resolved_head_dim(hidden_size)
        query_size = self.num_heads * self.head_dim
        key_size = self.num_kv_heads * self.head_dim
        self.qkv = Linear(hidden_size, query_size + 2 * key_size)
        self.output = Linear(query_size, hidden_size, into_residual=True)

    def fused_rows(self) -> dict[str, FusedRows]:
        """Rows of q, k and v in the fused matrix."""
        keys = self.num_kv_heads * self.head_dim
        return {"qkv.weight": FusedRows((self.num_heads * self.head_dim, keys, keys))}

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> BlockMixtureState:
        """Return an empty cache for `batch_size` rows of up to `max_length` tokens, in whole
        blocks.
        """
        length = padded_length(max_length, self.spec.block_size)
        cache = KeyValueState(
            batch_size, self.num_kv_heads, length, self.head_dim, device=device, dtype=dtype
        )
        return BlockMixtureState(cache, self.spec.block_size)

    def forward(
        self,
        hidden: Float[Tensor, "B T D"],
        context: Context,
        state: BlockMixtureState | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Attend from each token to the tokens of its selected blocks."""
        batch, length, _ = hidden.shape
        heads = self.qkv(hidden).view(batch, length, -1, self.head_dim)
        qk, v = heads.split((self.num_heads + self.num_kv_heads, self.num_kv_heads), dim=2)
        qk = rotate(qk, self.spec.positions, self.head_dim, context)
        q, k = qk.split((self.num_heads, self.num_kv_heads), dim=2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, heads, T, Dh)
        size = self.spec.block_size
        if state is None:
            slots = slots_in_row(length, context, size)
            k, v = into_slots(k, slots, context), into_slots(v, slots, context)
            means = block_means(k, size)
        else:
            means = state.update(k, v, context)
            slots = slots_in_cache(context, size)
            means = means[:, :, : slots.size // size]
            k, v = state.cache.keys, state.cache.values
        mixed = self.attend(q, k, v, means, slots, block_size=size, top_k=self.spec.top_k)
        return self.output(mixed.transpose(1, 2).reshape(batch, length, -1))
