"""The gradient-clipper interface of the training loop, and the global gradient norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Clipper:
    """Base class of gradient clippers; this one measures the norm and clips nothing."""

    def clip_(self, gradients: Sequence[Tensor]) -> Tensor:
        """Clip the gradients in place; return their global norm before clipping."""
        return global_norm(gradients)

    def factor(self, norm: float) -> float | None:
        """What all gradients are multiplied by at this global norm; None where that is not one number."""
        return 1.0

    def factors(self, norms: Tensor) -> tuple[Tensor, Tensor]:
        """The global norm, and what each gradient is multiplied by, from the norm of each.

        For gradients that lie in parts on several ranks, where `clip_` would see its own parts alone.
        """
        return torch.linalg.vector_norm(norms), torch.ones_like(norms)

    def state_dict(self) -> dict[str, Any]:
        """The state needed to resume, as JSON."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state."""


@torch.no_grad()
def global_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all gradients concatenated, in float32 or wider; 0 if there are none."""
    if not gradients:
        return torch.zeros(())
    norms = torch._foreach_norm([g if g.dtype == torch.float64 else g.float() for g in gradients])
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))
