"""Reward models: a scalar head that learns what people prefer, or which steps are right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from glassbox.core.seeding import derive_seed
from glassbox.runs.stages.preference import ExampleRecipe, PreferenceData
from glassbox.tuning.preference.reward import BradleyTerryConfig, ProcessConfig

if TYPE_CHECKING:
    from glassbox.models.causal_lm import CausalLM
    from glassbox.runs.setup import Setup
    from glassbox.tokenizers import Tokenizer

AnyRewardLoss = Annotated[BradleyTerryConfig | ProcessConfig, Field(discriminator="kind")]


class RewardRecipe(ExampleRecipe):
    """A reward model: a scalar head that learns what people prefer, or which steps are right."""

    stage: Literal["reward"] = "reward"
    init: str = Field(description="MODEL to train, with a scalar head added")
    data: PreferenceData
    loss: AnyRewardLoss = BradleyTerryConfig()

    def opened(self, setup: Setup) -> tuple[CausalLM, Tokenizer]:
        """The model with a scalar head, a fresh one where it had none."""
        return setup.once("scorer", lambda: self._scorer(setup))

    def _scorer(self, setup: Setup) -> tuple[CausalLM, Tokenizer]:
        import torch

        from glassbox.models.scorer import add_score_head

        model, tokenizer = setup.model(self.init)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "score head"))
        add_score_head(model, generator)
        return model, tokenizer
