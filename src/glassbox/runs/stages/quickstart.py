"""The quickstart as data: the recipes of its stages and what is different here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from glassbox.core.config import Spec
from glassbox.core.devices import DeviceName
from glassbox.core.errors import UserError
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
    source: str = Field(
        "storyworld",
        description="storyworld, shakespeare, a path to text, a named set, or hf:owner/name",
    )
    stand_in_for: str | None = Field(
        None, description="the set that the story world stands in for where nothing is downloaded"
    )
    seed: int = 0
    device: DeviceName = "auto"
    workers: int = Field(
        2, gt=0, description="processes that write the corpus, and that read it for `bins`"
    )
    bins: bool = Field(
        False,
        description="encode the text once, in parallel, into tokens/train.bin and tokens/val.bin",
    )
    world: StoryWorldConfig = StoryWorldConfig()
    sizes: CorpusSizes = CorpusSizes()
    tokenizer: TokenizerConfig = TokenizerConfig()
    pretrain: StageChange
    sft: StageChange | None = Field(None, description="null: skip this stage, as for the two below")
    dpo: StageChange | None = None
    grpo: StageChange | None = None
    limits: Limits = Limits()
    samples: int = Field(3, gt=0)

    @model_validator(mode="after")
    def _stages_follow(self) -> QuickstartRecipe:
        names = ("sft", "dpo", "grpo")
        given = [getattr(self, name) is not None for name in names]
        for before, name in zip(range(len(names)), names[1:], strict=False):
            if given[before + 1] and not given[before]:
                raise UserError(
                    f"{name} begins with the model of {names[before]}, which is null; give both or none"
                )
        return self
