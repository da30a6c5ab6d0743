"""Gradient clipping per parameter."""

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
    """Clip each parameter's gradient separately to a norm of at most `max_norm`."""

    kind: Literal["per_parameter"] = "per_parameter"
    max_norm: float = Field(1.0, gt=0)

    def build(self) -> ParameterClipper:
        """Return the clipper, which has no state."""
        return ParameterClipper(self.max_norm)


class ParameterClipper(Clipper):
    """Applies `clip_by_global_norm_` to each gradient, so that a spike in one does not shrink the others.

    Tested against: torch.nn.utils.clip_grad_norm_, parameter by parameter.
    """

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    @torch.no_grad()
    def clip_(self, gradients: Sequence[Tensor]) -> Tensor:
        """Clip each gradient to `max_norm` in place; return the global norm before clipping."""
        norm = global_norm(gradients)
        for gradient in gradients:
            clip_by_global_norm_([gradient], self.max_norm)
        return norm

    def factor(self, norm: float) -> float | None:
        """None: each gradient has its own."""
        return None

    def factors(self, norms: Tensor) -> tuple[Tensor, Tensor]:
        """A factor for each."""
        scales = torch.clamp(self.max_norm / (norms + 1e-6), max=1.0)
        return torch.linalg.vector_norm(norms), scales
