"""A scalar head: one number from each hidden state. It makes a reward model, or a critic, of a model.

A model whose config says `score_head: true` has it; its weights lie in the model's file, under the
name that transformers' sequence classification gives them.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from glassbox.layers.linear import Linear


class ScalarHead(Linear):
    """s = w . h, a number of a hidden state; no bias, as scores only count against each other.

    Tested against: transformers' LlamaForSequenceClassification with one label.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size, 1)

    def forward(self, x: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape"]:
        """One number a position."""
        return super().forward(x).squeeze(-1)
