"""Cosine schedule with warm restarts."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from glassbox.optim.schedules.base import WarmupSchedule


class CosineRestarts(WarmupSchedule):
    """Linear warm-up, then cosine cycles down to `final_ratio`, each `growth` times as long as the last.

    Source: Loshchilov and Hutter, arXiv:1608.03983 (SGDR), section 3.
    Tested against: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts.
    """

    kind: Literal["cosine_restarts"] = "cosine_restarts"
    first_steps: int = Field(gt=0, description="T_0, length of the first cycle")
    growth: int = Field(1, gt=0, description="T_mult, ratio of the lengths of successive cycles")
    final_ratio: float = Field(0.0, ge=0, le=1)

    def after_warmup(self, step: int, total_steps: int) -> float:
        """(1 + cos(pi * progress within the cycle)) / 2, scaled to lie between `final_ratio` and 1."""
        length = self.first_steps
        while step >= length:
            step -= length
            length *= self.growth
        shape = 0.5 * (1 + math.cos(math.pi * step / length))
        return self.final_ratio + (1 - self.final_ratio) * shape
