"""How ggml rounds weights to blocks of 32: Q8_0, Q4_0 and Q4_1.

Source: ggml's `ggml-quants.c`. Tested against: the gguf package's `quantize`, to the last bit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int8
from torch import Tensor

from glassbox.core.errors import UserError

BLOCK = 32


class GgmlBlocks(NamedTuple):
    """Signed codes (N, 32), steps (N, 1), and floors (N, 1) where a weight is step (code + 8) + floor."""

    codes: Int8[Tensor, "N 32"]
    steps: Float[Tensor, "N 1"]
    floors: Float[Tensor, "N 1"] | None


def round_q8_0(weights: Float[Tensor, "*rows F"]) -> GgmlBlocks:
    """q = round(w / d), d = max |w| / 127, halves away from 0."""
    blocks = _blocks(weights)
    step = blocks.abs().amax(dim=1, keepdim=True) / 127
    ratio = blocks * _inverse(step)
    size = ratio.abs()
    whole = size.floor()
    rounded = ratio.sign() * (whole + (2 * (size - whole)).floor())
    return GgmlBlocks(rounded.to(torch.int8), _half(step, "q8_0"), None)


def round_q4_0(weights: Float[Tensor, "*rows F"]) -> GgmlBlocks:
    """q = floor(w / d + 8.5) - 8 up to 7, d = m / -8 with m the weight of largest magnitude."""
    blocks = _blocks(weights)
    largest = blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True))
    step = largest / -8
    codes = (blocks * _inverse(step) + 8.5).trunc().clamp_(0, 15) - 8
    return GgmlBlocks(codes.to(torch.int8), _half(step, "q4_0"), None)


def round_q4_1(weights: Float[Tensor, "*rows F"]) -> GgmlBlocks:
    """q = floor((w - m) / d + 0.5) - 8, d = (max - m) / 15 with m the least weight."""
    blocks = _blocks(weights)
    floor = blocks.amin(dim=1, keepdim=True)
    step = (blocks.amax(dim=1, keepdim=True) - floor) / 15
    codes = ((blocks - floor) * _inverse(step) + 0.5).trunc().clamp_(0, 15) - 8
    return GgmlBlocks(codes.to(torch.int8), _half(step, "q4_1"), _half(floor, "q4_1"))


def _blocks(weights: Tensor) -> Tensor:
    return weights.to(torch.float32).reshape(-1, BLOCK)


def _inverse(step: Tensor) -> Tensor:
    return torch.where(step == 0, 0.0, 1 / step)


def _half(stored: Tensor, name: str) -> Tensor:
    narrow = stored.to(torch.float16)
    if not torch.isfinite(narrow).all():
        raise UserError(f"it holds numbers that are not finite, or too large for {name}")
    return narrow
