"""Where guesses come from, as a command line names it."""

from __future__ import annotations

from glassbox.core.errors import UserError
from glassbox.formats.open_model import open_on
from glassbox.inference.speculation.draft_model import DraftModel
from glassbox.inference.speculation.proposers import NgramProposer, Proposer
from glassbox.models.causal_lm import CausalLM
from glassbox.tokenizers import Tokenizer


def open_proposer(
    model: CausalLM, tokenizer: Tokenizer, draft: str | None, num_drafts: int, ngram_drafts: int
) -> tuple[Proposer | None, int]:
    """A draft model, n-grams, or nothing; and how many tokens it guesses.

    Raises UserError for both, and for a draft model of another tokenizer or vocabulary.
    """
    if draft is None:
        return (NgramProposer(), ngram_drafts) if ngram_drafts else (None, num_drafts)
    if ngram_drafts:
        raise UserError(f"--draft {draft} and --ngram-drafts {ngram_drafts}: give one of them")
    smaller, theirs, _ = open_on(draft, model.device.type)
    if theirs.fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"--draft {draft} has another tokenizer than the model; give one trained with the same"
        )
    return DraftModel(model, smaller), num_drafts
