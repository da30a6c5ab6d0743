"""The quickstart as data: the recipes of its stages and what is different here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from glassbox.core.config import Spec
from glassbox.core.devices import DeviceName
from glassbox.data.storyworld.config import CorpusSizes, StoryWorldConfig
from glassbox.evaluation.limits import Limits
from glassbox.runs.stages.text import TokenizerConfig


class StageChange(Spec):
    """A stage of the quickstart: a recipe, and what is different here."""

    recipe: str
    change: dict[str, Any] = Field(default_factory=dict)


class QuickstartRecipe(Spec):
    """The quickstart as data."""

    stage: Literal["quickstart"] = "quickstart"
    out: str = "runs/quickstart"
    source: str = Field("storyworld", description="storyworld, shakespeare, or a path to text")
    seed: int = 0
    device: DeviceName = "auto"
    workers: int = Field(2, gt=0, description="processes that write the corpus")
    world: StoryWorldConfig = StoryWorldConfig()
    sizes: CorpusSizes = CorpusSizes()
    tokenizer: TokenizerConfig = TokenizerConfig()
    pretrain: StageChange
    sft: StageChange
    dpo: StageChange
    grpo: StageChange
    limits: Limits = Limits()
    samples: int = Field(3, gt=0)
