"""A bound that follows the norms of the run."""

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
    """All gradients by one factor, down to a quantile of the norms of the latest steps."""

    kind: Literal["adaptive"] = "adaptive"
    quantile: float = Field(0.1, gt=0, le=1, description="of the norms, this step's among them")
    window: int = Field(1000, gt=0, description="steps remembered")

    def build(self) -> AdaptiveClipper:
        """A clipper that has seen nothing."""
        return AdaptiveClipper(self.quantile, self.window)


class AdaptiveClipper(Clipper):
    """AutoClip: the bound is the quantile of the norms so far, so no norm has to be chosen.

    A norm that is not finite is not remembered; of it the gradients stay as they are, and the caller
    does not take the step. Source: Seetharaman et al., arXiv:2007.14469, with a window.
    Tested against: the authors' loop with numpy's percentile.
    """

    def __init__(self, quantile: float, window: int) -> None:
        self.quantile = quantile
        self.norms: deque[float] = deque(maxlen=window)

    @torch.no_grad()
    def clip_(self, gradients: Sequence[Tensor]) -> Tensor:
        """Their global norm before; afterwards it is at most the quantile."""
        norm = global_norm(gradients)
        if not gradients or not math.isfinite(float(norm)):
            return norm
        self.norms.append(float(norm))
        bound = float(np.quantile(np.array(self.norms), self.quantile))
        torch._foreach_mul_(list(gradients), torch.clamp(bound / (norm + 1e-6), max=1.0))
        return norm

    def state_dict(self) -> dict[str, Any]:
        """The norms of the latest steps."""
        return {"norms": list(self.norms)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from them."""
        self.norms.clear()
        self.norms.extend(state["norms"])
