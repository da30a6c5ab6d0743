"""The settings that the recipes of all stages share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field, model_validator

from glassbox.adapters.specs import AnyAdapter
from glassbox.core.config import Spec
from glassbox.core.devices import DeviceName
from glassbox.core.sinks import Tracker
from glassbox.data.python_source import DataPath, PythonSource
from glassbox.evaluation.tasks.config import TrainingTasks
from glassbox.optim.adamw import AdamWConfig
from glassbox.optim.specs import OptimizerConfig
from glassbox.training.alarms import AlarmsConfig
from glassbox.training.config import TrainConfig
from glassbox.training.parallel.config import ParallelConfig
from glassbox.training.python_metric import PythonMetric
from glassbox.training.telemetry.config import TelemetryConfig

HARMLESS = (
    "device", "data.rows_per_batch", "data.workers", "train.log_every", "train.checkpoint_every",
    "train.keep_last", "evaluation.sample_every", "evaluation.prompts", "evaluation.max_tokens",
    "evaluation.temperature", "evaluation.documents", "evaluation.tasks", "telemetry", "logging",
    "alarms", "parallel",
)  # fmt: skip
"""Keys of a recipe, including nested ones, that may be changed in a run that has begun."""


class HeldoutData(Spec):
    """Held-out data for evaluation."""

    heldout_path: DataPath | None = Field(
        None, description="examples to evaluate on; null: hold out a share of those of `path`"
    )
    heldout_share: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="share of prompts held out, chosen by `seed`, if evaluation.every > 0 and "
        "heldout_path is null; 0: none",
    )


class EvaluationConfig(Spec):
    """Evaluation during training."""

    every: int = Field(0, ge=0, description="steps between evaluations; 0: none")
    documents: int = Field(
        64, gt=0, description="number of held-out documents or examples per evaluation"
    )
    sample_every: int = Field(0, ge=0)
    prompts: tuple[str, ...] = ()
    max_tokens: int = Field(64, gt=0)
    temperature: float = Field(
        0.8, ge=0, description="sampling temperature of the samples; 0: greedy"
    )
    metrics: tuple[PythonMetric, ...] = Field(
        (), description="user-defined metrics: [{kind: python, path: my.py:metric}]"
    )

    tasks: TrainingTasks | None = Field(
        None, description="tasks: {tasks: [arc_easy, piqa], data: DIR, limit: 100, every: 500}"
    )

    @model_validator(mode="after")
    def _metrics_are_due(self) -> EvaluationConfig:
        for metric in self.metrics:
            if not (metric.every or self.every):
                raise ValueError(
                    f"evaluation.metrics: '{metric.path}' is never measured; set its `every`, or "
                    "evaluation.every"
                )
        if self.tasks is not None and not (self.tasks.every or self.every):
            raise ValueError(
                "evaluation.tasks is never measured; set its `every`, or evaluation.every"
            )
        return self


class RunSettings(Spec):
    """Settings common to all recipes.

    shards: whether the stage trains a model whose weights lie on several ranks.
    """

    shards: ClassVar[bool] = False
    stage: str
    out: str = Field(description="the run folder")
    seed: int = 0
    device: DeviceName = "auto"
    optim: OptimizerConfig = AdamWConfig()
    adapter: AnyAdapter | None = Field(
        None, description="train an adapter on the frozen model; null: train the model itself"
    )
    train: TrainConfig
    parallel: ParallelConfig | None = Field(
        None, description="layout over several ranks, activation checkpointing; null: copies alone"
    )
    evaluation: EvaluationConfig = EvaluationConfig()
    telemetry: TelemetryConfig | None = Field(
        TelemetryConfig(), description="measurements inside the model; null: none"
    )
    alarms: AlarmsConfig | None = Field(
        AlarmsConfig(), description="what is told while training goes wrong; None: nothing"
    )
    logging: tuple[Tracker, ...] = Field(
        (), description="trackers beside metrics.jsonl, as [{kind: tensorboard}]"
    )
    code: tuple[str, ...] = Field(
        (), description="FILE.py:NAME of layers of your own that the models it begins with have"
    )
    rank_timeout_minutes: float = Field(
        60.0, gt=0, exclude=True, description="how long a rank waits for the others before it fails"
    )

    @model_validator(mode="after")
    def _shards_are_trained(self) -> RunSettings:
        parallel = self.parallel
        if parallel is not None and parallel.shards and not self.shards:
            raise ValueError(
                f"parallel.fsdp = {parallel.fsdp} and parallel.tensor = {parallel.tensor} do not go "
                f"with stage '{self.stage}'; use parallel.data = zero1"
            )
        return self

    @model_validator(mode="after")
    def _best_is_measured(self) -> RunSettings:
        measured = self.evaluation.every or self.evaluation.metrics or self.evaluation.tasks
        if self.train.best_metric is not None and not measured:
            raise ValueError(
                f"train.best_metric.metric = '{self.train.best_metric.metric}' is measured by "
                "evaluations; set evaluation.every to the steps between them"
            )
        return self

    def harmless(self, key: str, old: Any, new: Any) -> bool:
        """Whether a run that has begun may be resumed with another value, because its steps do not
        change mathematically.

        True for logging, checkpoints and evaluations, the device, and `data.rows_per_batch` (equal
        up to rounding); and for larger `train.steps`, whose later steps then follow the longer
        schedule. False for enabling or disabling evaluation (which determines the held-out data),
        and for its interval if it determines early stopping.
        """
        if key in ("train.steps", "train.epochs"):
            return isinstance(old, (int, float)) and isinstance(new, (int, float)) and new > old
        if key == "evaluation.every":
            return bool(old) == bool(new) and not self.train.early_stop
        return key in HARMLESS or any(key.startswith(f"{part}.") for part in HARMLESS)

    @property
    def evaluates(self) -> bool:
        """Whether anything is measured on held-out examples."""
        return self.evaluation.every > 0

    @property
    def sources(self) -> Sequence[str | PythonSource]:
        """The paths of the data that the run reads."""
        data = getattr(self, "data", None)
        return [path for path in (data.path, data.heldout_path) if path] if data else []
