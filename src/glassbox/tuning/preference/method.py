"""What a preference loss or a reward model's loss is as data: what it reads, and what it builds."""

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
    """What a loss is built with, beside its examples.

    model: as it is at the start, which is the reference of what is computed before training.
    reference: gives one that stays; asked for only by losses that need it while training.
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
        """What every `ExampleSource` takes."""
        return {
            "per_step": self.per_step,
            "per_batch": self.per_batch,
            "seed": self.seed,
            "group": self.group,
        }

    @property
    def heldout_options(self) -> dict[str, Any]:
        """The same for held-out examples, which share no steps: any number of ranks may divide them."""
        return {**self.options, "per_step": self.group.world_size * (self.per_batch or 16)}


@dataclass(frozen=True)
class Preferences:
    """An objective, the source of its batches, and that of the held-out ones (None: nothing is held out)."""

    objective: Objective[Any]
    source: ExampleSource[Any]
    heldout: ExampleSource[Any] | None


class PreferenceLoss(Spec):
    """The spec of a loss: reads a file of rows, encodes them, and builds its objective and sources.

    A new loss is a subclass in a file of its own, and a line in the union of `runs.stages.preference`
    or `runs.stages.reward`.
    """

    @abstractmethod
    def read(self, path: str | PythonSource) -> list[Any]:
        """The rows of a file; each has a `prompt`, by which it is trained on or held out."""

    @abstractmethod
    def encode(
        self, rows: Sequence[Any], tokenizer: Tokenizer, *, max_length: int
    ) -> tuple[list[Any], PreferenceReport]:
        """Rows as ids, and what became of them. Raises UserError where nothing is left."""

    @abstractmethod
    def build(
        self, examples: Sequence[Any], heldout: Sequence[Any], setup: PreferenceSetup
    ) -> Preferences:
        """The objective and the sources of encoded examples."""


class PairLoss(PreferenceLoss):
    """A loss on pairs of a chosen and a rejected answer."""

    def read(self, path: str | PythonSource) -> list[PreferencePair]:
        """Preference pairs in any of their forms."""
        return read_preferences(path)

    def encode(
        self, rows: Sequence[Any], tokenizer: Tokenizer, *, max_length: int
    ) -> tuple[list[Any], PreferenceReport]:
        """Both answers behind the very same prompt."""
        return encode_preferences(rows, tokenizer, max_length=max_length)


def prompts_of(rows: Sequence[Any]) -> list[list[Message]]:
    """What tells rows apart when some are held out: their prompts."""
    return [row.prompt for row in rows]
