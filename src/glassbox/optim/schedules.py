"""Learning-rate schedules: pure functions of the step, so that nothing needs saving."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from glassbox.core.config import Spec


class WarmupCosine(Spec):
    """Linear rise over `warmup_steps`, then half a cosine down to `final_ratio` of the peak.

    Source: Loshchilov and Hutter, arXiv:1608.03983; GPT-3, arXiv:2005.14165, appendix B.
    """

    kind: Literal["warmup_cosine"] = "warmup_cosine"
    warmup_steps: int = Field(0, ge=0)
    final_ratio: float = Field(0.1, ge=0, le=1)


class WarmupLinear(Spec):
    """Linear rise over `warmup_steps`, then a straight line down to `final_ratio` of the peak."""

    kind: Literal["warmup_linear"] = "warmup_linear"
    warmup_steps: int = Field(0, ge=0)
    final_ratio: float = Field(0.0, ge=0, le=1)


class Constant(Spec):
    """Linear rise over `warmup_steps`, then the peak."""

    kind: Literal["constant"] = "constant"
    warmup_steps: int = Field(0, ge=0)


Schedule = Annotated[WarmupCosine | WarmupLinear | Constant, Field(discriminator="kind")]


def schedule_factor(
    schedule: WarmupCosine | WarmupLinear | Constant, step: int, total_steps: int
) -> float:
    """Share of the peak learning rate at optimizer step `step`, counted from 0.

    No step has rate zero in the warm-up: step 0 of w has 1 / (w + 1), step w the whole peak. The
    final ratio would be reached at step `total_steps`, the first that is not taken.
    Tested against: torch.optim.lr_scheduler.CosineAnnealingLR and LinearLR.

    >>> schedule_factor(WarmupCosine(warmup_steps=1), 1, 100)
    1.0
    """
    if step < schedule.warmup_steps:
        return (step + 1) / (schedule.warmup_steps + 1)
    if isinstance(schedule, Constant):
        return 1.0
    span = max(1, total_steps - schedule.warmup_steps)
    progress = min(1.0, (step - schedule.warmup_steps) / span)
    shape = (
        0.5 * (1 + math.cos(math.pi * progress))
        if schedule.kind == "warmup_cosine"
        else 1 - progress
    )
    return schedule.final_ratio + (1 - schedule.final_ratio) * shape
