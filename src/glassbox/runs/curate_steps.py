"""Curation steps that need a model: opened here, since data knows no models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from glassbox.data.curation.perplexity import PerplexitySpec
from glassbox.data.curation.step import (
    CorpusStep,
    RecordStep,
    RevisingStep,
    StepSpec,
    digest_of,
)
from glassbox.formats.open_model import find_whole_model, open_model


def build_step(spec: StepSpec) -> RecordStep | CorpusStep | RevisingStep:
    """The step of a spec, with a model where it needs one. Raises UserError where that is missing."""
    if isinstance(spec, PerplexitySpec):
        find_whole_model(spec.model)  # found missing now, not in a worker
        return spec.with_scorer(ModelScorer(spec.model, spec.max_tokens))
    return spec.build()


def contents_of(spec: StepSpec) -> dict[str, str]:
    """Digests of what a step's settings name: word lists, evaluation sets, tokenizers, models."""
    if isinstance(spec, PerplexitySpec):
        return {spec.model: digest_of(find_whole_model(spec.model))}
    return spec.contents()


@dataclass
class ModelScorer:
    """-log p a token under MODEL, which each worker opens for itself.

    A document at a time, on one thread of the CPU, so that no figure depends on what else is read.
    Tested against: transformers' loss on the same weights (through `token_log_probs`).
    """

    reference: str
    max_tokens: int
    _opened: Any = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}

    def prepare(self) -> None:
        """Open the model, unless it is open."""
        if self._opened is None:
            model, tokenizer, _ = open_model(self.reference)
            self._opened = model.eval(), tokenizer

    def __call__(self, text: str) -> float:
        """Mean -log p of the first `max_tokens` tokens behind an end-of-text token."""
        from glassbox.evaluation.scoring import token_log_probs

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            self.prepare()
            model, tokenizer = self._opened
            ids = [tokenizer.eos_id, *tokenizer.encode(text)[: self.max_tokens]]
            if len(ids) < 2:
                return 0.0
            return float(-token_log_probs(model, [ids])[0].mean())
        finally:
            torch.set_num_threads(threads)
