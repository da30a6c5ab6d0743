"""Base class of the recipes of all stages. Reading a recipe does not import the engine."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from glassbox.core.errors import UserError
from glassbox.runs.stages.settings import RunSettings

if TYPE_CHECKING:
    from torch import nn

    from glassbox.models.causal_lm import CausalLM
    from glassbox.models.config import ModelConfig
    from glassbox.models.shapes import Shape
    from glassbox.optim.base import Optimizer
    from glassbox.runs.setup import Setup, Stage


class StageRecipe(RunSettings):
    """Base class of recipes: common settings, a check, and the construction of the run's parts.

    `check` opens everything that the recipe names without writing, so that errors are reported
    before a run folder exists; `build` may write into it. Both use the same `Setup`, which opens
    each file and model once.
    """

    def check_shape(self) -> None:
        """Build the model that the recipe describes on the meta device, which takes no memory.

        Raises UserError where its sizes do not fit one another.
        """

    @abstractmethod
    def check(self, setup: Setup) -> None:
        """Open and check everything that the recipe names, without writing. Raises UserError."""

    @abstractmethod
    def build(self, setup: Setup) -> Stage:
        """The parts of the run. Raises UserError."""

    def build_optimizer(self, model: CausalLM, along: Mapping[str, nn.Module]) -> Optimizer:
        """Build the optimizer for the model and its companions."""
        return self.optim.build(model, along)


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
