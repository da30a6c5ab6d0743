"""A schedule of the user's own: `kind: python, path: my.py:function`."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field

from glassbox.core.errors import UserError
from glassbox.core.plugins import PythonSpec


class PythonSchedule(PythonSpec):
    """A function called with (step, total_steps, **options): the share of the peak learning rate.

    Steps count from 0. It is asked at every step and must not remember: a resumed run asks again.
    """

    warmup_steps: int = Field(0, ge=0, description="a linear rise before the function's first step")

    def factor(self, step: int, total_steps: int) -> float:
        """Share of the peak at a step. Raises UserError where the function gives no finite number >= 0."""
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
