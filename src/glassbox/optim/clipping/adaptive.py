"""Adaptive clipping: a threshold from a running quantile of gradient norms."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from glassbox.core.config import Spec
from glassbox.optim.clipping.base import Clipper, global_norm


class AdaptiveClip(Spec):
    """Clip the global gradient norm to a quantile of the norms of the most recent steps."""

    kind: Literal["adaptive"] = "adaptive"
    quantile: float = Field(
        0.1, gt=0, le=1, description="quantile of the norms, including this step's"
    )
    window: int = Field(1000, gt=0, description="number of recent steps in the history")

    def build(self) -> AdaptiveClipper:
        """Return a clipper with an empty history."""
        return AdaptiveClipper(self.quantile, self.window)


class AdaptiveClipper(Clipper):
    """AutoClip: clip the global norm to a quantile of past norms, so no threshold has to be tuned.

    A norm that is not finite is not recorded and leaves the gradients unchanged; the caller
    should skip that step. Source: Seetharaman et al., arXiv:2007.14469, with a window.
    Tested against: the authors' loop with numpy's percentile.
    """

    def __init__(self, quantile: float, window: int) -> None:
        self.quantile = quantile
        self.norms: deque[float] = deque(maxlen=window)

    @torch.no_grad()
    def clip_(self, gradients: Sequence[Tensor]) -> Tensor:
        """Clip the gradients in place to the quantile; return their global norm before clipping."""
        norm = global_norm(gradients)
        if not gradients or not math.isfinite(float(norm)):
            return norm
        self.norms.append(float(norm))
        bound = float(np.quantile(np.array(self.norms), self.quantile))
        torch._foreach_mul_(list(gradients), torch.clamp(bound / (norm + 1e-6), max=1.0))
        return norm

    def factor(self, norm: float) -> float | None:
        """None: the history decides."""
        return None

    def factors(self, norms: Tensor) -> tuple[Tensor, Tensor]:
        """One factor for all, by the history that this norm is added to."""
        norm = torch.linalg.vector_norm(norms)
        if not math.isfinite(float(norm)):
            return norm, torch.ones_like(norms)
        self.norms.append(float(norm))
        bound = float(np.quantile(np.array(self.norms), self.quantile))
        return norm, torch.clamp(bound / (norm + 1e-6), max=1.0).expand_as(norms)

    def state_dict(self) -> dict[str, Any]:
        """The norms of the most recent steps, as JSON."""
        return {"norms": list(self.norms)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the norms."""
        self.norms.clear()
        self.norms.extend(state["norms"])
