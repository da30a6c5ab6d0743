"""Gradient clipping."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def global_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all gradients laid end to end, in float32 or wider; 0 for none."""
    if not gradients:
        return torch.zeros(())
    norms = torch._foreach_norm([g if g.dtype == torch.float64 else g.float() for g in gradients])
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))


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
