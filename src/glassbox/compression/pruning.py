"""Weights set to zero: by magnitude, by Wanda's product with the inputs, some of each row or 2 of every 4."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from glassbox.core.errors import UserError


def magnitude_scores(weight: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
    """|w|. Source: Han et al., arXiv:1506.02626."""
    return weight.detach().float().abs()


def wanda_scores(
    weight: Float[Tensor, "O I"], squares: Float[Tensor, " I"]
) -> Float[Tensor, "O I"]:
    """|w| times the norm of its input channel, sqrt(sum of x^2). Source: Sun et al., arXiv:2306.11695, equation 1."""
    return weight.detach().float().abs() * squares.float().sqrt()


def mask_of_rows(scores: Float[Tensor, "O I"], share: float) -> Bool[Tensor, "O I"]:
    """True for the weights that stay: of each row all but the `share` of lowest scores (rounded down).

    Of equal scores the first go. Raises UserError for a share outside 0 to 1.
    Tested against: sorting each row.

    >>> mask_of_rows(torch.tensor([[3.0, 1.0, 2.0, 4.0]]), 0.5).tolist()
    [[True, False, False, True]]
    """
    if not 0 <= share < 1:
        raise UserError(f"sparsity = {share}: give a share of at least 0 and below 1")
    gone = int(share * scores.shape[1] + 1e-9)
    order = torch.argsort(scores, dim=1, stable=True)
    mask = torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
    return mask.scatter_(1, order[:, :gone], False)


def mask_n_of_m(scores: Float[Tensor, "O I"], n: int = 2, m: int = 4) -> Bool[Tensor, "O I"]:
    """True for the n of highest score among every m neighbours of a row.

    Raises UserError for rows that are no multiple of m. Tested against: a loop over the groups.

    >>> mask_n_of_m(torch.tensor([[3.0, 1.0, 2.0, 4.0]])).tolist()
    [[True, False, False, True]]
    """
    if scores.shape[1] % m:
        raise UserError(
            f"{n}:{m} needs rows of a multiple of {m} weights, this matrix has {scores.shape[1]} columns"
        )
    groups = scores.view(len(scores), -1, m)
    order = torch.argsort(groups, dim=-1, stable=True)
    mask = torch.ones(groups.shape, dtype=torch.bool, device=scores.device)
    return mask.scatter_(-1, order[..., : m - n], False).view_as(scores)
