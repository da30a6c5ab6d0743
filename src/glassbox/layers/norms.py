"""Normalization layers and their specs."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from glassbox.core.config import Spec
from glassbox.layers.initialization import Draw
from glassbox.ops.norms import layer_norm, rms_norm


class RmsNorm(Spec):
    """Root mean square normalization: w * x / rms(x). Source: arXiv:1910.07467."""

    kind: Literal["rms_norm"] = "rms_norm"
    eps: float = Field(1e-5, gt=0)
    offset: bool = Field(
        False, description="the factor is 1 + w, and w starts at zero, as in Gemma"
    )

    def build(self, size: int) -> RmsNormLayer:
        """Return the norm of an axis of `size` channels."""
        return RmsNormLayer(self, size)


class LayerNorm(Spec):
    """Layer normalization: w * (x - mean) / std + b. Source: arXiv:1607.06450."""

    kind: Literal["layer_norm"] = "layer_norm"
    eps: float = Field(1e-5, gt=0)
    bias: bool = True

    def build(self, size: int) -> LayerNormLayer:
        """Return the norm of an axis of `size` channels."""
        return LayerNormLayer(self, size)


Norm = Annotated[RmsNorm | LayerNorm, Field(discriminator="kind")]
"""The union of all norm specs."""


class RmsNormLayer(nn.Module):
    """The module of `RmsNorm`; its weight is initialized to one."""

    wide_weights: ClassVar[tuple[str, ...]] = ("weight",)

    def __init__(self, spec: RmsNorm, size: int) -> None:
        super().__init__()
        self.eps = spec.eps
        self.offset = spec.offset
        self.weight = nn.Parameter(torch.zeros(size) if spec.offset else torch.ones(size))

    def forward(self, x: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape D"]:
        """Normalize the last axis."""
        return rms_norm(x, self.weight, self.eps, offset=self.offset)

    @property
    def gain(self) -> Float[Tensor, " D"]:
        """What each normalised channel is multiplied by."""
        return 1 + self.weight if self.offset else self.weight

    def scaled_as(
        self, x: Float[Tensor, "*#shape D"], like: Float[Tensor, "*shape D"]
    ) -> Float[Tensor, "*shape D"]:
        """x through this norm at the scale of `like`, so that it is linear: forward where they are one."""
        return x * torch.rsqrt(like.square().mean(-1, keepdim=True) + self.eps) * self.gain

    def initialize(self, draw: Draw) -> None:
        """Set the weight to one."""
        nn.init.constant_(self.weight, 0.0 if self.offset else 1.0)


class LayerNormLayer(nn.Module):
    """The module of `LayerNorm`; its weight is initialized to one, its bias to zero."""

    wide_weights: ClassVar[tuple[str, ...]] = ("weight", "bias")

    def __init__(self, spec: LayerNorm, size: int) -> None:
        super().__init__()
        self.eps = spec.eps
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if spec.bias else None

    def forward(self, x: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape D"]:
        """Normalize the last axis."""
        return layer_norm(x, self.weight, self.bias, self.eps)

    @property
    def gain(self) -> Float[Tensor, " D"]:
        """What each normalised channel is multiplied by."""
        return self.weight

    def scaled_as(
        self, x: Float[Tensor, "*#shape D"], like: Float[Tensor, "*shape D"]
    ) -> Float[Tensor, "*shape D"]:
        """x through this norm at the scale of `like`, without the bias, so that it is linear."""
        x, like = (part - part.mean(-1, keepdim=True) for part in (x, like))
        return x * torch.rsqrt(like.square().mean(-1, keepdim=True) + self.eps) * self.gain

    def initialize(self, draw: Draw) -> None:
        """Set the weight to one and the bias to zero."""
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
