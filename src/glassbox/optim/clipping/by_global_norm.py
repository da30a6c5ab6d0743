"""Gradient clipping by global norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from glassbox.core.config import Spec
from glassbox.optim.clipping.base import Clipper, global_norm


class GlobalClip(Spec):
    """Scale all gradients by one factor so that their global norm is at most `max_norm`."""

    kind: Literal["global"] = "global"
    max_norm: float = Field(1.0, gt=0)

    def build(self) -> GlobalClipper:
        """Return the clipper, which has no state."""
        return GlobalClipper(self.max_norm)


class GlobalClipper(Clipper):
    """Applies `clip_by_global_norm_` with a fixed `max_norm`."""

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    def clip_(self, gradients: Sequence[Tensor]) -> Tensor:
        """Clip the global norm to `max_norm` in place; return the norm before clipping.

        Where it is not finite, gradients stay as they are, so that it can be seen which are not: the
        caller skips the step.
        """
        norm = global_norm(gradients)
        if gradients and math.isfinite(float(norm)):
            torch._foreach_mul_(
                list(gradients), torch.clamp(self.max_norm / (norm + 1e-6), max=1.0)
            )
        return norm

    def factor(self, norm: float) -> float | None:
        """min(1, max_norm / (norm + 1e-6))."""
        return min(1.0, self.max_norm / (norm + 1e-6))

    def factors(self, norms: Tensor) -> tuple[Tensor, Tensor]:
        """One factor for all."""
        norm = torch.linalg.vector_norm(norms)
        return norm, torch.clamp(self.max_norm / (norm + 1e-6), max=1.0).expand_as(norms)


@torch.no_grad()
def clip_by_global_norm_(gradients: Sequence[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients by min(1, max_norm / (norm + 1e-6)), in place; return the norm before.

    A norm of NaN makes every gradient NaN, an infinite one makes the finite gradients zero: the
    caller must check the returned norm before taking the step.
    Source: Pascanu et al., arXiv:1211.5063. Tested against: torch.nn.utils.clip_grad_norm_.
    """
    norm = global_norm(gradients)
    if not gradients:
        return norm
    scale = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    torch._foreach_mul_(list(gradients), scale)
    return norm
