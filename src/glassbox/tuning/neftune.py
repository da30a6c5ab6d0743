"""NEFTune: noise on the embeddings while fine-tuning, so that answers are learned less by rote."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from glassbox.data.loader import TokenBatch
from glassbox.training.protocols import Objective, ObjectiveOutput

if TYPE_CHECKING:
    from glassbox.models.causal_lm import CausalLM


def document_lengths(documents: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """How long the packed document is that each token stands in.

    >>> document_lengths(torch.tensor([[0, 0, 0, 1, 1]])).tolist()
    [[3, 3, 3, 2, 2]]
    """
    numbers = documents - documents.min()
    counts = torch.zeros(len(numbers), int(numbers.max()) + 1, dtype=torch.int64).to(numbers.device)
    counts.scatter_add_(1, numbers, torch.ones_like(numbers))
    return counts.gather(1, numbers)


class Neftune:
    """An objective whose embeddings get uniform noise in [-1, 1] times alpha / sqrt(L D).

    L is the length of the document that a token stands in, D the width. Only while the model is in
    training mode, only in the pass of this objective, and the draws are those of torch's generator,
    which checkpoints keep. Source: Jain et al., arXiv:2310.05914, algorithm 1.
    Tested against: transformers' hook, on rows that hold one document.
    """

    def __init__(self, objective: Objective[TokenBatch], alpha: float) -> None:
        self.objective = objective
        self.alpha = alpha

    def __call__(self, model: CausalLM, batch: TokenBatch) -> ObjectiveOutput:
        """The objective's loss, under noise."""
        if not model.training:
            return self.objective(model, batch)

        def add_noise(
            module: nn.Module, inputs: object, embedded: Float[Tensor, "B T D"]
        ) -> Float[Tensor, "B T D"]:
            handle.remove()  # later look-ups in the same pass, of tokens to predict, stay as they are
            numbers = document_lengths(batch.documents) * embedded.shape[-1]
            scale = self.alpha / numbers.to(embedded.dtype).sqrt().unsqueeze(-1)
            return embedded + scale * torch.empty_like(embedded).uniform_(-1, 1)

        handle = model.embedding.register_forward_hook(add_noise)
        try:
            return self.objective(model, batch)
        finally:
            handle.remove()
