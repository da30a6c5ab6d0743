"""Projections of the lightning indexer; `ops.indexer` computes the scores.

Source: DeepSeek-V3.2-Exp (arXiv:2512.02556), section 2, and the code published with it.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from glassbox.core.config import Spec
from glassbox.layers.linear import Linear, WideLinear
from glassbox.layers.norms import LayerNorm, LayerNormLayer
from glassbox.ops.rotary import apply_rotary


class Indexer(Spec):
    """Lightning indexer: a few small heads select the `top_k` past tokens that each query attends
    to.

    While the past is no longer than top_k, attention is dense. The paper's dense warm-up is
    therefore training with a top_k no smaller than the sequence length and the rest of the model
    frozen; sparse training uses a smaller top_k.
    """

    num_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0, description="of which the first rope_dim are turned by position")
    top_k: int = Field(gt=0, description="number of tokens each query attends to")
    layout: Literal["half", "interleaved"] = "half"
    norm: LayerNorm = Field(LayerNorm(eps=1e-6), description="on the index keys")


class IndexParts(NamedTuple):
    """The indexer's projections of each token: queries, one weight per head, and one key."""

    q: Float[Tensor, "B T H Dh"]
    weights: Float[Tensor, "B T H"]
    keys: Float[Tensor, "B T Dh"]


class IndexerLayer(nn.Module):
    """The module of `Indexer`. Its inputs are detached, so that it is trained by its own loss only.

    Tested against: transformers DeepseekV32Indexer.
    """

    def __init__(self, spec: Indexer, hidden_size: int, query_size: int) -> None:
        super().__init__()
        self.spec = spec
        self.q = Linear(query_size, spec.num_heads * spec.head_dim)
        self.k = Linear(hidden_size, spec.head_dim)
        self.k_norm = LayerNormLayer(spec.norm, spec.head_dim)
        self.head_weights = WideLinear(hidden_size, spec.num_heads)

    def forward(
        self,
        hidden: Float[Tensor, "B T D"],
        query_latents: Float[Tensor, "B T Q"],
        tables: tuple[Float[Tensor, "#B T 1 R"], Float[Tensor, "#B T 1 R"]],
    ) -> IndexParts:
        """Compute queries from the main attention's query latents, and weights and keys from the
        hidden states.
        """
        hidden, query_latents, layout = hidden.detach(), query_latents.detach(), self.spec.layout
        heads, width = self.spec.num_heads, self.spec.head_dim
        q = self.q(query_latents).unflatten(-1, (heads, width))
        keys = self.k_norm(self.k(hidden)).unsqueeze(2)
        # scaled as attention is, so that scores neither grow with the width nor with the heads
        weights = self.head_weights(hidden) / math.sqrt(heads * width)
        q, keys = (apply_rotary(x, *tables, layout=layout) for x in (q, keys))
        return IndexParts(q, weights, keys.squeeze(2))
