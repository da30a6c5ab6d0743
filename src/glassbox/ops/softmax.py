"""Numerically stable softmax, log-softmax and log-sum-exp; entropy from logits."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def log_sum_exp(x: Float[Tensor, "*shape"], dim: int = -1) -> Float[Tensor, "*rest"]:
    """Logarithm of the sum of exponentials over an axis: m + log(sum exp(x - m)), m = max x.

    Returns -inf, not NaN, where all entries are -inf. Tested against: torch.logsumexp.
    """
    highest = _shift(x, dim)
    return (x - highest).exp().sum(dim=dim).log() + highest.squeeze(dim)


def softmax(x: Float[Tensor, "*shape"], dim: int = -1) -> Float[Tensor, "*shape"]:
    """Softmax over an axis: exp(x - max x) / sum exp(x - max x).

    Returns zeros, not NaN, where all entries are -inf, so that a query that may attend to no key
    gets zeros.
    Tested against: torch.softmax.
    """
    weights = (x - _shift(x, dim)).exp()
    total = weights.sum(dim=dim, keepdim=True)
    return weights / torch.where(total == 0, torch.ones_like(total), total)


def log_softmax(x: Float[Tensor, "*shape"], dim: int = -1) -> Float[Tensor, "*shape"]:
    """Log-softmax over an axis: (x - m) - log sum exp(x - m), m = max x.

    The maximum is subtracted first, since x - log_sum_exp(x) loses precision for large logits.
    Tested against: torch.log_softmax.
    """
    shifted = x - _shift(x, dim)
    return shifted - shifted.exp().sum(dim=dim, keepdim=True).log()


def entropy(logits: Float[Tensor, "*shape"], dim: int = -1) -> Float[Tensor, "*rest"]:
    """Entropy in nats of the distribution given by logits: -sum p log p, p = softmax(logits).

    Computed in float32 or wider. A logit of -inf has probability 0 and contributes zero, also to
    the gradient.
    Tested against: torch.distributions.Categorical.

    >>> round(float(entropy(torch.zeros(8)) / torch.tensor(2.0).log()), 4)
    3.0
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    log_probs = log_softmax(wide, dim)
    # 0 * -inf would be NaN, in the gradient too: the infinite ones are put at 0 before the product
    finite = torch.where(torch.isneginf(wide), torch.zeros_like(log_probs), log_probs)
    return -(softmax(wide, dim) * finite).sum(dim=dim)


def _shift(x: Tensor, dim: int) -> Tensor:
    """Each row's maximum, or zero if that is infinite. It cancels, so that no gradient flows
    through it.
    """
    highest = x.detach().amax(dim=dim, keepdim=True)
    return torch.where(torch.isfinite(highest), highest, torch.zeros_like(highest))
