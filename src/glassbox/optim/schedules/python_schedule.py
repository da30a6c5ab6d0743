"""User-defined schedules: `kind: python, path: my.py:function`."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from glassbox.core.errors import UserError
from glassbox.core.plugins import PythonSpec


class PythonSchedule(PythonSpec):
    """A function (step, total_steps, **options) that returns a fraction of the peak learning rate.

    Steps count from 0. It is called at every step and must be stateless, so that a run can resume.
    """

    warmup_steps: int = Field(
        0, ge=0, description="linear warm-up before the function's first step"
    )

    def factor(self, step: int, total_steps: int) -> float:
        """Fraction of the peak at a step. Raises UserError unless the result is a finite number >= 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        value: Any = self.make(
            "schedule", step - self.warmup_steps, total_steps - self.warmup_steps
        )
        if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise UserError(
                f"schedule '{self.path}' gave {value!r} at step {step}; it must give a number >= 0"
            )
        return float(value)
