"""Weights as small integers: a code per weight, a scale and perhaps a zero point per group of a row.

    W[o, i] = s[o, g] (q[o, i] - z[o, g]),   g = i // group

q are signed: -8 .. 7 in 4 bits, -128 .. 127 in 8. Codes in 4 bits are stored as q + 8, two a byte,
the lower half first. Source: Jacob et al., arXiv:1712.05877, section 2.1 (the affine code); groups as
in GPTQ, arXiv:2210.17323, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """The values that the weights of each group may take. zeros: None where they are all 0.

    Scales and zero points are (O, G), one column for each group.
    """

    scales: Float[Tensor, "O G"]
    zeros: Float[Tensor, "O G"] | None


def code_range(bits: int) -> tuple[int, int]:
    """The least and the largest code.

    >>> code_range(4)
    (-8, 7)
    """
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def choose_grid(
    weight: Float[Tensor, "O I"],
    bits: int,
    group: int,
    *,
    symmetric: bool = True,
    shrink: float | Float[Tensor, "O G"] = 1.0,
    scale_dtype: torch.dtype = torch.float32,
) -> Grid:
    """Scales and zero points from each group's extremes.

    With q_min .. q_max the codes: symmetric, s = max |w| / ((q_max - q_min) / 2) and no zero points;
    else s = (max - min) / (q_max - q_min) with min <= 0 <= max, z = q_min - round(min / s). shrink: a
    factor on the extremes, below 1 to clip. The scales are rounded to `scale_dtype` before the zero
    points are worked out. The last group of a row may be shorter. A group of zeros has scale 1.
    Tested against: loops; torchao's `choose_qparams_affine`.
    """
    low, high = code_range(bits)
    groups = in_groups(weight.detach().float(), group)  # (O, G, group)
    if symmetric:
        scales = groups.abs().amax(-1) * shrink / ((high - low) / 2)
    else:
        least = groups.amin(-1).clamp(max=0) * shrink
        scales = (groups.amax(-1).clamp(min=0) * shrink - least) / (high - low)
    smallest = torch.finfo(scale_dtype).tiny
    scales = torch.where(scales < smallest, 1.0, scales).to(scale_dtype).float()
    if symmetric:
        return Grid(scales, None)
    return Grid(scales, (low - torch.round(least / scales)).clamp_(low, high))


def round_to_grid_plain(
    weight: Float[Tensor, "O I"], grid: Grid, bits: int, group: int
) -> Int8[Tensor, "O I"]:
    """Weight by weight: q = round(w / s) + z, kept within the codes. The oracle of `round_to_grid`."""
    low, high = code_range(bits)
    codes = torch.empty(weight.shape, dtype=torch.int8)
    for o, row in enumerate(weight):
        for i, value in enumerate(row):
            zero = 0.0 if grid.zeros is None else float(grid.zeros[o, i // group])
            scaled = torch.round(value / grid.scales[o, i // group])
            codes[o, i] = int(min(max(float(scaled) + zero, low), high))
    return codes


def round_to_grid(
    weight: Float[Tensor, "O I"], grid: Grid, bits: int, group: int
) -> Int8[Tensor, "O I"]:
    """q = round(w / s) + z of every weight, halves to even, kept within the codes.

    Tested against: `round_to_grid_plain`; torchao's `quantize_affine`.
    """
    low, high = code_range(bits)
    scaled = in_groups(weight.detach().float(), group) / grid.scales.unsqueeze(-1)
    codes = scaled.round_()
    if grid.zeros is not None:
        codes = codes.add_(grid.zeros.unsqueeze(-1))
    return codes.clamp_(low, high).flatten(1)[:, : weight.shape[1]].to(torch.int8).contiguous()


def from_grid(
    codes: Int8[Tensor, "O I"], grid: Grid, group: int, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "O I"]:
    """s (q - z) of every code, computed in float32."""
    values = in_groups(codes.float(), group)
    if grid.zeros is not None:
        values = values - grid.zeros.float().unsqueeze(-1)
    wide = values * grid.scales.float().unsqueeze(-1)
    return wide.flatten(1)[:, : codes.shape[1]].to(dtype)


def in_groups(rows: Tensor, group: int) -> Float[Tensor, "O G group"]:
    """Each row cut into groups, the last one filled up with zeros."""
    short = -rows.shape[1] % group
    if short:
        rows = torch.cat((rows, rows.new_zeros(len(rows), short)), dim=1)
    return rows.view(len(rows), -1, group)


def pack_halves(codes: Int8[Tensor, "O I"]) -> UInt8[Tensor, "O half"]:
    """Two 4-bit codes a byte, q + 8, the lower half first; an odd row ends with a code of 0.

    >>> pack_halves(torch.tensor([[-8, 7, 0]], dtype=torch.int8)).tolist()
    [[240, 136]]
    """
    if codes.shape[1] % 2:
        codes = torch.cat((codes, codes.new_zeros(len(codes), 1)), dim=1)
    raised = (codes + 8).to(torch.uint8)
    return raised[:, ::2] | (raised[:, 1::2] << 4)


def unpack_halves(packed: UInt8[Tensor, "O half"], columns: int) -> Int8[Tensor, "O I"]:
    """The codes that `pack_halves` took, as signed bytes."""
    pairs = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1)[:, :columns]
    return pairs.to(torch.int8) - 8


def split_bytes(
    codes: Int8[Tensor, "O I"],
) -> tuple[UInt8[Tensor, "O half"], UInt8[Tensor, "O half"]]:
    """8-bit codes as two of 4 bits, both packed: q = 16 upper + lower + 8, with both from -8 to 7.

    >>> [unpack_halves(x, 2).tolist() for x in split_bytes(torch.tensor([[-128, 127]], dtype=torch.int8))]
    [[[-8, 7]], [[-8, 7]]]
    """
    upper = torch.div(codes, 16, rounding_mode="floor")
    return pack_halves(upper), pack_halves(codes - 16 * upper - 8)


def join_bytes(
    upper: UInt8[Tensor, "O half"], lower: UInt8[Tensor, "O half"], columns: int
) -> Int8[Tensor, "O I"]:
    """The inverse of `split_bytes`."""
    return 16 * unpack_halves(upper, columns) + unpack_halves(lower, columns) + 8
