"""Weight initialization. Each layer that owns parameters initializes its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Draw:
    """Initialization settings of a model: standard deviations and the random generator.

    std: of ordinary weights.
    residual_std: of the last matrix of a mixer or feed-forward, whose output is added to the
        residual stream.
    embedding_std: of token and position embeddings.
    """

    std: float
    residual_std: float
    embedding_std: float
    generator: torch.Generator | None = None

    def normal(self, weight: Tensor, *, into_residual: bool = False) -> None:
        """Fill a tensor in place from N(0, std^2), or N(0, residual_std^2)."""
        std = self.residual_std if into_residual else self.std
        nn.init.normal_(weight, std=std, generator=self.generator)

    def embedding(self, weight: Tensor) -> None:
        """Fill a tensor in place from N(0, embedding_std^2)."""
        nn.init.normal_(weight, std=self.embedding_std, generator=self.generator)


@runtime_checkable
class Initializes(Protocol):
    """A layer with parameters of its own; child modules initialize theirs."""

    def initialize(self, draw: Draw) -> None:
        """Initialize the layer's own parameters in place."""
