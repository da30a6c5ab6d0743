"""Log-probabilities of sampled tokens and of the most probable tokens."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.inference.sampling.filters import apply_temperature


def chosen_log_probs(
    logits: Float[Tensor, "N V"], tokens: Int[Tensor, " N"], temperature: Float[Tensor, " N"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """log softmax(logits)[token], and log softmax(logits / temperature)[token], in float32 or
    wider.

    Filters and penalties are not applied. For a greedy row both values are equal.
    """
    logits = wide(logits)
    place = tokens.unsqueeze(-1)
    raw = logits.gather(-1, place).squeeze(-1) - logits.logsumexp(dim=-1)
    if bool(((temperature == 0) | (temperature == 1)).all()):
        return raw, raw
    scaled = apply_temperature(logits, temperature)
    return raw, scaled.gather(-1, place).squeeze(-1) - scaled.logsumexp(dim=-1)


def wide(logits: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
    """Cast to float32, or keep float64."""
    return logits if logits.dtype == torch.float64 else logits.float()


def likeliest(
    logits: Float[Tensor, "N V"], count: int
) -> tuple[Float[Tensor, "N K"], Int[Tensor, "N K"]]:
    """The `count` largest logits of each row and their ids, in decreasing order, ties by id.

    >>> [x.tolist() for x in likeliest(torch.tensor([[1.0, 3.0, 1.0, 3.0]]), 3)]
    [[[3.0, 3.0, 1.0]], [[1, 3, 0]]]
    """
    count = min(count, logits.shape[-1])
    values = logits.topk(count, dim=-1).values
    # which of several equal to the last one topk takes is chance, so take them all and choose
    reaching = int((logits >= values[:, -1:]).sum(dim=-1).max())
    ids = logits.topk(reaching, dim=-1).indices.sort(dim=-1).values
    values, order = logits.gather(-1, ids).sort(dim=-1, descending=True, stable=True)
    return values[:, :count], ids.gather(-1, order)[:, :count]


def entropies(logits: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """H = -sum_v p_v log p_v of softmax(logits) in nats, of each row, in float32 or wider.

    >>> entropies(torch.zeros(1, 4)).exp().round().tolist()
    [4.0]
    """
    log_probs = wide(logits).log_softmax(dim=-1)
    # a forbidden token has p = 0 and adds nothing, where 0 * -inf would be NaN
    return -(log_probs.exp() * log_probs.clamp(min=-1e4)).sum(dim=-1)


def top_log_probs(
    logits: Float[Tensor, "N V"], count: int
) -> tuple[Float[Tensor, "N K"], Int[Tensor, "N K"]]:
    """log softmax(logits) of the `count` most probable tokens of each row and their ids, ties by
    id.

    In float32 or wider, from the model's own logits, before temperature, penalties and filters.
    """
    logits = wide(logits)
    values, ids = likeliest(logits, count)
    return values - logits.logsumexp(dim=-1, keepdim=True), ids
