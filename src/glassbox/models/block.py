"""A block, and the table that maps specs to modules: a new variant is a spec and a row here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glassbox.core.config import Spec
from glassbox.layers.attention import GroupedQuery, GroupedQueryAttention
from glassbox.layers.context import Context
from glassbox.layers.feedforward import Gelu, GeluLayer, SwiGlu, SwiGluLayer
from glassbox.layers.norms import LayerNorm, LayerNormLayer, RmsNorm, RmsNormLayer
from glassbox.models.config import BlockSpec

MODULES: dict[type[Spec], Callable[[Any, int], nn.Module]] = {
    GroupedQuery: GroupedQueryAttention,
    Gelu: GeluLayer,
    SwiGlu: SwiGluLayer,
    RmsNorm: RmsNormLayer,
    LayerNorm: LayerNormLayer,
}


class State(Protocol):
    """What a mixer keeps of the tokens so far: a cache, or a running state of fixed size."""

    def reorder(self, rows: Tensor) -> None:
        """Keep only these rows of the batch, in this order."""

    @property
    def cache_bytes(self) -> int:
        """Memory held."""


def build(spec: Spec, hidden_size: int) -> nn.Module:
    """The module of a spec."""
    return MODULES[type(spec)](spec, hidden_size)


class Block(nn.Module):
    """x + mixer(norm(x)), then x + ffn(norm(x)): the pre-norm residual layout.

    Source: Radford et al. 2019, section 2.3; Xiong et al., arXiv:2002.04745.
    """

    def __init__(self, spec: BlockSpec, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.mixer_norm = build(spec.norm, hidden_size)
        self.mixer = build(spec.mixer, hidden_size)
        self.ffn_norm = None if spec.ffn is None else build(spec.norm, hidden_size)
        self.ffn = None if spec.ffn is None else build(spec.ffn, hidden_size)

    def forward(
        self, hidden: Float[Tensor, "B T D"], context: Context, state: State | None = None
    ) -> Float[Tensor, "B T D"]:
        """Both branches, each added to the residual stream."""
        hidden = hidden + self._drop(self.mixer(self.mixer_norm(hidden), context, state))
        if self.ffn is not None and self.ffn_norm is not None:
            hidden = hidden + self._drop(self.ffn(self.ffn_norm(hidden)))
        return hidden

    def _drop(self, branch: Tensor) -> Tensor:
        if self.dropout == 0 or not self.training:
            return branch
        return F.dropout(branch, self.dropout)

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> State:
        """An empty state of this block's mixer."""
        mixer: Any = self.mixer
        return mixer.init_state(batch_size, max_length, device=device, dtype=dtype)
