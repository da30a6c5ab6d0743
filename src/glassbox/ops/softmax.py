"""Softmax and log-sum-exp, written out with the shift that keeps them finite."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def log_sum_exp(x: Float[Tensor, "*shape V"]) -> Float[Tensor, "*shape"]:
    """Logarithm of the summed exponentials of the last axis: m + log(sum exp(x - m)), m = max x.

    A row of only -inf gives -inf, not NaN. Tested against: torch.logsumexp.
    """
    highest = _shift(x)
    return (x - highest).exp().sum(dim=-1).log() + highest.squeeze(-1)


def softmax(x: Float[Tensor, "*shape V"]) -> Float[Tensor, "*shape V"]:
    """Probabilities over the last axis: exp(x - max x) / sum exp(x - max x).

    A row of only -inf gives zeros, not NaN: a query that may see nothing attends to nothing.
    Tested against: torch.softmax.
    """
    weights = (x - _shift(x)).exp()
    total = weights.sum(dim=-1, keepdim=True)
    return weights / torch.where(total == 0, torch.ones_like(total), total)


def log_softmax(x: Float[Tensor, "*shape V"]) -> Float[Tensor, "*shape V"]:
    """Log-probabilities over the last axis: (x - m) - log sum exp(x - m), m = max x.

    Shifted before the logarithm is taken off: x - log_sum_exp(x) would round large logits away.
    Tested against: torch.log_softmax.
    """
    shifted = x - _shift(x)
    return shifted - shifted.exp().sum(dim=-1, keepdim=True).log()


def _shift(x: Tensor) -> Tensor:
    """Each row's maximum, zero where that is infinite. It cancels, so no gradient goes through it."""
    highest = x.detach().amax(dim=-1, keepdim=True)
    return torch.where(torch.isfinite(highest), highest, torch.zeros_like(highest))
