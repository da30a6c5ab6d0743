"""Linear warm-up, then cosine decay."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from glassbox.optim.schedules.base import WarmupSchedule, share_done


class WarmupCosine(WarmupSchedule):
    """Linear warm-up over `warmup_steps`, then cosine decay to `final_ratio` of the peak.

    The final ratio would be reached at step `total_steps`, one past the last step.
    Source: Loshchilov and Hutter, arXiv:1608.03983; GPT-3, arXiv:2005.14165, appendix B.
    Tested against: torch.optim.lr_scheduler.CosineAnnealingLR.

    >>> WarmupCosine(warmup_steps=1).factor(1, 100)
    1.0
    """

    kind: Literal["warmup_cosine"] = "warmup_cosine"
    final_ratio: float = Field(0.1, ge=0, le=1)

    def after_warmup(self, step: int, total_steps: int) -> float:
        """(1 + cos(pi * progress)) / 2, scaled to lie between `final_ratio` and 1."""
        shape = 0.5 * (1 + math.cos(math.pi * share_done(step, total_steps)))
        return self.final_ratio + (1 - self.final_ratio) * shape
