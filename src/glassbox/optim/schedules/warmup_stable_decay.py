"""Warmup-stable-decay (WSD) schedule."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from glassbox.optim.schedules.base import WarmupSchedule


class WarmupStableDecay(WarmupSchedule):
    """Linear warm-up, constant at the peak, then decay to `final_ratio` over the last `decay_share` of steps.

    shape: linear, or 1 - sqrt(progress), which decays fastest at first. A run can be extended from its
    constant phase with more steps. The final ratio would be reached at step `total_steps`.
    Source: MiniCPM, arXiv:2404.06395; the shapes: Hägele et al., arXiv:2405.18392.
    Tested against: transformers get_wsd_schedule (linear), the formula.
    """

    kind: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    decay_share: float = Field(
        0.2, ge=0, le=1, description="fraction of all steps in the final decay phase"
    )
    shape: Literal["linear", "sqrt"] = "linear"
    final_ratio: float = Field(0.0, ge=0, le=1)

    def after_warmup(self, step: int, total_steps: int) -> float:
        """1 in the constant phase, then the decay."""
        length = round(self.decay_share * (total_steps + self.warmup_steps))
        begun = step - (total_steps - length)
        if begun < 0 or length == 0:
            return 1.0
        progress = min(1.0, begun / length)
        fall = progress if self.shape == "linear" else math.sqrt(progress)
        return self.final_ratio + (1 - self.final_ratio) * (1 - fall)
