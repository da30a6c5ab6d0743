"""Base class of learning-rate schedules: linear warm-up to the peak."""

from __future__ import annotations

from pydantic import Field

from glassbox.core.config import Spec


class WarmupSchedule(Spec):
    """Linear warm-up over `warmup_steps`, then the factor given by `after_warmup`."""

    kind: str
    warmup_steps: int = Field(0, ge=0)

    def factor(self, step: int, total_steps: int) -> float:
        """Learning rate at optimizer step `step` (from 0), as a fraction of the peak.

        The warm-up never has rate zero: with w warm-up steps, step 0 has 1 / (w + 1), step w the peak.
        """
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        return self.after_warmup(step - self.warmup_steps, total_steps - self.warmup_steps)

    def after_warmup(self, step: int, total_steps: int) -> float:
        """The fraction after warm-up; both arguments are counted from the end of the warm-up."""
        raise NotImplementedError


def share_done(step: int, total_steps: int) -> float:
    """Progress step / total_steps, clamped to at most 1."""
    return min(1.0, step / max(1, total_steps))
