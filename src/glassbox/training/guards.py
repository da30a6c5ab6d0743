"""Guards against bad batches: skipped steps and loss scaling."""

from __future__ import annotations

import math
import statistics
from collections import deque

from pydantic import Field

from glassbox.core.config import Spec
from glassbox.core.errors import UserError


class GuardConfig(Spec):
    """When a step is skipped and when the run stops.

    A step whose loss or gradient norm is not finite, or that holds nothing to learn from, is always
    skipped: weights and moments stay as they were, and the schedule goes on. With `spike_factor`, so
    is one whose gradient norm is above that many times the median of the last `spike_window` steps.
    """

    max_skipped: int = Field(8, ge=0, description="skipped steps in a row; one more stops the run")
    spike_factor: float | None = Field(None, gt=1, description="None: spikes are not skipped")
    spike_window: int = Field(64, ge=8)


class Guard:
    """Decides after each backward pass whether to take or skip the step."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.skipped_in_row = 0
        self.norms: deque[float] = deque(maxlen=config.spike_window)

    def verdict(self, loss: float, norm: float, weight: float) -> str | None:
        """None to take the step, else the reason to skip it. Raises UserError after too many skips in a row."""
        reason = self._reason(loss, norm, weight)
        if reason is None:
            self.skipped_in_row = 0
            self.norms.append(norm)
            return None
        self.skipped_in_row += 1
        if self.skipped_in_row > self.config.max_skipped:
            raise UserError(
                f"{self.skipped_in_row} steps in a row were skipped ({reason}), "
                f"guard.max_skipped = {self.config.max_skipped}; the weights are those of the last "
                "good step and no checkpoint is harmed: train into a new folder with a lower lr, a "
                "longer schedule.warmup_steps or mended data"
            )
        return reason

    def _reason(self, loss: float, norm: float, weight: float) -> str | None:
        if not weight > 0:
            return "it holds nothing to learn from"
        if not math.isfinite(loss):
            return f"loss is {loss}"
        if not math.isfinite(norm):
            return f"gradient norm is {norm}"
        factor = self.config.spike_factor
        if factor is not None and len(self.norms) >= self.config.spike_window // 2:
            usual = statistics.median(self.norms)
            if norm > factor * usual:
                return f"gradient norm {norm:.3g} is over {factor:g} times the usual {usual:.3g}"
        return None

    def state_dict(self) -> dict[str, object]:
        """The state needed to resume, as JSON."""
        return {"skipped_in_row": self.skipped_in_row, "norms": list(self.norms)}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Load a state."""
        self.skipped_in_row = int(state["skipped_in_row"])  # type: ignore[call-overload]
        self.norms = deque(state["norms"], maxlen=self.config.spike_window)  # type: ignore[call-overload]


class LossScaler:
    """Dynamic loss scaling, which keeps float16 gradients from underflowing; halves on overflow.

    The scale doubles after `growth_interval` finite steps. In other precisions it stays at 1.
    Source: Micikevicius et al., arXiv:1710.03740, section 3.2.
    """

    def __init__(
        self, *, enabled: bool, scale: float = 2.0**12, growth_interval: int = 500
    ) -> None:
        self.enabled = enabled
        self.scale = scale if enabled else 1.0
        self.growth_interval = growth_interval
        self.good_steps = 0

    def update(self, *, overflowed: bool) -> None:
        """Update the scale after a step: halve it on overflow, double it after enough finite steps."""
        if not self.enabled:
            return
        if overflowed:
            self.scale, self.good_steps = max(self.scale / 2, 1.0), 0
            return
        self.good_steps += 1
        if self.good_steps >= self.growth_interval:
            self.scale, self.good_steps = self.scale * 2, 0

    def state_dict(self) -> dict[str, object]:
        """The scale and the count of finite steps, as JSON."""
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Load a state."""
        self.scale = float(state["scale"])  # type: ignore[arg-type]
        self.good_steps = int(state["good_steps"])  # type: ignore[call-overload]
