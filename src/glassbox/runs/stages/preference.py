"""Alignment on what people prefer: pairs or single answers, and a loss on them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from glassbox.core.errors import UserError
from glassbox.data.conversations import Found
from glassbox.data.python_source import DataPath
from glassbox.runs.stages.base import StageRecipe, evenly, note_lost
from glassbox.runs.stages.settings import HeldoutData
from glassbox.runs.stages.text import ROW_PLACES
from glassbox.tuning.preference.dpo import DpoConfig
from glassbox.tuning.preference.kto import KtoConfig
from glassbox.tuning.preference.method import (
    PreferenceLoss,
    Preferences,
    PreferenceSetup,
    prompts_of,
)
from glassbox.tuning.preference.python_loss import PythonLoss
from glassbox.tuning.preference.reference_free import CpoConfig, OrpoConfig, SimpoConfig

if TYPE_CHECKING:
    from glassbox.data.preferences import PreferenceReport
    from glassbox.models.causal_lm import CausalLM
    from glassbox.runs.setup import Setup, Stage
    from glassbox.tokenizers import Tokenizer

AnyPreferenceLoss = Annotated[
    DpoConfig | OrpoConfig | SimpoConfig | CpoConfig | KtoConfig | PythonLoss,
    Field(discriminator="kind"),
]


class PreferenceData(HeldoutData):
    """Pairs of a chosen and a rejected answer; single answers for KTO, solutions for process rewards."""

    path: DataPath = Field(description=ROW_PLACES + "preference pairs, or of the others")
    pairs_per_step: int = Field(
        16, gt=0, description="pairs (or answers, or solutions) per optimizer step"
    )
    pairs_per_batch: int | None = Field(None, gt=0)
    max_length: int = Field(512, gt=1)


class ExampleRecipe(StageRecipe):
    """A stage whose loss reads, encodes and builds: preferences and reward models."""

    init: str
    data: PreferenceData

    @property
    def method(self) -> PreferenceLoss:
        """The spec of the loss."""
        found: PreferenceLoss = getattr(self, "loss")  # noqa: B009 - a field of each subclass
        return found

    def opened(self, setup: Setup) -> tuple[CausalLM, Tokenizer]:
        """The model that is trained."""
        return setup.model(self.init)

    def check(self, setup: Setup) -> None:
        """The model, and every example as ids."""
        model, _ = self.opened(setup)
        if self.data.pairs_per_step % setup.data_ranks:
            raise UserError(
                f"data.pairs_per_step = {self.data.pairs_per_step} cannot be shared by "
                f"{setup.data_ranks} ranks; make it a multiple of the number of ranks"
            )
        examples, heldout, _ = self._examples(setup)
        longest = max(one.length for one in (*examples, *heldout)) - 1
        if longest > model.config.context_length:
            raise UserError(
                f"data.max_length = {self.data.max_length} lets through an example of {longest} "
                f"tokens; the model's context_length is {model.config.context_length}: lower it to that"
            )

    def _examples(self, setup: Setup) -> tuple[list[Any], list[Any], PreferenceReport]:
        return setup.once("examples", lambda: self._encode(setup))

    def _encode(self, setup: Setup) -> tuple[list[Any], list[Any], PreferenceReport]:
        """Examples to train on, held-out ones, and what became of the first."""
        data, method = self.data, self.method
        _, tokenizer = self.opened(setup)
        rows: Any = method.read(data.path)
        held: list[Any] = []
        if self.evaluates and data.heldout_path is not None:
            held = method.read(data.heldout_path)
        elif self.evaluates:
            split = setup.hold_out(prompts_of(rows), data.heldout_share)
            held = [rows[n] for n in split.heldout]
            rows = Found([rows[n] for n in split.train], rows.skipped, rows.example)
        examples, report = method.encode(rows, tokenizer, max_length=data.max_length)
        heldout: list[Any] = []
        if held:
            chosen = [held[number] for number in evenly(len(held), self.evaluation.documents)]
            try:
                heldout, _ = method.encode(chosen, tokenizer, max_length=data.max_length)
            except UserError:  # none of them fits
                if data.heldout_path is not None:
                    raise
                print(
                    f"  none of the {len(chosen)} held-out examples fits into data.max_length = "
                    f"{data.max_length} tokens, so nothing is evaluated",
                    file=sys.stderr,
                )
        return examples, heldout, report

    def build(self, setup: Setup) -> Stage:
        """The loss's objective and sources, and the same objective on what is held out."""
        from glassbox.evaluation.hooks import HeldoutHook
        from glassbox.runs.setup import Stage

        model, tokenizer = self.opened(setup)
        examples, heldout, report = self._examples(setup)
        data = self.data
        built = self.method.build(
            examples,
            heldout,
            PreferenceSetup(
                model=model,
                per_step=data.pairs_per_step,
                per_batch=data.pairs_per_batch,
                max_length=data.max_length,
                seed=self.seed,
                group=setup.group,
                precision=self.train.stated_precision,
                reference=lambda: setup.reference(self.init),
            ),
        )
        setup.forget("examples")
        if setup.group.is_main:
            note_lost(report.shortened, report.skipped, "rows", data.max_length)
            if report.useless:
                print(
                    f"  {report.useless:,} rows were left out; the first is {report.example}",
                    file=sys.stderr,
                )
        hooks = setup.sample_hooks(tokenizer)
        if built.heldout is not None and self.evaluates:
            hooks = [self._hook(setup, built, HeldoutHook), *hooks]
        return Stage(model, tokenizer, built.objective, built.source, hooks)

    def _hook(self, setup: Setup, built: Preferences, hook: Any) -> Any:
        assert built.heldout is not None
        return hook(
            built.objective,
            built.heldout.every_example,
            every=self.evaluation.every,
            group=setup.group,
            precision=self.train.stated_precision,
        )


class PreferenceRecipe(ExampleRecipe):
    """Alignment on what people prefer, by the loss of one's choice."""

    stage: Literal["preference"] = "preference"
    init: str = Field(description="MODEL to align; also the reference of dpo and kto")
    data: PreferenceData
    loss: AnyPreferenceLoss = DpoConfig()


class DpoRecipe(ExampleRecipe):
    """Direct preference optimization against the model as it was at the start."""

    stage: Literal["dpo"] = "dpo"
    init: str = Field(description="MODEL to align; it is also the reference")
    data: PreferenceData
    dpo: DpoConfig = DpoConfig()

    @property
    def method(self) -> PreferenceLoss:
        """DPO."""
        return self.dpo
