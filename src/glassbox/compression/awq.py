"""AWQ: channels that carry large activations are made larger before rounding, and outliers are clipped.

A layer computes (x / s) . Q(W s): s = a^alpha of the mean magnitudes a of its inputs, with the alpha that
leaves the least error, and then for each group the clipping that does. The division stays in the layer
(`QuantizedLinear.input_scales`), so that it goes with every mixer and needs no neighbour's weights.
Source: Lin et al., arXiv:2306.00978, section 3.2 and equations 4 and 5; clipping as in its published code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from glassbox.compression.integers import IntegerCodes
from glassbox.ops.integer_codes import Grid, from_grid, in_groups, round_to_grid

ALPHAS = tuple(step / 20 for step in range(20))
SHRINKS = tuple(1 - step / 20 for step in range(11))


@dataclass(frozen=True)
class Scaled:
    """The parts of a matrix and what its inputs are multiplied by; alpha 0: by nothing."""

    parts: dict[str, Tensor]
    input_scales: Float[Tensor, " I"] | None
    alpha: float


def output_error(difference: Float[Tensor, "O I"], hessian: Float[Tensor, "I I"]) -> float:
    """sum over inputs x of |dW x|^2 = tr(dW H dW^T), with H = sum of x x^T.

    Tested against: the sum over inputs.
    """
    wide = difference.double()
    return float(((wide @ hessian.double()) * wide).sum())


def channel_scales(magnitudes: Float[Tensor, " I"], alpha: float) -> Float[Tensor, " I"]:
    """s = a^alpha over the root of its largest times its least value, so that s is about 1."""
    scales = magnitudes.double().clamp(min=1e-8) ** alpha
    scales = scales.clamp(min=1e-4 * float(scales.max()))
    return (scales / (scales.max() * scales.min()).sqrt()).float()


def awq(
    weight: Float[Tensor, "O I"],
    hessian: Float[Tensor, "I I"],
    magnitudes: Float[Tensor, " I"],
    codes: IntegerCodes,
    *,
    clip: bool = True,
) -> Scaled:
    """The parts and input scales of least error over the grids `ALPHAS` and `SHRINKS`.

    magnitudes: mean |x| of each input channel. Tested against: the same search over inputs as loops.
    """
    group = codes.group_size(weight.shape[1])
    weight = weight.detach().float()
    best: tuple[float, float, Tensor] | None = None
    for alpha in ALPHAS:
        scales = channel_scales(magnitudes, alpha)
        scaled = weight * scales
        grid = codes.grid(scaled)
        wide = from_grid(round_to_grid(scaled, grid, codes.bits, group), grid, group) / scales
        error = output_error(wide - weight, hessian)
        if best is None or error < best[0]:
            best = error, alpha, scales
    assert best is not None
    _, alpha, scales = best
    scaled = weight * scales
    unscaled = hessian.float() / (scales.unsqueeze(1) * scales.unsqueeze(0))  # inputs x / s
    shrink = clipping(scaled, unscaled, codes) if clip else 1.0
    grid = codes.grid(scaled, shrink)
    parts = codes.parts_of(round_to_grid(scaled, grid, codes.bits, group), grid)
    return Scaled(parts, None if alpha == 0 else 1 / scales, alpha)


def clipping(
    weight: Float[Tensor, "O I"], hessian: Float[Tensor, "I I"], codes: IntegerCodes
) -> Float[Tensor, "O G"]:
    """For each group the factor on its extremes, of `SHRINKS`, that leaves the least error of its own sum.

    Tested against: the errors of each group's products as loops.
    """
    group = codes.group_size(weight.shape[1])
    groups = in_groups(weight, group)  # (O, G, group)
    blocks = _diagonal_blocks(hessian, group)  # (G, group, group)
    best = torch.full(groups.shape[:2], torch.inf, dtype=torch.float64, device=weight.device)
    chosen = torch.ones(groups.shape[:2], device=weight.device)
    for shrink in SHRINKS:
        grid: Grid = codes.grid(weight, shrink)
        wide = from_grid(round_to_grid(weight, grid, codes.bits, group), grid, group)
        moved = in_groups(wide - weight, group).double().transpose(0, 1)  # (G, O, group)
        error = ((moved @ blocks) * moved).sum(-1).t()
        better = error < best
        best = torch.where(better, error, best)
        chosen = torch.where(better, shrink, chosen)
    return chosen


def _diagonal_blocks(hessian: Tensor, group: int) -> Float[Tensor, "G group group"]:
    short = -len(hessian) % group
    padded = torch.nn.functional.pad(hessian.double(), (0, short, 0, short))
    count = len(padded) // group
    tiles = padded.view(count, group, count, group)
    return torch.stack([tiles[g, :, g] for g in range(count)])
