"""Bottleneck adapters: a small MLP after each branch. Source: Houlsby et al., arXiv:1902.00751, section 2.1."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from glassbox.adapters.base import Adapters, AdapterSpec
from glassbox.adapters.layers import AdaptedLinear, Base, LinearUpdate
from glassbox.core.errors import UserError
from glassbox.layers.linear import Linear
from glassbox.layers.quantized import Nf4Linear


class BottleneckAdapter(AdapterSpec):
    """A small bottleneck MLP after each branch of each block (Houlsby)."""

    peft_type: ClassVar[str] = "GLASSBOX_BOTTLENECK"
    width: ClassVar[str] = "size"
    kind: Literal["bottleneck"] = "bottleneck"
    size: int = Field(16, gt=0, description="bottleneck width")
    activation: Literal["relu", "gelu"] = "relu"

    def attach(self, adapters: Adapters, name: str, generator: torch.Generator) -> None:
        """Insert a bottleneck after the last linear layer of every branch."""
        ends = [
            path
            for path, module in adapters.model.named_modules()
            if path.startswith("blocks.")
            and isinstance(module, Linear | Nf4Linear | AdaptedLinear)
            and module.into_residual
            and ".updates." not in path
            and not path.endswith(".base")
        ]
        if not ends:
            raise UserError(
                "adapter of kind 'bottleneck': the model has no branch that ends in a linear layer"
            )
        for path in ends:
            layer = adapters.adapted(path)
            layer.updates[name] = Bottleneck(
                layer.base, size=self.size, activation=self.activation, generator=generator
            )
        adapters.parts[name] = []


class Bottleneck(LinearUpdate):
    """y + up(f(down(y))) on the output y of the last layer of a branch.

    Houlsby's adapter, between each branch and its addition to the residual stream. `up` is
    initialized to zero, so that the output is unchanged at first. Tested against: the formula.
    """

    def __init__(
        self,
        base: Base,
        *,
        size: int,
        activation: str = "relu",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation
        like = base.weight
        wide = torch.float64 if like.dtype == torch.float64 else torch.float32
        self.down = Linear(base.out_features, size, bias=True).to(like.device, wide)
        self.up = Linear(size, base.out_features, bias=True).to(like.device, wide)
        draw = torch.randn(self.down.weight.shape, generator=generator, dtype=wide)
        with torch.no_grad():
            self.down.weight.copy_(draw / math.sqrt(base.out_features))
            self.up.weight.zero_()

    def forward(
        self, x: Float[Tensor, "*shape I"], y: Float[Tensor, "*shape O"], base: Base
    ) -> Float[Tensor, "*shape O"]:
        """Return the adapted output, given the layer's own output."""
        low = self.down(y.to(self.down.weight.dtype))
        low = F.relu(low) if self.activation == "relu" else F.gelu(low)
        return (y + self.up(low)).to(y.dtype)
