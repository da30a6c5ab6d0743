"""Log-probabilities of answers: shifted by one, prompt and padding left out, summed in float32."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.layers.context import Auxiliary
from glassbox.models.causal_lm import CausalLM
from glassbox.ops.cross_entropy import IGNORE


def answer_log_probs(
    model: CausalLM,
    ids: Int[Tensor, "B T"],
    targets: Int[Tensor, "B T"],
    *,
    temperature: float = 1.0,
    auxiliary: Auxiliary | None = None,
) -> Float[Tensor, "B T"]:
    """log p(targets[t] | ids[: t + 1]) in float32 or wider, zero where the target is IGNORE.

    Rows are padded on the right, where no real token looks and where no expert is asked. Only
    positions with a target are projected to the vocabulary, and never all of them at once. What
    layers have to say besides goes into `auxiliary`.
    Tested against: transformers' logits, log_softmax and a loop over the positions.
    """
    hidden = model.hidden_states(ids, lengths=read_lengths(targets), auxiliary=auxiliary)
    wanted = (targets.reshape(-1) != IGNORE).nonzero().squeeze(1)
    scored = model.token_log_probs(
        hidden.reshape(-1, hidden.shape[-1]).index_select(0, wanted),
        targets.reshape(-1).index_select(0, wanted),
        temperature=temperature,
    )
    flat = torch.zeros(targets.numel(), dtype=scored.dtype, device=scored.device)
    return flat.index_copy(0, wanted, scored).view(targets.shape)


def read_lengths(targets: Int[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """How many tokens of each row must be read: up to the last that has a target.

    >>> read_lengths(torch.tensor([[-100, 7, 8, -100], [-100, -100, -100, -100]])).tolist()
    [3, 0]
    """
    places = torch.arange(1, targets.shape[1] + 1, device=targets.device)
    return torch.where(targets != IGNORE, places, 0).amax(dim=-1)


def sequence_log_probs(
    model: CausalLM,
    ids: Int[Tensor, "B T"],
    targets: Int[Tensor, "B T"],
    *,
    auxiliary: Auxiliary | None = None,
) -> Float[Tensor, " B"]:
    """log p(answer | prompt) of each row: the sum of `answer_log_probs`, not the mean."""
    return answer_log_probs(model, ids, targets, auxiliary=auxiliary).sum(dim=-1)


def freeze(model: CausalLM) -> CausalLM:
    """The model itself, in eval mode and with no parameter that takes a gradient."""
    return model.eval().requires_grad_(False)
