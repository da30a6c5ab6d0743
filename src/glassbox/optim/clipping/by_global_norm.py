"""One factor for all gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from glassbox.core.config import Spec
from glassbox.optim.clipping.base import Clipper, global_norm


class GlobalClip(Spec):
    """All gradients by one factor, so that their norm together is at most `max_norm`."""

    kind: Literal["global"] = "global"
    max_norm: float = Field(1.0, gt=0)

    def build(self) -> GlobalClipper:
        """A clipper; it remembers nothing."""
        return GlobalClipper(self.max_norm)


class GlobalClipper(Clipper):
    """`clip_by_global_norm_` of one norm."""

    def __init__(self, max_norm: float) -> None:
        self.max_norm = max_norm

    def clip_(self, gradients: Sequence[Tensor]) -> Tensor:
        """Their global norm before; afterwards it is at most `max_norm`."""
        return clip_by_global_norm_(gradients, self.max_norm)


@torch.no_grad()
def clip_by_global_norm_(gradients: Sequence[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients by min(1, max_norm / (norm + 1e-6)), in place; return the norm before.

    A norm of NaN makes every gradient NaN, an infinite one makes the finite gradients zero: the
    caller looks at the norm before it takes the step.
    Source: Pascanu et al., arXiv:1211.5063. Tested against: torch.nn.utils.clip_grad_norm_.
    """
    norm = global_norm(gradients)
    if not gradients:
        return norm
    scale = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    torch._foreach_mul_(list(gradients), scale)
    return norm
