"""Constant schedule with linear warm-up."""

from __future__ import annotations

from typing import Literal

from glassbox.optim.schedules.base import WarmupSchedule


class Constant(WarmupSchedule):
    """Linear warm-up over `warmup_steps`, then constant at the peak."""

    kind: Literal["constant"] = "constant"

    def after_warmup(self, step: int, total_steps: int) -> float:
        """Always 1."""
        return 1.0
