"""Base classes of the specs of preference and reward-model losses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from glassbox.core.config import Spec
from glassbox.core.devices import Precision
from glassbox.core.distributed import Group
from glassbox.data.conversations import Message
from glassbox.data.examples import ExampleSource
from glassbox.data.preferences import (
    PreferencePair,
    PreferenceReport,
    encode_preferences,
    read_preferences,
)
from glassbox.data.python_source import PythonSource
from glassbox.training.protocols import Objective
from glassbox.tuning.reference import Reference

if TYPE_CHECKING:
    from glassbox.models.causal_lm import CausalLM
    from glassbox.tokenizers import Tokenizer


@dataclass(frozen=True)
class PreferenceSetup:
    """What a loss is built with, in addition to its examples.

    model: as it is at the start, from which reference values are computed before training.
    reference: returns a reference model; called only by losses that need it during training.
    """

    model: CausalLM
    per_step: int
    per_batch: int | None
    max_length: int
    seed: int
    group: Group
    precision: Precision
    reference: Callable[[], Reference]

    @property
    def options(self) -> dict[str, Any]:
        """Arguments common to all `ExampleSource`s."""
        return {
            "per_step": self.per_step,
            "per_batch": self.per_batch,
            "seed": self.seed,
            "group": self.group,
        }

    @property
    def heldout_options(self) -> dict[str, Any]:
        """The same for held-out examples, which any number of ranks may divide."""
        return {**self.options, "per_step": self.group.world_size * (self.per_batch or 16)}


@dataclass(frozen=True)
class Preferences:
    """An objective, the source of its batches, and that of the held-out ones (None if there are
    none).
    """

    objective: Objective[Any]
    source: ExampleSource[Any]
    heldout: ExampleSource[Any] | None


class PreferenceLoss(Spec):
    """Base class of specs of losses: reads and encodes rows, and builds the objective and sources.

    A new loss is a subclass in a file of its own, and a line in the union of
    `runs.stages.preference` or `runs.stages.reward`.
    """

    @abstractmethod
    def read(self, path: str | PythonSource) -> list[Any]:
        """Read the rows of a file; each has a `prompt`, by which held-out rows are chosen."""

    @abstractmethod
    def encode(
        self, rows: Sequence[Any], tokenizer: Tokenizer, *, max_length: int
    ) -> tuple[list[Any], PreferenceReport]:
        """Encode rows to ids; returns the examples and a report. Raises UserError if none is left."""

    @abstractmethod
    def build(
        self, examples: Sequence[Any], heldout: Sequence[Any], setup: PreferenceSetup
    ) -> Preferences:
        """Return the objective and the sources of encoded examples."""


class PairLoss(PreferenceLoss):
    """Base class of losses on pairs of a chosen and a rejected answer."""

    def read(self, path: str | PythonSource) -> list[PreferencePair]:
        """Read preference pairs in any of the supported formats."""
        return read_preferences(path)

    def encode(
        self, rows: Sequence[Any], tokenizer: Tokenizer, *, max_length: int
    ) -> tuple[list[Any], PreferenceReport]:
        """Encode both answers after the same prompt."""
        return encode_preferences(rows, tokenizer, max_length=max_length)


def prompts_of(rows: Sequence[Any]) -> list[list[Message]]:
    """The prompts, by which held-out rows are chosen."""
    return [row.prompt for row in rows]
