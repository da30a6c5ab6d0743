"""Cached keys and values in 8 or 4 bits: a step and a least value for each group of a token's channels.

    x[i] = d q[i] + m,   d = (max - min) / (2^bits - 1),  m = min,  q = round((x - m) / d)

d and m are float16, and q is worked out with d and m as they are stored. Source: the per-token codes of
KIVI, arXiv:2402.02750, section 3 (its keys by channel, and its window in full precision, are not here).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

CACHE_BITS = (8, 4)
GROUP = 32
"""Channels that share d and m in 4 bits; in 8 bits all channels of a head do."""


def groups_of(channels: int, bits: int) -> int:
    """How many groups a head's channels make: one in 8 bits, and where GROUP does not divide them.

    >>> groups_of(64, 4), groups_of(64, 8), groups_of(48, 4)
    (2, 1, 1)
    """
    return channels // GROUP if bits == 4 and channels % GROUP == 0 else 1


def code_bytes(channels: int, bits: int) -> int:
    """Bytes of a head's codes.

    >>> code_bytes(64, 4), code_bytes(63, 4), code_bytes(64, 8)
    (32, 32, 64)
    """
    return channels if bits == 8 else (channels + 1) // 2


def encode_tokens(
    x: Float[Tensor, "*rows C"], bits: int
) -> tuple[UInt8[Tensor, "*rows bytes"], Float[Tensor, "*rows two_G"]]:
    """Codes, in 4 bits two a byte with the lower half first, and d of all groups followed by m of all.

    An error is half a step at most, but for what float16 rounds of d and m.
    Tested against: the formula as loops.
    """
    groups = groups_of(x.shape[-1], bits)
    parts = x.float().unflatten(-1, (groups, -1))  # (*rows, G, C / G)
    least = parts.amin(-1).to(torch.float16)
    steps = ((parts.amax(-1) - least.float()) / ((1 << bits) - 1)).to(torch.float16)
    wide = torch.where(steps == 0, torch.ones_like(steps), steps).float()
    scaled = (parts - least.float().unsqueeze(-1)) / wide.unsqueeze(-1)
    codes = scaled.round_().clamp_(0, (1 << bits) - 1).to(torch.uint8).flatten(-2)
    if bits == 4:
        if codes.shape[-1] % 2:
            codes = torch.nn.functional.pad(codes, (0, 1))
        codes = codes[..., ::2] | (codes[..., 1::2] << 4)
    return codes, torch.cat((steps, least), dim=-1)


def decode_tokens(
    codes: UInt8[Tensor, "*rows bytes"],
    scales: Float[Tensor, "*rows two_G"],
    channels: int,
    bits: int,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*rows C"]:
    """What `encode_tokens` stands for, computed in float32."""
    if bits == 4:
        codes = torch.stack((codes & 15, codes >> 4), dim=-1).flatten(-2)[..., :channels]
    steps, least = scales.float().chunk(2, dim=-1)
    parts = codes.float().unflatten(-1, (steps.shape[-1], -1))
    return parts.mul_(steps.unsqueeze(-1)).add_(least.unsqueeze(-1)).flatten(-2).to(dtype)
