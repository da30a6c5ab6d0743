"""Settings of the training loop."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from glassbox.core.config import Spec
from glassbox.core.devices import Precision
from glassbox.core.errors import UserError
from glassbox.optim.averaging import WeightAverageConfig
from glassbox.optim.clipping import Clip, Clipper, GlobalClip
from glassbox.optim.schedules import Schedule
from glassbox.optim.schedules.warmup_cosine import WarmupCosine
from glassbox.training.guards import GuardConfig


class EarlyStop(Spec):
    """The metric that selects the best checkpoint, and the patience in evaluations without improvement."""

    metric: str
    mode: Literal["min", "max"] = "min"
    patience: int = Field(3, gt=0)


class TrainConfig(Spec):
    """Settings of the training loop: steps, learning rate, precision, checkpoints, guards."""

    steps: int | None = Field(
        None, gt=0, description="number of optimizer steps; None: set by epochs"
    )
    epochs: float | None = Field(
        None, gt=0, description="number of passes over the training data, instead of steps"
    )
    lr: float = Field(gt=0, description="peak learning rate")
    schedule: Schedule = WarmupCosine()
    only: tuple[str, ...] = Field(
        (), description="patterns of parameters to train, as blocks.5.* or *norm*; (): all"
    )
    max_grad_norm: float | None = Field(1.0, gt=0, description="None: gradients are not clipped")
    clip: Clip | None = Field(
        None, description="gradient clipping; None: global norm at max_grad_norm"
    )
    ema: WeightAverageConfig | None = Field(
        None, description="moving average of the weights; None: none"
    )
    precision: Precision | Literal["auto"] = Field(
        "auto", description="auto: bfloat16 on a CPU with AMX where compiled, else float32"
    )
    compile: bool | Literal["auto"] = Field(
        "auto", description="compile the step; auto: a long pre-training run on a CPU with AMX"
    )
    log_every: int = Field(10, gt=0)
    checkpoint_every: int = Field(0, ge=0, description="0: only at the end")
    keep_last: int = Field(2, gt=0)
    best_metric: EarlyStop | None = Field(None, description="keep the best checkpoint by it")
    early_stop: bool = Field(False, description="stop by best_metric's patience")
    guard: GuardConfig = GuardConfig()

    @property
    def stated_precision(self) -> Precision:
        """The precision that is named; float32 where it is `auto` and nothing was chosen."""
        return "float32" if self.precision == "auto" else self.precision

    def clipper(self) -> Clipper:
        """The clipper that `clip` specifies, or else `max_grad_norm`."""
        if self.clip is not None:
            return self.clip.build()
        if self.max_grad_norm is None:
            return Clipper()
        return GlobalClip(max_norm=self.max_grad_norm).build()

    @model_validator(mode="after")
    def _settings_fit(self) -> TrainConfig:
        if (self.steps is None) == (self.epochs is None):
            raise UserError(
                f"train.steps = {self.steps} and train.epochs = {self.epochs}: give one of them "
                "(train.steps=null leaves the steps out)"
            )
        if self.steps is not None:
            self._check_warmup(self.steps)
        if self.early_stop and self.best_metric is None:
            raise UserError("early_stop = true needs best_metric, the metric to stop by")
        return self

    def _check_warmup(self, steps: int) -> None:
        warmup = self.schedule.warmup_steps
        if warmup >= steps:
            raise UserError(
                f"train.schedule.warmup_steps = {warmup} leaves nothing of {steps} steps; add "
                f"train.schedule.warmup_steps={steps // 10}"
            )

    def num_steps(self, steps_per_epoch: float | None) -> int:
        """Number of optimizer steps of a run, given the number of steps in one epoch.

        Raises UserError if it is unknown, or if the warm-up takes up all steps.
        """
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        if steps_per_epoch is None:
            raise UserError(
                f"train.epochs = {self.epochs}: these data have no end; give train.steps"
            )
        steps = max(1, math.ceil(self.epochs * steps_per_epoch - 1e-9))
        self._check_warmup(steps)
        return steps
