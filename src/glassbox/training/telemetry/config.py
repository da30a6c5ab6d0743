"""Settings of telemetry."""

from __future__ import annotations

from pydantic import Field

from glassbox.core.config import Spec


class TelemetryConfig(Spec):
    """How often the inside of the model is measured, and on how much of a batch."""

    every: int = Field(50, ge=0, description="steps between measurements; 0: never")
    rows: int = Field(2, gt=0, description="rows of the last micro-batch that are looked at")
    queries: int = Field(
        64, gt=0, description="positions a row at which attention and logits are recomputed"
    )
