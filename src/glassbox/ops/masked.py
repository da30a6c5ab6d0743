"""Means over the entries that count."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def masked_mean(
    x: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*#shape"] | Float[Tensor, "*#shape"],
    dim: int | tuple[int, ...] | None = None,
) -> Tensor:
    """Mean of the entries that a mask keeps: sum(mask x) / sum(mask), over an axis, several or all.

    mask: True (or 1) where an entry counts, of a shape that broadcasts to that of `x`. What it hides
        is not touched: NaN or infinity there reaches neither the mean nor its gradient.
    Zero where nothing counts, as such a row teaches nothing (numpy's and torch's mean give NaN).
    A loss over micro-batches or ranks needs sums and one division: a mean of such means weighs the
    tokens of short answers more. Raises ValueError for a mask that does not broadcast to `x`.
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
