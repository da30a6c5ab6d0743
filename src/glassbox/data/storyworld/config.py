"""What can be set about the story world."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from glassbox.core.config import Spec


class StoryWorldConfig(Spec):
    """Seed, language, and the mixture of documents. Equal configs write equal bytes."""

    seed: int = 0
    language: Literal["en", "zh"] = "en"
    story_weight: float = Field(0.8, gt=0)
    """share of plain stories among the documents (weights are normalised)"""
    questions_weight: float = Field(0.1, gt=0)
    """share of stories followed by questions and answers"""
    arithmetic_weight: float = Field(0.1, gt=0)
    """share of word problems with worked steps"""
    reserved_fraction: float = Field(0.06, gt=0, lt=0.5)
    """share of the pairs (kind of hero, thing) kept for the `unseen` split"""
    kind_mentions: float = Field(0.5, ge=0, lt=1)
    """how often somebody who was presented is called 'the painter' where the name would do; 0: never"""
    arithmetic_max: int = Field(20, ge=5, le=100)
    """largest number that a word problem adds or takes away"""
    arithmetic_min_steps: int = Field(2, ge=1, le=5)
    arithmetic_max_steps: int = Field(3, ge=1, le=5)
    arithmetic_times: bool = True
    """whether some problems begin with a product"""
    chat_sums: float = Field(0.18, gt=0, lt=1)
    """share of word problems among the chats, those with a tool included"""
    small_talk_weight: float = Field(0.06, gt=0, lt=1)
    """weight of questions about the model itself among the training chats, whose other kinds weigh 0.76
    without the word problems"""

    @model_validator(mode="after")
    def _steps_in_order(self) -> StoryWorldConfig:
        if self.arithmetic_min_steps > self.arithmetic_max_steps:
            raise ValueError(
                f"arithmetic_min_steps = {self.arithmetic_min_steps} is more than "
                f"arithmetic_max_steps = {self.arithmetic_max_steps}; make it smaller"
            )
        return self


class CorpusSizes(Spec):
    """How much `write_corpus` writes of everything."""

    train_bytes: int = Field(8_000_000, ge=1)
    """bytes of text (not of JSON) in train.jsonl"""
    heldout: int = Field(800, ge=1)
    unseen: int = Field(400, ge=1)
    chats_train: int = Field(8000, ge=1)
    chats_heldout: int = Field(300, ge=1)
    questions_heldout: int = Field(600, ge=1)
    arithmetic_train: int = Field(4000, ge=1)
    arithmetic_heldout: int = Field(500, ge=1)
    preferences_train: int = Field(4000, ge=1)
    preferences_heldout: int = Field(500, ge=1)
