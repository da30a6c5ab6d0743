"""NEFTune: noise on the embeddings during fine-tuning, as regularization."""

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
    """Length of the packed document of each token.

    >>> document_lengths(torch.tensor([[0, 0, 0, 1, 1]])).tolist()
    [[3, 3, 3, 2, 2]]
    """
    numbers = documents - documents.min()
    counts = torch.zeros(len(numbers), int(numbers.max()) + 1, dtype=torch.int64).to(numbers.device)
    counts.scatter_add_(1, numbers, torch.ones_like(numbers))
    return counts.gather(1, numbers)


class Neftune:
    """Wraps an objective: adds uniform noise in [-1, 1] times alpha / sqrt(L D) to the embeddings.

    L is the length of the token's document, D the hidden size. Applies in training mode only,
    within this objective's forward pass; the noise is drawn from torch's generator, which
    checkpoints save. Source: Jain et al., arXiv:2310.05914, algorithm 1.
    Tested against: transformers' hook, on rows that hold one document.
    """

    def __init__(self, objective: Objective[TokenBatch], alpha: float) -> None:
        self.objective = objective
        self.alpha = alpha

    def __call__(self, model: CausalLM, batch: TokenBatch) -> ObjectiveOutput:
        """Compute the wrapped objective's loss with noise."""
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
