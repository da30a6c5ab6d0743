"""Block-wise quantization to 4 and 8 bits: one code per number, one scale per block.

Source: block-wise dynamic quantization, Dettmers et al., arXiv:2110.02861, section 2; 4-bit
NormalFloat and quantized scales, Dettmers et al., QLoRA, arXiv:2305.14314, section 3 and appendix
E. Derivation of the levels: docs/theory/nf4.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

BLOCK_4BIT = 64
"""Numbers per scale in NF4."""
BLOCK_8BIT = 256
"""Numbers per scale in 8 bits."""

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""Quantiles of a normal distribution, scaled to [-1, 1], with an exact zero (QLoRA, appendix E)."""


def nf4_table(device: torch.device | None = None) -> Float[Tensor, " 16"]:
    """The sixteen values of `NF4`, in increasing order."""
    return torch.tensor(NF4, dtype=torch.float32, device=device)


def dynamic_table(
    *, signed: bool = True, device: torch.device | None = None
) -> Float[Tensor, " 256"]:
    """The 256 values of the dynamic 8-bit type, in increasing order: 0, 1, and seven decades of
    equally spaced fractions.

    Each decade 10^-6 .. 10^0 has half as many fractions as the next; signed tables have every value
    with both signs, unsigned ones twice as many values. Tested against: bitsandbytes.

    >>> dynamic_table()[[0, 127, 255]].tolist()
    [-0.992968738079071, 0.0, 1.0]
    """
    values = [0.0, 1.0]
    for decade in range(7):
        fractions = 2**decade + 1 if signed else 2 ** (decade + 1) + 1
        edges = torch.linspace(0.1, 1, fractions, dtype=torch.float32)
        middles = (10 ** (decade - 6)) * ((edges[:-1] + edges[1:]) / 2)
        values += middles.tolist()
        if signed:
            values += (-middles).tolist()
    return torch.tensor(sorted(values), dtype=torch.float32, device=device)


@dataclass(frozen=True)
class Blocks:
    """The result of `quantize_blocks`: one code per number, one scale per block of the flattened
    tensor.
    """

    codes: UInt8[Tensor, "*shape"]
    scales: Float[Tensor, " blocks"]


def quantize_blocks_plain(
    x: Float[Tensor, "*shape"], table: Float[Tensor, " codes"], block: int
) -> Blocks:
    """Number by number: divide by the block's largest magnitude, and take the index of the nearest
    value.

    Ties are broken in favour of the lower value.
    """
    flat = x.detach().reshape(-1).float()
    codes, scales = [], []
    for start in range(0, len(flat), block):
        part = flat[start : start + block]
        scale = part.abs().max()
        scales.append(scale)
        inverse = torch.tensor(1.0) / scale.clamp(min=1e-38)
        for value in part:
            scaled = (value * inverse).clamp(-1, 1)
            middles = [(a + b) / 2 for a, b in pairwise(table)]
            codes.append(sum(bool(scaled > middle) for middle in middles))
    return Blocks(torch.tensor(codes, dtype=torch.uint8).view(x.shape), torch.stack(scales))


def quantize_blocks(
    x: Float[Tensor, "*shape"], table: Float[Tensor, " codes"], block: int
) -> Blocks:
    """Quantize to the index of the value in `table` nearest to x / (largest |x| of its block).

    table: increasing values in [-1, 1]. The last block may be shorter. Computed in float32.
    Tested against: `quantize_blocks_plain`, and bitsandbytes' codes.
    """
    blocks = _in_blocks(x.detach().reshape(-1).float(), block)
    scales = blocks.abs().amax(dim=1)
    scaled = blocks * (1.0 / scales.clamp(min=1e-38)).unsqueeze(1)
    middles = (table[:-1] + table[1:]) / 2
    codes = torch.bucketize(scaled.clamp_(-1, 1), middles, out_int32=True).to(torch.uint8)
    return Blocks(codes.reshape(-1)[: x.numel()].view(x.shape), scales)


def dequantize_blocks(
    blocks: Blocks, table: Float[Tensor, " codes"], block: int
) -> Float[Tensor, "*shape"]:
    """The value of each code times its block's scale, in float32."""
    codes = blocks.codes
    values = table[codes.reshape(-1).int()]
    spread = _in_blocks(values, block) * blocks.scales.unsqueeze(1)
    return spread.reshape(-1)[: codes.numel()].view(codes.shape)


def _in_blocks(flat: Tensor, block: int) -> Tensor:
    """(blocks, block), padded with zeros at the end."""
    short = -len(flat) % block
    if short:
        flat = torch.cat((flat, flat.new_zeros(short)))
    return flat.view(-1, block)


@dataclass(frozen=True)
class Nf4:
    """A tensor in 4 bits with scales in 8 bits: 4.127 bits per number.

    codes: two per byte, the first in the high half.
    scales: the code of each block's scale minus `offset`, their mean.
    scale_scales: one scale for 256 of those.
    """

    codes: UInt8[Tensor, " bytes"]
    scales: UInt8[Tensor, " blocks"]
    scale_scales: Float[Tensor, " groups"]
    offset: Float[Tensor, ""]

    @staticmethod
    def sizes(numbers: int) -> tuple[int, int, int]:
        """Number of bytes, scales and scales of scales for `numbers` numbers.

        >>> Nf4.sizes(4096 * 4096)
        (8388608, 262144, 1024)
        """
        blocks = math.ceil(numbers / BLOCK_4BIT)
        return math.ceil(numbers / 2), blocks, math.ceil(blocks / BLOCK_8BIT)


def quantize_nf4(x: Float[Tensor, "*shape"]) -> Nf4:
    """NF4 in blocks of 64 with double quantization: scales minus their mean, in 8 bits in blocks of
    256.

    Source: QLoRA, arXiv:2305.14314, section 3. Tested against: bitsandbytes, identical codes.
    """
    first = quantize_blocks(x, nf4_table(x.device), BLOCK_4BIT)
    nibbles = first.codes.reshape(-1)
    if len(nibbles) % 2:
        nibbles = torch.cat((nibbles, nibbles.new_full((1,), NF4.index(0.0))))
    offset = first.scales.mean()
    second = quantize_blocks(first.scales - offset, dynamic_table(device=x.device), BLOCK_8BIT)
    return Nf4((nibbles[::2] << 4) | nibbles[1::2], second.codes, second.scales, offset)


def dequantize_nf4(
    packed: Nf4, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*shape"]:
    """Dequantize to a tensor of a shape: the value of each code times its block's scale, in
    float32, then cast to `dtype`.
    """
    device = packed.codes.device
    second = Blocks(packed.scales, packed.scale_scales)
    scales = dequantize_blocks(second, dynamic_table(device=device), BLOCK_8BIT) + packed.offset
    pairs = _pair_table(device)[packed.codes.int()]  # (bytes, 2)
    flat = pairs.view(-1)[: math.prod(shape)]
    if len(flat) % BLOCK_4BIT == 0:
        return (flat.view(-1, BLOCK_4BIT) * scales.unsqueeze(1)).to(dtype).view(shape)
    spread = _in_blocks(flat, BLOCK_4BIT) * scales.unsqueeze(1)
    return spread.view(-1)[: len(flat)].to(dtype).view(shape)


def _pair_table(device: torch.device) -> Float[Tensor, "256 2"]:
    """Both values of every byte, so that two numbers take one lookup."""
    table = nf4_table(device)
    return torch.stack((table.repeat_interleave(16), table.repeat(16)), dim=1)
