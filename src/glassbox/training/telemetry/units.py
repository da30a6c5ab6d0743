"""Units of feed-forwards that say nothing: dead ones and saturated ones."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

NOTHING = 1e-3
"""A unit is dead whose largest output is below this share of the layer's root mean square."""
CONSTANT = 1e-2
"""A living unit is saturated whose standard deviation is below this share of its mean's size."""


def stuck_shares(
    middle: Float[Tensor, "*tokens F"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The shares of F units that are dead and that are saturated, over the tokens at hand.

    middle: what a feed-forward's last matrix reads. Dead: |output| below NOTHING times the layer's
    root mean square for every token. Saturated: not dead, and the same for every token (standard
    deviation below CONSTANT times |mean|). Tested against: units made so by hand.
    """
    middle = middle.reshape(-1, middle.shape[-1]).float()
    size = middle.square().mean().sqrt()
    dead = middle.abs().amax(0) <= NOTHING * size
    mean, deviation = middle.mean(0), middle.std(0, unbiased=False)
    saturated = ~dead & (deviation <= CONSTANT * mean.abs())
    return dead.float().mean(), saturated.float().mean()


def expert_balance(
    load: Float[Tensor, " E"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Of the tokens that each expert received: the largest share, entropy / ln E, the share of idle experts.

    >>> [round(float(x), 3) for x in expert_balance(torch.tensor([5.0, 5.0, 0.0, 0.0]))]
    [0.5, 0.5, 0.5]
    """
    shares = load.float() / load.sum().clamp(min=1)
    entropy = torch.special.entr(shares).sum() / torch.log(torch.tensor(float(len(load))))
    return shares.max(), entropy, (load == 0).float().mean()
