"""Means over masked entries."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def masked_mean(
    x: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*#shape"] | Float[Tensor, "*#shape"],
    dim: int | tuple[int, ...] | None = None,
) -> Tensor:
    """Mean of the entries selected by a mask: sum(mask x) / sum(mask), over one axis, several or
    all.

    mask: True (or 1) for entries that count, broadcastable to the shape of `x`. Values of masked
        entries, even NaN or infinity, affect neither the mean nor its gradient.
    Returns zero where no entry counts (numpy and torch return NaN). For a loss over micro-batches
    or ranks, sum and divide once: a mean of means gives tokens of short answers more weight.
    Raises ValueError for a mask that cannot be broadcast to `x`.
    Tested against: torch.masked.mean.

    >>> masked_mean(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([True, True, False])).item()
    1.5
    """
    try:
        weight = mask.expand(x.shape).to(x.dtype)
    except RuntimeError:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}, x {tuple(x.shape)}; it must broadcast to x"
        ) from None
    kept = torch.where(weight != 0, x, torch.zeros_like(x)) * weight
    axes = tuple(range(x.dim())) if dim is None else dim
    total, count = kept.sum(dim=axes), weight.sum(dim=axes)
    return total / torch.where(count == 0, torch.ones_like(count), count)
