"""Documents that a language model finds too likely or too unlikely; which model is the caller's to say."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from pydantic import Field, model_validator

from glassbox.core.errors import UserError
from glassbox.data.curation.step import Dropped, Prepares, Record, RecordStep, StepSpec


class Scorer(Protocol):
    """A language model as this step sees it. Pickled once for each worker."""

    def __call__(self, text: str) -> float:
        """-log p of a text under the model, in nats a token."""


class PerplexitySpec(StepSpec):
    """Drop documents by their perplexity under a model of ours: exp of the mean -log p of a token.

    Random text has a high perplexity, boilerplate and repetition a low one.
    Source: Wenzek et al. (CCNet), arXiv:1911.00359, section 4.3.
    """

    kind: Literal["perplexity"] = "perplexity"
    model: str = Field(description="a run, a checkpoint, a folder, a file, a name such as smollm2")
    max_perplexity: float | None = Field(
        None, gt=1, description="drop documents above; null: no limit"
    )
    min_perplexity: float | None = Field(
        None, ge=1, description="drop documents below; null: no limit"
    )
    max_tokens: int = Field(512, ge=1, description="maximum number of tokens scored per document")

    @model_validator(mode="after")
    def _in_order(self) -> PerplexitySpec:
        low, high = self.min_perplexity, self.max_perplexity
        if low is not None and high is not None and low > high:
            raise ValueError(
                f"min_perplexity = {low:g} is above max_perplexity = {high:g}; swap them"
            )
        return self

    def build(self) -> RecordStep:
        """Raises UserError: a model is needed, and `with_scorer` takes it."""
        raise UserError(
            "step 'perplexity' needs a model to be opened; run it by glassbox data curate, or build "
            "it by PerplexitySpec.with_scorer"
        )

    def with_scorer(self, scorer: Scorer) -> RecordStep:
        """The step, with a model that reads at most `max_tokens` tokens of a text."""
        return PerplexityFilter(self, scorer)


@dataclass(frozen=True)
class PerplexityFilter:
    """The step of a PerplexitySpec. The value is stored in the metadata, under `perplexity`."""

    spec: PerplexitySpec
    scorer: Scorer

    def prepare(self) -> None:
        """Open the scorer's model."""
        if isinstance(self.scorer, Prepares):
            self.scorer.prepare()

    def __call__(self, record: Record) -> Record | Dropped:
        """The record with its perplexity, or a refusal."""
        nats = self.scorer(record.text)
        perplexity = math.exp(min(nats, 700.0))  # beyond, a float has no exp
        low, high = self.spec.min_perplexity, self.spec.max_perplexity
        if high is not None and perplexity > high:
            return Dropped("perplexity too high", f"{perplexity:.4g}, at most {high:g}")
        if low is not None and perplexity < low:
            return Dropped("perplexity too low", f"{perplexity:.4g}, at least {low:g}")
        return replace(
            record, metadata={**record.metadata, "perplexity": float(f"{perplexity:.6g}")}
        )
