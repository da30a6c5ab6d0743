"""Linear warm-up, then linear decay."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from glassbox.optim.schedules.base import WarmupSchedule, share_done


class WarmupLinear(WarmupSchedule):
    """Linear warm-up over `warmup_steps`, then linear decay to `final_ratio` of the peak.

    The final ratio would be reached at step `total_steps`, one past the last step.
    Tested against: torch.optim.lr_scheduler.LinearLR.
    """

    kind: Literal["warmup_linear"] = "warmup_linear"
    final_ratio: float = Field(0.0, ge=0, le=1)

    def after_warmup(self, step: int, total_steps: int) -> float:
        """1 - progress, scaled to lie between `final_ratio` and 1."""
        shape = 1 - share_done(step, total_steps)
        return self.final_ratio + (1 - self.final_ratio) * shape
