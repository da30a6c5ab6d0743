"""What the training loop asks of a clipper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Clipper:
    """Makes the gradients of a step smaller, in place; by itself it leaves them as they are."""

    def clip_(self, gradients: Sequence[Tensor]) -> Tensor:
        """Their global norm before; afterwards they are clipped."""
        return global_norm(gradients)

    def state_dict(self) -> dict[str, Any]:
        """What it remembers of earlier steps, as JSON."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember it again."""


@torch.no_grad()
def global_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all gradients laid end to end, in float32 or wider; 0 for none."""
    if not gradients:
        return torch.zeros(())
    norms = torch._foreach_norm([g if g.dtype == torch.float64 else g.float() for g in gradients])
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))
