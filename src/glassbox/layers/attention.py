"""Grouped-query attention, including multi-head (K = H), multi-query (K = 1) and single-head (H =
1) attention.

Source: Ainslie et al., arXiv:2305.13245; the sources of its parts are given with the functions in
`ops`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from glassbox.core.config import Spec
from glassbox.layers.context import Context
from glassbox.layers.initialization import Draw
from glassbox.layers.inside import SoftmaxHeads
from glassbox.layers.key_value_state import (
    NO_PAST,
    KeyValueState,
    KeyValueView,
    Scoring,
    WindowState,
)
from glassbox.layers.linear import Linear
from glassbox.layers.norms import Norm
from glassbox.layers.paged_state import PagedKeyValue
from glassbox.layers.parameter_roles import FusedRows
from glassbox.layers.rotary import Alibi, Rotary
from glassbox.ops.rotary import apply_rotary

__all__ = ["GroupedQuery", "GroupedQueryAttention", "KeyValueState", "Rotary"]


class GroupedQuery(Spec):
    """Grouped-query attention: H query heads share K key/value heads."""

    kind: Literal["grouped_query"] = "grouped_query"
    num_heads: int = Field(gt=0)
    num_kv_heads: int | None = Field(None, gt=0, description="num_heads unless given")
    head_dim: int | None = Field(None, gt=0, description="hidden_size / num_heads unless given")
    positions: Annotated[Rotary | Alibi, Field(discriminator="kind")] | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: Norm | None = Field(None, description="on queries and keys, before they are turned")
    qk_norm_over: Literal["head", "all"] = Field(
        "head", description="each head's channels, or those of all heads at once, as OLMo 2"
    )
    scale: float | None = Field(None, gt=0, description="times the scores; None: 1/sqrt(head_dim)")
    softcap: float | None = Field(None, gt=0, description="c: scores become c tanh(scores / c)")
    window: int | None = Field(
        None, gt=0, description="a query sees itself and the window - 1 tokens before it"
    )
    output_gate: bool = Field(
        False, description="each head's output times sigmoid(W x), as Qwen3-Next"
    )
    sinks: bool = Field(
        False, description="one learned score a head in the softmax's denominator, as gpt-oss"
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> GroupedQuery:
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"num_heads = {self.num_heads} is no multiple of num_kv_heads = {self.kv_heads}"
            )
        return self

    @property
    def kv_heads(self) -> int:
        """K, the number of key/value heads; H by default."""
        return self.num_kv_heads or self.num_heads

    def resolve(self, hidden_size: int) -> GroupedQuery:
        """Return the spec with all defaults filled in."""
        head_dim = self.resolved_head_dim(hidden_size)
        if isinstance(self.positions, Rotary):
            self.positions.check(head_dim)
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

    def build(self, hidden_size: int) -> GroupedQueryAttention:
        """Return the module; its weights are not yet initialized."""
        return GroupedQueryAttention(self, hidden_size)


class GroupedQueryAttention(nn.Module):
    """The module of `GroupedQuery`.

    One fused matrix, ((H + 2K) Dh, D), computes q, k and v; an output gate adds H Dh rows.
    Tested against: transformers LlamaAttention, GPT2Attention, Qwen3Attention, Olmo2Attention,
    Gemma2Attention, GptOssAttention and BloomAttention, outputs and gradients.
    """

    inside = SoftmaxHeads()

    def __init__(self, spec: GroupedQuery, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        self.num_heads = spec.num_heads
        self.num_kv_heads = spec.kv_heads
        self.head_dim = spec.resolved_head_dim(hidden_size)
        query_size = self.num_heads * self.head_dim
        key_size = self.num_kv_heads * self.head_dim
        gate_size = query_size if spec.output_gate else 0
        self.qkv = Linear(hidden_size, query_size + 2 * key_size + gate_size, bias=spec.qkv_bias)
        over_head = spec.qk_norm_over == "head"
        self.q_norm = _norm(spec.qk_norm, self.head_dim if over_head else query_size)
        self.k_norm = _norm(spec.qk_norm, self.head_dim if over_head else key_size)
        self.sinks = nn.Parameter(torch.zeros(spec.num_heads)) if spec.sinks else None
        self.output = Linear(query_size, hidden_size, bias=spec.output_bias, into_residual=True)

    def fused_rows(self) -> dict[str, FusedRows]:
        """Rows of q, k, v and the gate in the fused matrix."""
        queries, keys = (n * self.head_dim for n in (self.num_heads, self.num_kv_heads))
        gate = (queries,) if self.spec.output_gate else ()
        return {"qkv.weight": FusedRows((queries, keys, keys, *gate))}

    def initialize(self, draw: Draw) -> None:
        """Initialize sinks to zero, as if each were a key with score zero."""
        if self.sinks is not None:
            nn.init.zeros_(self.sinks)

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> KeyValueState | WindowState:
        """Return an empty cache for `batch_size` rows of up to `max_length` tokens, or of the
        window if it is shorter.
        """
        window = self.spec.window
        ring = window is not None and window < max_length
        kind = WindowState if ring else KeyValueState
        slots = window if ring and window is not None else max_length
        return kind(batch_size, self.num_kv_heads, slots, self.head_dim, device=device, dtype=dtype)

    def init_paged(
        self,
        num_blocks: int,
        block_size: int,
        context_length: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> PagedKeyValue | None:
        """Return an empty pool of blocks, or None with a window shorter than the context, for which
        a ring buffer is smaller.
        """
        if self.spec.window is not None and self.spec.window < context_length:
            return None
        return PagedKeyValue(
            num_blocks, block_size, self.num_kv_heads, self.head_dim, device=device, dtype=dtype
        )

    def forward(
        self,
        hidden: Float[Tensor, "B T D"],
        context: Context,
        state: KeyValueView | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Mix each token with the earlier tokens of its document, and of the cached past if `state`
        is given.
        """
        batch, length, _ = hidden.shape
        q, k, v, gate = self._heads(hidden, context)  # (B, heads, T, Dh)
        mixed = self.attend(q, k, v, context, NO_PAST if state is None else state)
        if self.spec.output_gate:
            mixed = torch.sigmoid(gate) * mixed
        return self.output(mixed.transpose(1, 2).reshape(batch, length, -1))

    def attend(
        self,
        q: Float[Tensor, "B H T Dh"],
        k: Float[Tensor, "B K T Dh"],
        v: Float[Tensor, "B K T Dh"],
        context: Context,
        view: KeyValueView,
    ) -> Float[Tensor, "B H T Dh"]:
        """Attend to the given keys and values and to those in the state."""
        return view.attend(q, k, v, context, **self.scoring(context))

    def scoring(self, context: Context) -> Scoring:
        """Settings of the attention scores."""
        spec = self.spec
        slopes = context.slopes(self.num_heads) if isinstance(spec.positions, Alibi) else None
        return {
            "scale": spec.scale,
            "window": spec.window,
            "softcap": spec.softcap,
            "sinks": self.sinks,
            "slopes": slopes,
        }

    def _heads(self, hidden: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute q, k and v, normalized and rotated, and the output gate, which has zero heads if
        there is none.
        """
        batch, length, _ = hidden.shape
        q_heads, kv_heads, rotary = self.num_heads, self.num_kv_heads, self.spec.positions
        heads = self.qkv(hidden).view(batch, length, -1, self.head_dim)
        gates = heads.shape[2] - q_heads - 2 * kv_heads
        qk, v, gate = heads.split((q_heads + kv_heads, kv_heads, gates), dim=2)  # (B, T, ., Dh)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = qk.split((q_heads, kv_heads), dim=2)
            if self.spec.qk_norm_over == "all":
                q, k = (
                    norm(x.flatten(2)).view(x.shape)
                    for norm, x in ((self.q_norm, q), (self.k_norm, k))
                )
            else:
                q, k = self.q_norm(q), self.k_norm(k)
            qk = torch.cat((q, k), dim=2)
        if isinstance(rotary, Rotary):
            tables = context.rotary(rotary.num_channels(self.head_dim), rotary.base, rotary.scaling)
            qk = apply_rotary(qk, *tables, layout=rotary.layout)
        q, k = qk.split((q_heads, kv_heads), dim=2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), gate.transpose(1, 2)


def _norm(spec: Norm | None, size: int) -> nn.Module | None:
    return None if spec is None else spec.build(size)
