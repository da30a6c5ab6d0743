"""What all schedules share: the rise to the peak learning rate."""

from __future__ import annotations

from pydantic import Field

from glassbox.core.config import Spec


class WarmupSchedule(Spec):
    """A linear rise over `warmup_steps`, then whatever `after_warmup` says."""

    kind: str
    warmup_steps: int = Field(0, ge=0)

    def factor(self, step: int, total_steps: int) -> float:
        """Share of the peak learning rate at optimizer step `step`, counted from 0.

        No step has rate zero in the warm-up: step 0 of w has 1 / (w + 1), step w the whole peak.
        """
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        return self.after_warmup(step - self.warmup_steps, total_steps - self.warmup_steps)

    def after_warmup(self, step: int, total_steps: int) -> float:
        """The same share, with both numbers counted from the end of the warm-up."""
        raise NotImplementedError


def share_done(step: int, total_steps: int) -> float:
    """step / total_steps, never above 1."""
    return min(1.0, step / max(1, total_steps))
