"""Softmax and log-sum-exp, written out with the shift that keeps them finite."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def log_sum_exp(x: Float[Tensor, "*shape V"]) -> Float[Tensor, "*shape"]:
    """Logarithm of the summed exponentials of the last axis: m + log(sum exp(x - m)), m = max x.

    A row of only -inf gives -inf, not NaN. Tested against: torch.logsumexp.
    """
    highest = x.amax(dim=-1, keepdim=True)
    highest = torch.where(torch.isfinite(highest), highest, torch.zeros_like(highest))
    return (x - highest).exp().sum(dim=-1).log() + highest.squeeze(-1)


def softmax(x: Float[Tensor, "*shape V"]) -> Float[Tensor, "*shape V"]:
    """Probabilities over the last axis: exp(x - max x) / sum exp(x - max x).

    A row of only -inf gives zeros, not NaN: a query that may see nothing attends to nothing.
    Tested against: torch.softmax.
    """
    highest = x.amax(dim=-1, keepdim=True)
    highest = torch.where(torch.isfinite(highest), highest, torch.zeros_like(highest))
    weights = (x - highest).exp()
    total = weights.sum(dim=-1, keepdim=True)
    return weights / torch.where(total == 0, torch.ones_like(total), total)


def log_softmax(x: Float[Tensor, "*shape V"]) -> Float[Tensor, "*shape V"]:
    """Log-probabilities over the last axis: x - log sum exp x. Tested against: torch.log_softmax."""
    return x - log_sum_exp(x).unsqueeze(-1)
