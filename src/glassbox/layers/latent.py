"""Multi-head latent attention (MLA), dense or sparse by a lightning indexer (DSA).

A token leaves one small entry in the cache instead of keys and values of every head; `ops.latent`
says how heads attend to entries. With an indexer each query looks at the few tokens it chooses.

Source: DeepSeek-V2, arXiv:2405.04434, section 2.1; DeepSeek-V3.2-Exp, arXiv:2512.02556, section 2.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from glassbox.core.config import Spec
from glassbox.layers.context import Context
from glassbox.layers.indexer import Indexer, IndexerLayer, IndexParts
from glassbox.layers.inside import LatentHeads
from glassbox.layers.linear import Linear
from glassbox.layers.norms import RmsNorm, RmsNormLayer
from glassbox.layers.paged_state import PagedLatent
from glassbox.layers.parameter_roles import FusedRows
from glassbox.layers.rotary import Rotary, YarnScaling
from glassbox.layers.state import RowState
from glassbox.ops.indexer import choose, chosen_mask, indexer_divergence
from glassbox.ops.latent import (
    Chosen,
    absorb,
    absorbed_cost,
    expanded_cost,
    latent_attention,
    latent_attention_absorbed,
)
from glassbox.ops.rotary import apply_rotary
from glassbox.ops.rotary_scaling import yarn_temperature

INDEXER_LOSS = "indexer_divergence"
"""Name of the indexer's loss in `Auxiliary.losses`."""


class Latent(Spec):
    """H heads whose keys and values come from a latent of kv_rank numbers a token.

    A query and a key have nope_dim channels without position and rope_dim that are turned by it;
    the turned part of the key is one for all heads.
    """

    kind: Literal["latent"] = "latent"
    num_heads: int = Field(gt=0)
    q_rank: int | None = Field(None, gt=0, description="queries come from a latent too; None: not")
    kv_rank: int = Field(gt=0)
    nope_dim: int = Field(gt=0, description="channels of q and k without position")
    rope_dim: int = Field(gt=0, description="channels of q and k turned by position")
    value_dim: int = Field(gt=0)
    positions: Rotary = Rotary(layout="interleaved")
    norm: RmsNorm = Field(RmsNorm(eps=1e-6), description="on the latents")
    latent_bias: bool = Field(False, description="of the projections to the latents")
    output_bias: bool = False
    indexer: Indexer | None = Field(None, description="look only at the tokens it chooses")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Latent:
        if self.rope_dim % 2:
            raise ValueError(f"rope_dim = {self.rope_dim} is odd; channels turn in pairs")
        if self.positions.fraction != 1:
            raise ValueError(
                f"positions.fraction = {self.positions.fraction}; in latent attention rope_dim and "
                "nope_dim say what is turned, so leave it at 1"
            )
        if self.indexer is not None and self.indexer.head_dim < self.rope_dim:
            raise ValueError(
                f"indexer.head_dim = {self.indexer.head_dim} is less than rope_dim = "
                f"{self.rope_dim}, the channels of it that are turned"
            )
        return self

    def resolve(self, hidden_size: int) -> Latent:
        """The same layer: no default depends on the hidden size."""
        return self

    @property
    def query_dim(self) -> int:
        """Channels of a head's query and key."""
        return self.nope_dim + self.rope_dim

    @property
    def scale(self) -> float:
        """What scores are multiplied by: 1/sqrt(query_dim), and YaRN's temperature for all channels.

        YaRN's own factor stands on the turned channels alone; `mscale_all_dim` makes up for the
        others, m^2 with m = 0.1 mscale_all_dim ln(factor) + 1 (the code published with DeepSeek-V2).
        """
        scaling = self.positions.scaling
        if not isinstance(scaling, YarnScaling) or not scaling.mscale_all_dim:
            return self.query_dim**-0.5
        return self.query_dim**-0.5 * yarn_temperature(scaling.factor, scaling.mscale_all_dim) ** 2

    def build(self, hidden_size: int) -> LatentAttention:
        """The layer, with fresh weights yet to be drawn."""
        return LatentAttention(self, hidden_size)


class LatentState(RowState):
    """One entry a token, [latent ; rotated key], and the indexer's key where there is one.

    Slot = position, as in `KeyValueState`: a row's padding stands behind its end and is overwritten.
    """

    kept = ("entries", "index_keys")

    def __init__(self, entries: Tensor, index_keys: Tensor | None) -> None:
        self.entries = entries
        self.index_keys = index_keys

    def attended(
        self, entries: Tensor, index_keys: Tensor | None, context: Context
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Put this call's at their positions; what its queries may look at, and the mask."""
        length = context.key_length
        assert length is not None
        assert length <= self.entries.shape[1], "the state is shorter than the sequence"
        _write(self.entries, entries, context.positions)
        if self.index_keys is None:
            return self.entries[:, :length], None, context.mask()
        assert index_keys is not None
        _write(self.index_keys, index_keys, context.positions)
        return self.entries[:, :length], self.index_keys[:, :length], context.mask()


def _write(slots: Tensor, new: Tensor, positions: Tensor) -> None:
    new = new.to(slots.dtype)
    if positions.shape[0] == 1:  # all rows at the same places
        slots.index_copy_(1, positions[0], new)
    else:
        slots.scatter_(1, positions.unsqueeze(-1).expand_as(new), new)


class LatentAttention(nn.Module):
    """Module of `Latent`; `kv_up` holds each head's key rows, then its value rows.

    Tested against: transformers DeepseekV2Attention, DeepseekV3Attention and DeepseekV32Attention,
    outputs and gradients.
    """

    inside = LatentHeads()

    def __init__(self, spec: Latent, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        heads, bias = spec.num_heads, spec.latent_bias
        query_size = hidden_size
        if spec.q_rank is not None:
            query_size = spec.q_rank
            self.q_down = Linear(hidden_size, query_size, bias=bias)
            self.q_norm = RmsNormLayer(spec.norm, query_size)
        self.q_up = Linear(query_size, heads * spec.query_dim)
        self.kv_down = Linear(hidden_size, spec.kv_rank + spec.rope_dim, bias=bias)
        self.kv_norm = RmsNormLayer(spec.norm, spec.kv_rank)
        self.kv_up = Linear(spec.kv_rank, heads * (spec.nope_dim + spec.value_dim))
        self.output = Linear(
            heads * spec.value_dim, hidden_size, bias=spec.output_bias, into_residual=True
        )
        self.indexer = (
            None if spec.indexer is None else IndexerLayer(spec.indexer, hidden_size, query_size)
        )

    def fused_rows(self) -> dict[str, FusedRows]:
        """Queries and keys without positions, those with, latents and values, as the paper has them."""
        spec = self.spec
        return {
            "q_up.weight": FusedRows((spec.nope_dim, spec.rope_dim), groups=spec.num_heads),
            "kv_down.weight": FusedRows((spec.kv_rank, spec.rope_dim)),
            "kv_up.weight": FusedRows((spec.nope_dim, spec.value_dim), groups=spec.num_heads),
        }

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> LatentState:
        """An empty cache for `batch_size` rows of up to `max_length` tokens."""
        spec = self.spec

        def slots(width: int) -> Tensor:
            return torch.zeros(batch_size, max_length, width, device=device, dtype=dtype)

        return LatentState(
            slots(spec.kv_rank + spec.rope_dim),
            None if spec.indexer is None else slots(spec.indexer.head_dim),
        )

    def init_paged(
        self,
        num_blocks: int,
        block_size: int,
        context_length: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> PagedLatent:
        """An empty pool of blocks."""
        spec = self.spec

        def pool(width: int) -> Tensor:
            return torch.zeros(num_blocks, block_size, width, device=device, dtype=dtype)

        pools = {"entries": pool(spec.kv_rank + spec.rope_dim)}
        if spec.indexer is not None:
            pools["index_keys"] = pool(spec.indexer.head_dim)
        return PagedLatent(pools)

    def forward(
        self,
        hidden: Float[Tensor, "B T D"],
        context: Context,
        state: LatentState | PagedLatent | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Mix each token with the earlier ones of its document (and, with a state, of its past)."""
        rotary = self.spec.positions
        tables = context.rotary(self.spec.rope_dim, rotary.base, rotary.scaling)
        query_latents = hidden if self.spec.q_rank is None else self.q_norm(self.q_down(hidden))
        q, entries = self._queries(query_latents, tables), self._entries(hidden, tables)
        index = None if self.indexer is None else self.indexer(hidden, query_latents, tables)
        if state is None:
            mask = context.mask()
        else:
            own = None if index is None else index.keys
            entries, past, mask = state.attended(entries, own, context)
            entries = entries.to(q.dtype)
            if index is not None:
                assert past is not None
                index = index._replace(keys=past.to(q.dtype))
        mixed = self.attend(q, entries, mask, context, index)
        return self.output(mixed.flatten(2))

    def _queries(self, latents: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        spec = self.spec
        q = self.q_up(latents).unflatten(-1, (spec.num_heads, spec.query_dim))
        own, turned = q.split((spec.nope_dim, spec.rope_dim), dim=-1)
        turned = apply_rotary(turned, *tables, layout=spec.positions.layout)
        return torch.cat((own, turned), dim=-1)  # (B, T, H, N + P)

    def _entries(self, hidden: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """What the cache keeps: the normed latent and the key already turned to its position."""
        spec = self.spec
        latent, shared = self.kv_down(hidden).split((spec.kv_rank, spec.rope_dim), dim=-1)
        turned = apply_rotary(shared.unsqueeze(2), *tables, layout=spec.positions.layout)
        return torch.cat((self.kv_norm(latent), turned.squeeze(2)), dim=-1)  # (B, T, L + P)

    def attend(
        self,
        q: Tensor,
        entries: Tensor,
        mask: Tensor | None,
        context: Context,
        index: IndexParts | None,
    ) -> Float[Tensor, "B T H Dv"]:
        """Attend to the entries that the mask, and the indexer where there is one, show."""
        up = self.kv_up.weight.unflatten(0, (self.spec.num_heads, -1))
        scale, chosen = self.spec.scale, None
        if index is not None:
            assert self.spec.indexer is not None
            if self.spec.indexer.top_k < entries.shape[1]:
                chosen = choose(*index, mask, self.spec.indexer.top_k)
            if context.auxiliary is not None:
                self._teach(absorb(q, entries, up), entries, context, index, chosen)
        if chosen is not None:
            gathered = absorbed_cost(q, entries, up, chosen.indices.shape[-1])
            if gathered < expanded_cost(q, entries, up):
                return latent_attention_absorbed(q, entries, up, scale=scale, chosen=chosen)
            mask = chosen_mask(chosen, entries.shape[1])
        return latent_attention(q, entries, up, mask, scale=scale, hides_future=context.in_order)

    def _teach(
        self,
        queries: Tensor,
        entries: Tensor,
        context: Context,
        index: IndexParts,
        chosen: Chosen | None,
    ) -> None:
        """Add the indexer's loss, the mean over real tokens of KL(attention || indexer)."""
        assert context.auxiliary is not None
        divergence = indexer_divergence(
            *index, queries, entries, context.mask(), scale=self.spec.scale, chosen=chosen
        )
        context.auxiliary.add_loss(INDEXER_LOSS, _mean_of_real(divergence, context))


def _mean_of_real(values: Float[Tensor, "B T"], context: Context) -> Float[Tensor, ""]:
    """The mean over tokens that are no padding."""
    if context.documents is not None:
        real = context.documents >= 0
    elif context.lengths is not None:
        places = torch.arange(values.shape[1], device=values.device)
        real = places < context.lengths.unsqueeze(1)
    else:
        return values.mean()
    return (values * real).sum() / real.sum().clamp(min=1)
