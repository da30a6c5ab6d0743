"""Inverse square root schedule with linear warm-up."""

from __future__ import annotations

import math
from typing import Literal

from glassbox.optim.schedules.base import WarmupSchedule


class InverseRoot(WarmupSchedule):
    """Linear warm-up over w = `warmup_steps`, then sqrt((w + 1) / (step + 1)), independent of `total_steps`.

    Source: Vaswani et al., arXiv:1706.03762, section 5.3, with the peak as 1.
    Tested against: the paper's formula.

    >>> InverseRoot(warmup_steps=3).factor(15, 100)
    0.5
    """

    kind: Literal["inverse_root"] = "inverse_root"

    def after_warmup(self, step: int, total_steps: int) -> float:
        """sqrt((w + 1) / (w + step + 1))."""
        peak = self.warmup_steps + 1
        return math.sqrt(peak / (peak + step))
