"""Models with a scalar head: giving one to a model that has none, and scoring whole sequences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.layers.initialization import Draw
from glassbox.models.causal_lm import CausalLM
from glassbox.models.heads import ScalarHead

BATCH_TOKENS = 4096


@torch.no_grad()
def add_score_head(model: CausalLM, generator: torch.Generator | None = None) -> CausalLM:
    """The model itself, with a fresh scalar head where it has none: w ~ N(0, 1 / (D + 1)).

    Hidden states that left a norm are about 1 an entry, so that fresh scores are about 1 as well.
    Source of the deviation: Stiennon et al., arXiv:2009.01325, appendix B.1.
    """
    if model.score is None:
        size = model.config.hidden_size
        head = ScalarHead(size).to(model.embedding.weight)
        std = (size + 1) ** -0.5
        head.initialize(Draw(std, std, std, generator))
        model.score = head
        model.config = model.config.model_copy(update={"score_head": True})
    return model


@torch.no_grad()
def sequence_scores(
    model: CausalLM, sequences: Sequence[Sequence[int]], *, batch_tokens: int = BATCH_TOKENS
) -> Float[Tensor, " S"]:
    """The score at the last id of each sequence, float32 on the CPU: what a reward model says of a chat.

    Sequences of like length share a batch of at most `batch_tokens` tokens. The model is left as
    it was found. Raises UserError for an empty sequence, and for a model without a scalar head.
    """
    scores = torch.empty(len(sequences))
    if not all(sequences):
        raise UserError("an empty sequence has no score; give at least one token")
    training, order = model.training, sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    model.eval()
    while order:
        longest = len(sequences[order[-1]])
        part = order[-max(1, batch_tokens // longest) :]
        del order[-len(part) :]
        ids = torch.zeros((len(part), longest), dtype=torch.int64)
        for row, index in enumerate(part):
            ids[row, : len(sequences[index])] = torch.tensor(sequences[index])
        last = torch.tensor([len(sequences[index]) - 1 for index in part], device=model.device)
        hidden = model.hidden_states(ids.to(model.device))
        ends = hidden[torch.arange(len(part), device=model.device), last]
        scores[part] = model.scores(ends).to(scores)
    model.train(training)
    return scores
