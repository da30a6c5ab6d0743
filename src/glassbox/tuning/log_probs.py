"""Log-probabilities of answers: shifted by one, without prompt and padding, summed in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.inference.shared_prompts import can_share, hidden_of_ends, plan
from glassbox.layers.context import Auxiliary
from glassbox.ops.cross_entropy import IGNORE

if TYPE_CHECKING:
    from glassbox.models.causal_lm import CausalLM


def answer_log_probs(
    model: CausalLM,
    ids: Int[Tensor, "B T"],
    targets: Int[Tensor, "B T"],
    *,
    temperature: float = 1.0,
    auxiliary: Auxiliary | None = None,
    share: bool = True,
) -> Float[Tensor, "B T"]:
    """log p(targets[t] | ids[: t + 1]) in float32 or wider, zero where the target is IGNORE.

    Rows are padded on the right; padding is not attended to and not routed to experts. Only
    positions with a target are projected to the vocabulary, in chunks. Losses and measures of
    layers are added to `auxiliary`. With `share`, tokens that several rows have in common before
    their first target are processed once, if the model supports it and it saves time.
    Tested against: transformers' logits, log_softmax and a loop over the positions; shared prompts
    against separate rows, values and gradients.
    """
    lengths = read_lengths(targets)
    wanted = (targets.reshape(-1) != IGNORE).nonzero().squeeze(1)
    found = None
    if share and can_share(model):
        starts = (targets != IGNORE).to(torch.uint8).argmax(dim=-1)
        found = plan(ids, starts, lengths)
    if found is None:
        hidden = model.hidden_states(ids, lengths=lengths, auxiliary=auxiliary)
        places = wanted
    else:
        hidden = hidden_of_ends(model, ids, found)
        rows, columns = wanted // ids.shape[1], wanted % ids.shape[1]
        places = rows * found.width + columns - found.starts[rows]
    scored = model.token_log_probs(
        hidden.reshape(-1, hidden.shape[-1]).index_select(0, places),
        targets.reshape(-1).index_select(0, wanted),
        temperature=temperature,
    )
    flat = torch.zeros(targets.numel(), dtype=scored.dtype, device=scored.device)
    return flat.index_copy(0, wanted, scored).view(targets.shape)


def read_lengths(targets: Int[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """Number of tokens of each row to process: up to the last one with a target.

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
    """Set a model to eval mode and disable gradients for all parameters; return it."""
    return model.eval().requires_grad_(False)
