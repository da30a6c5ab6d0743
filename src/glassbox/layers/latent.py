"""Multi-head latent attention (MLA), dense or sparse by a lightning indexer (DSA).

The cache holds one small entry per token instead of keys and values for every head; see
`ops.latent`. With an indexer each query attends to a few selected tokens.

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
    """Multi-head latent attention: H heads whose keys and values are projected from a latent of
    kv_rank channels per token.

    Queries and keys have nope_dim channels without positions and rope_dim channels with rotary
    positions; the rotary part of the key is shared by all heads.
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
        """Return the spec itself, since no default depends on the hidden size."""
        return self

    @property
    def query_dim(self) -> int:
        """Channels of a head's query and key."""
        return self.nope_dim + self.rope_dim

    @property
    def scale(self) -> float:
        """The scale of attention scores: 1/sqrt(query_dim), times YaRN's temperature for all
        channels.

        YaRN's own factor applies to the rotary channels only; `mscale_all_dim` applies it to the
        others: m^2 with m = 0.1 mscale_all_dim ln(factor) + 1 (as in the code published with
        DeepSeek-V2).
        """
        scaling = self.positions.scaling
        if not isinstance(scaling, YarnScaling) or not scaling.mscale_all_dim:
            return self.query_dim**-0.5
        return self.query_dim**-0.5 * yarn_temperature(scaling.factor, scaling.mscale_all_dim) ** 2

    def build(self, hidden_size: int) -> LatentAttention:
        """Return the module; its weights are not yet initialized."""
        return LatentAttention(self, hidden_size)


class LatentState(RowState):
    """One entry per token, [latent ; rotated key], and the indexer's key if there is an indexer.

    Slot = position, as in `KeyValueState`: padding is written after a row's end and overwritten.
    """

    kept = ("entries", "index_keys")

    def __init__(self, entries: Tensor, index_keys: Tensor | None) -> None:
        self.entries = entries
        self.index_keys = index_keys

    def attended(
        self, entries: Tensor, index_keys: Tensor | None, context: Context
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Write this call's entries at their positions; return the entries its queries may attend
        to, and the mask.
        """
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
    """The module of `Latent`; the rows of `kv_up` are each head's keys, then its values.

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
        """Rows of queries, keys and values in the fused matrices, divided as in the paper."""
        spec = self.spec
        return {
            "q_up.weight": FusedRows((spec.nope_dim, spec.rope_dim), groups=spec.num_heads),
            "kv_down.weight": FusedRows((spec.kv_rank, spec.rope_dim)),
            "kv_up.weight": FusedRows((spec.nope_dim, spec.value_dim), groups=spec.num_heads),
        }

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> LatentState:
        """Return an empty cache for `batch_size` rows of up to `max_length` tokens."""
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
        """Return an empty pool of blocks."""
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
        """Mix each token with the earlier tokens of its document, and of the cached past if `state`
        is given.
        """
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
        """The cache entries: the normalized latent, and the rotated key."""
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
        """Attend to the entries selected by the mask and, if there is one, by the indexer."""
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
        """Add the indexer's loss, the mean over tokens (without padding) of KL(attention ||
        indexer).
        """
        assert context.auxiliary is not None
        divergence = indexer_divergence(
            *index, queries, entries, context.mask(), scale=self.spec.scale, chosen=chosen
        )
        context.auxiliary.add_loss(INDEXER_LOSS, _mean_of_real(divergence, context))


def _mean_of_real(values: Float[Tensor, "B T"], context: Context) -> Float[Tensor, ""]:
    """The mean over tokens that are not padding."""
    if context.documents is not None:
        real = context.documents >= 0
    elif context.lengths is not None:
        places = torch.arange(values.shape[1], device=values.device)
        real = places < context.lengths.unsqueeze(1)
    else:
        return values.mean()
    return (values * real).sum() / real.sum().clamp(min=1)
