"""No change after the warm-up."""

from __future__ import annotations

from typing import Literal

from glassbox.optim.schedules.base import WarmupSchedule


class Constant(WarmupSchedule):
    """Linear rise over `warmup_steps`, then the peak."""

    kind: Literal["constant"] = "constant"

    def after_warmup(self, step: int, total_steps: int) -> float:
        """1."""
        return 1.0
