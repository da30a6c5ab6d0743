"""Weights as narrow floats: e4m3 with a scale per row or block, e2m1 with an exponent per 32.

Sources: Micikevicius et al., FP8 formats for deep learning, arXiv:2209.05433; OCP Microscaling Formats
1.0, sections 5.2, 5.3 and 6.3.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The magnitudes of four bits, the first of which is the sign."""
MX_BLOCK = 32
"""Weights that share an exponent."""
E4M3_MAX = 448.0


def exponents(stored: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """2^(s - 127) of e8m0's bytes s.

    >>> exponents(torch.tensor([126, 127, 130], dtype=torch.uint8)).tolist()
    [0.5, 1.0, 8.0]
    """
    return torch.ldexp(torch.ones(stored.shape, device=stored.device), stored.int() - 127)


def decode_mxfp4(
    packed: UInt8[Tensor, "R half"], scales: UInt8[Tensor, "R blocks"]
) -> Float[Tensor, "R C"]:
    """float32 from bytes of two e2m1 values, the lower four bits first, and an exponent for each 32.

    >>> decode_mxfp4(torch.tensor([[0x21] * 16], dtype=torch.uint8),
    ...              torch.tensor([[128]], dtype=torch.uint8))[0, :4].tolist()
    [1.0, 2.0, 1.0, 2.0]
    """
    values = torch.tensor([*E2M1, *(-value for value in E2M1)], device=packed.device)
    byte = torch.arange(256, device=packed.device)
    pairs = torch.stack((values[byte & 15], values[byte >> 4]), dim=1)  # (256, 2)
    numbers = pairs[packed.int()].view(*scales.shape, MX_BLOCK)
    return (numbers * exponents(scales).unsqueeze(-1)).flatten(1)


def encode_mxfp4(
    weight: Float[Tensor, "R C"],
) -> tuple[UInt8[Tensor, "R half"], UInt8[Tensor, "R blocks"]]:
    """Bytes of two e2m1 values and an exponent for each 32 weights, as `decode_mxfp4` reads them.

    The exponent of a block is floor(log2(max |w|)) - 2, 2 being that of e2m1's largest value, and a
    value is the nearest, of two equally near the one with an even code; what lies beyond 6 becomes 6.
    Source: OCP Microscaling Formats 1.0, section 6.3. Tested against: the definition as loops;
    torchao's mx formats.
    """
    blocks = weight.float().reshape(len(weight), -1, MX_BLOCK)
    largest = blocks.abs().amax(-1)
    powers = torch.frexp(largest).exponent - 1 - 2
    powers = torch.where(largest == 0, -127, powers).clamp(-127, 127)
    scaled = torch.ldexp(blocks, -powers.unsqueeze(-1))
    magnitudes = torch.tensor(E2M1, device=weight.device)
    middles = (magnitudes[1:] + magnitudes[:-1]) / 2
    size = scaled.abs()
    above = torch.bucketize(size, middles, right=True)  # at a middle, the upper of the two
    below = torch.bucketize(size, middles)
    codes = torch.where(above % 2 == 0, above, below)
    codes = (codes | (torch.signbit(scaled).long() << 3)).to(torch.uint8).flatten(1)
    return codes[:, ::2] | (codes[:, 1::2] << 4), (powers + 127).to(torch.uint8)
