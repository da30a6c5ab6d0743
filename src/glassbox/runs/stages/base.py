"""What the recipes of all stages share. Reading one imports no engine; building one imports what it needs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, model_validator

from glassbox.adapters.specs import AnyAdapter
from glassbox.core.config import Spec
from glassbox.core.devices import DeviceName
from glassbox.core.errors import UserError
from glassbox.optim.adamw import AdamWConfig
from glassbox.optim.specs import OptimizerConfig
from glassbox.training.config import TrainConfig

if TYPE_CHECKING:
    from glassbox.models.config import ModelConfig
    from glassbox.models.shapes import Shape
    from glassbox.runs.setup import Setup, Stage


class HeldoutData(Spec):
    """What is kept from training to be measured on."""

    heldout_path: str | None = Field(
        None, description="examples to evaluate on; None: a share of those of `path` is held out"
    )
    heldout_share: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="share of the prompts held out, drawn by `seed`, where evaluation.every > 0 and "
        "there is no heldout_path; 0: none",
    )


class EvaluationConfig(Spec):
    """What is measured while training."""

    every: int = Field(0, ge=0, description="steps between evaluations; 0: none")
    documents: int = Field(64, gt=0, description="held-out documents or examples read each time")
    sample_every: int = Field(0, ge=0)
    prompts: tuple[str, ...] = ()
    max_tokens: int = Field(64, gt=0)
    temperature: float = Field(0.8, ge=0, description="of the samples; 0: the likeliest token")


class StageRecipe(Spec):
    """What all stages share, and what each has to do: check itself, and build its parts.

    `check` opens all that the recipe names and writes nothing, so that a mistake is told before
    there is a run folder; `build` may write into it. Both ask the same `Setup`, which opens each
    thing once.
    """

    stage: str
    out: str = Field(description="the run folder")
    seed: int = 0
    device: DeviceName = "auto"
    optim: OptimizerConfig = AdamWConfig()
    adapter: AnyAdapter | None = Field(
        None, description="train this alone, on a frozen base; None: the model itself"
    )
    train: TrainConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    rank_timeout_minutes: float = Field(
        60.0, gt=0, exclude=True, description="how long a rank waits for the others"
    )

    @model_validator(mode="after")
    def _best_is_measured(self) -> StageRecipe:
        if self.train.best_metric is not None and not self.evaluation.every:
            raise ValueError(
                f"train.best_metric.metric = '{self.train.best_metric.metric}' is measured by "
                "evaluations; set evaluation.every to the steps between them"
            )
        return self

    @property
    def evaluates(self) -> bool:
        """Whether anything is measured on held-out examples."""
        return self.evaluation.every > 0

    @property
    def sources(self) -> Sequence[str]:
        """The paths of the data that the run reads."""
        data = getattr(self, "data", None)
        return [path for path in (data.path, data.heldout_path) if path] if data else []

    def check_shape(self) -> None:
        """Build the model that the recipe describes on the meta device, which takes no memory.

        Raises UserError where its sizes do not fit one another.
        """

    @abstractmethod
    def check(self, setup: Setup) -> None:
        """Open and check all that is named, writing nothing. Raises UserError."""

    @abstractmethod
    def build(self, setup: Setup) -> Stage:
        """The parts of the run. Raises UserError."""


def checked_config(shape: Shape, vocab_size: int) -> ModelConfig:
    """The config of a recipe's `model`. Raises UserError naming the sizes that do not fit."""
    try:
        return shape.config(vocab_size)
    except ValidationError as error:
        said = [str(fault["msg"]).removeprefix("Value error, ") for fault in error.errors()]
        raise UserError(f"model: {'; '.join(dict.fromkeys(said))}") from None
    except ValueError as error:
        raise UserError(f"model: {error}") from None


def check_on_meta(shape: Shape, vocab_size: int) -> ModelConfig:
    """The config, after a model of it was built on the meta device."""
    import torch

    from glassbox.models.causal_lm import CausalLM

    config = checked_config(shape, vocab_size)
    try:
        with torch.device("meta"):
            CausalLM(config)
    except (ValueError, ValidationError) as error:
        raise UserError(f"model: {' '.join(str(error).split())}") from None
    return config


def check_row_length(row_length: int, context_length: int, *, whose: str = "model") -> None:
    """Raise UserError where rows are longer than the model can read."""
    if row_length > context_length:
        raise UserError(
            f"data.row_length = {row_length} is more than the {whose}'s context_length = "
            f"{context_length}; lower one or raise the other"
        )


def note_lost(shortened: int, skipped: int, what: str, room: int, *, cut: int = 0) -> None:
    """Tell on standard error what did not fit."""
    import sys

    told = [
        f"{shortened} lost their first turns" if shortened else "",
        f"{cut} were cut off" if cut else "",
        f"{skipped} were left out" if skipped else "",
    ]
    if any(told):
        print(
            f"  of the {what}, {' and '.join(filter(None, told))} to fit into {room} tokens",
            file=sys.stderr,
        )


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of `count` numbers, evenly spread.

    >>> evenly(10, 3), evenly(2, 5)
    ([1, 5, 8], [0, 1])
    """
    if count <= most:
        return list(range(count))
    return [int((place + 0.5) * count / most) for place in range(most)]


def options_of(data: Any) -> dict[str, Any]:
    """What every source of packed rows takes from a recipe's data."""
    return {"rows_per_step": data.rows_per_step, "rows_per_batch": data.rows_per_batch}
