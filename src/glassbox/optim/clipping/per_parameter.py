"""A factor for each gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from glassbox.core.config import Spec
from glassbox.optim.clipping.base import Clipper, global_norm
from glassbox.optim.clipping.by_global_norm import clip_by_global_norm_


class ParameterClip(Spec):
    """Each parameter's gradient by itself, so that no norm is above `max_norm`."""

    kind: Literal["per_parameter"] = "per_parameter"
    max_norm: float = Field(1.0, gt=0)

    def build(self) -> ParameterClipper:
        """A clipper; it remembers nothing."""
        return ParameterClipper(self.max_norm)


class ParameterClipper(Clipper):
    """`clip_by_global_norm_` of each gradient: one with a spike does not shrink the others.

    Tested against: torch.nn.utils.clip_grad_norm_, parameter by parameter.
    """

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    @torch.no_grad()
    def clip_(self, gradients: Sequence[Tensor]) -> Tensor:
        """Their global norm before; afterwards each one's is at most `max_norm`."""
        norm = global_norm(gradients)
        for gradient in gradients:
            clip_by_global_norm_([gradient], self.max_norm)
        return norm
