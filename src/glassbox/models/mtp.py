"""Multi-token prediction: small modules behind the model that learn the tokens after the next one.

They give the model more to learn from each token in training, and are not asked when it generates.
Source: DeepSeek-V3, arXiv:2412.19437, section 2.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from glassbox.layers.context import Context
from glassbox.layers.linear import Linear
from glassbox.models.block import Block
from glassbox.models.config import ModelConfig
from glassbox.ops.cross_entropy import IGNORE


class FutureModule(nn.Module):
    """One depth k: h_k = n(block(M [n(h_(k-1)); n(embedding of the token k places on)])).

    h_0 is what the model's own head reads, so each h_k ends in a norm as well: the paper's text
    leaves it out, its published weights have it. Embedding and head are the model's.
    Source: arXiv:2412.19437, equations 21 to 23.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.mtp is not None
        size = config.hidden_size
        self.hidden_norm = config.final_norm.build(size)
        self.embedding_norm = config.final_norm.build(size)
        self.projection = Linear(2 * size, size)
        self.block = Block(config.mtp.block or config.layers()[-1], size, config.dropout)
        self.final_norm = config.final_norm.build(size)

    def forward(
        self,
        hidden: Float[Tensor, "B T D"],
        embedding: Float[Tensor, "B T D"],
        context: Context,
    ) -> Float[Tensor, "B T D"]:
        """Hidden states one depth on."""
        both = torch.cat((self.hidden_norm(hidden), self.embedding_norm(embedding)), dim=-1)
        return self.final_norm(self.block(self.projection(both), context))


def ahead(
    values: Int[Tensor, "B T"],
    places: int,
    documents: Int[Tensor, "B T"] | None = None,
    *,
    beyond: int = IGNORE,
) -> Int[Tensor, "B T"]:
    """Each position's value so many places on; `beyond` where that is outside of its document.

    >>> ahead(torch.tensor([[5, 6, 7, 8]]), 1, torch.tensor([[0, 0, 0, 1]])).tolist()
    [[6, 7, -100, -100]]
    """
    length = values.shape[1]
    later = F.pad(values[:, places:], (0, min(places, length)), value=beyond)
    if documents is None:
        return later
    inside = torch.zeros_like(values, dtype=torch.bool)
    inside[:, : max(0, length - places)] = documents[:, places:] == documents[:, :-places]
    return later.where(inside, beyond)
