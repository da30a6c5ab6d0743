"""Settings of the training loop."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from glassbox.core.config import Spec
from glassbox.core.devices import Precision
from glassbox.core.errors import UserError
from glassbox.optim.schedules import Schedule, WarmupCosine
from glassbox.training.guards import GuardConfig


class EarlyStop(Spec):
    """Which metric of the hooks is the best model's, and how many evaluations it may get no better."""

    metric: str
    mode: Literal["min", "max"] = "min"
    patience: int = Field(3, gt=0)


class TrainConfig(Spec):
    """How long, how fast, how safely."""

    steps: int = Field(gt=0)
    lr: float = Field(gt=0, description="peak learning rate")
    schedule: Schedule = WarmupCosine()
    only: tuple[str, ...] = Field(
        (), description="patterns of parameters to train, as blocks.5.* or *norm*; (): all"
    )
    max_grad_norm: float | None = Field(1.0, gt=0, description="None: gradients are not clipped")
    precision: Precision = "float32"
    compile: bool = Field(False, description="compile each block (first steps are slow)")
    log_every: int = Field(10, gt=0)
    checkpoint_every: int = Field(0, ge=0, description="0: only at the end")
    keep_last: int = Field(2, gt=0)
    best_metric: EarlyStop | None = Field(None, description="keep the best checkpoint by it")
    early_stop: bool = Field(False, description="stop by best_metric's patience")
    guard: GuardConfig = GuardConfig()

    @model_validator(mode="after")
    def _settings_fit(self) -> TrainConfig:
        if self.schedule.warmup_steps >= self.steps:
            raise UserError(
                f"schedule.warmup_steps = {self.schedule.warmup_steps} leaves nothing of "
                f"steps = {self.steps}; make it smaller"
            )
        if self.early_stop and self.best_metric is None:
            raise UserError("early_stop = true needs best_metric, the metric to stop by")
        return self
