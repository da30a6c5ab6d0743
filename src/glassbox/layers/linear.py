"""Linear and embedding layers."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from glassbox.layers.initialization import Draw
from glassbox.layers.wide_weights import NARROW
from glassbox.ops import for_compiler
from glassbox.ops.experts import linear_wide
from glassbox.ops.for_compiler import compiles_training


class Linear(nn.Module):
    """A linear layer: y = x W^T + b with W of shape (out_features, in_features).

    into_residual: marks the last matrix of a mixer or feed-forward, which is initialized with a
        smaller std.
    Tested against: torch.nn.Linear.
    """

    matrices: ClassVar[tuple[str, ...]] = ("weight",)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        into_residual: bool = False,
    ) -> None:
        super().__init__()
        self.into_residual = into_residual
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Float[Tensor, "*shape I"]) -> Float[Tensor, "*shape O"]:
        """Project the last axis. `F.linear` is x @ W.T + b in one call (and what autocast knows)."""
        if compiles_training(x) and x.dtype == self.weight.dtype:
            return for_compiler.linear(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)

    def initialize(self, draw: Draw) -> None:
        """Initialize the weight from a normal distribution, the bias to zero."""
        draw.normal(self.weight, into_residual=self.into_residual)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        """The settings shown by `print(model)`."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class WideLinear(Linear):
    """A `Linear` whose weight stays in float32 in a model of a narrower dtype; its outputs are then
    float32.

    Tested against: `Linear` on inputs in float32.
    """

    wide_weights: ClassVar[tuple[str, ...]] = ("weight", "bias")

    def forward(self, x: Float[Tensor, "*shape I"]) -> Float[Tensor, "*shape O"]:
        """Project the last axis; inputs are cast to the weight's dtype if they are narrower."""
        if x.dtype in NARROW and self.weight.dtype == torch.float32:
            return linear_wide(x, self.weight, self.bias)
        return super().forward(x)


class Embedding(nn.Module):
    """A lookup table: row `id` of a (V, D) matrix for every id. Tested against: torch.nn.Embedding."""

    def __init__(self, num_rows: int, hidden_size: int) -> None:
        super().__init__()
        self.num_rows = num_rows
        self.hidden_size = hidden_size
        self.weight = nn.Parameter(torch.empty(num_rows, hidden_size))

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the embeddings."""
        return self.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the table."""
        return self.weight.device

    def project(self, hidden: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape V"]:
        """Compute hidden W^T, the logits of a model whose output projection is tied to the
        embedding.
        """
        return F.linear(hidden, self.weight)

    def forward(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape D"]:
        """Look up rows (`F.embedding`); the gradient of a row is the sum over its uses."""
        return F.embedding(ids, self.weight)

    def initialize(self, draw: Draw) -> None:
        """Initialize the rows from a normal distribution."""
        draw.embedding(self.weight)

    def extra_repr(self) -> str:
        """The settings shown by `print(model)`."""
        return f"{self.num_rows}, {self.hidden_size}"
