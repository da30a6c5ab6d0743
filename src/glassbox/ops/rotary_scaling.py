"""Rotary frequencies for contexts longer than the one a model was trained on.

Each function replaces `rotary_frequencies`. All are tested against transformers'
modeling_rope_utils.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.ops.rotary import rotary_frequencies


def linear_frequencies(frequencies: Float[Tensor, " R"], factor: float) -> Float[Tensor, " R"]:
    """Position interpolation: all angles divided by `factor`.

    Source: Chen et al., arXiv:2306.15595, section 2.3.
    """
    return frequencies / factor


def ntk_frequencies(
    rotary_dim: int, base: float, factor: float, device: torch.device | None = None
) -> Float[Tensor, " R"]:
    """NTK-aware scaling: base * factor^(d / (d - 2)), which divides the lowest frequency by
    `factor` and the highest by 1.

    Source: Peng et al., arXiv:2309.00071, section 3.1.
    """
    return rotary_frequencies(rotary_dim, base * _stretch(factor, rotary_dim), device)


def dynamic_ntk_frequencies(
    rotary_dim: int,
    base: float,
    factor: float,
    original_length: int,
    positions: Int[Tensor, "*shape"],
) -> Float[Tensor, "*shape R"]:
    """NTK-aware scaling with a factor that depends on the length so far: s l / L - (s - 1), l =
    max(p + 1, L).

    Each token uses the frequencies of the sequence length that it ends, so that later tokens do not
    change it; transformers, given a whole sequence, uses its length for all tokens.
    Source: Peng et al., arXiv:2309.00071, appendix A.1.
    """
    length = (positions + 1).clamp(min=original_length).to(torch.float32).unsqueeze(-1)
    growth = factor * length / original_length - (factor - 1)
    frequencies = rotary_frequencies(rotary_dim, base, positions.device)
    exponent = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=positions.device)
    if rotary_dim == 2:
        return frequencies.expand(*positions.shape, 1)
    return frequencies * growth ** (-exponent / (rotary_dim - 2))


def llama3_frequencies(
    frequencies: Float[Tensor, " R"],
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_length: int,
) -> Float[Tensor, " R"]:
    """Llama 3's scaling: pairs with fewer than `low_freq_factor` rotations within the original
    length are slowed by `factor`, those with more than `high_freq_factor` are kept, with
    interpolation in between.

    Source: Llama 3.1, arXiv:2407.21783, section 3.4.2, and its code.
    """
    turns = original_length * frequencies / (2 * math.pi)
    keep = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0, 1)
    return frequencies * (keep + (1 - keep) / factor)


def yarn_frequencies(
    frequencies: Float[Tensor, " R"],
    base: float,
    factor: float,
    original_length: int,
    *,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> Float[Tensor, " R"]:
    """YaRN: pairs with fewer than `beta_slow` rotations within the original length are slowed by
        `factor`, those with more than `beta_fast` are kept; in between, a linear ramp over the
        pair's index.

    truncate: round the ramp's ends outward to whole pairs.
    Source: YaRN, Peng et al., arXiv:2309.00071, section 3.2, and its code.
    """
    dim = 2 * frequencies.shape[-1]

    def pair_that_turns(times: float) -> float:
        return dim * math.log(original_length / (times * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair_that_turns(beta_fast), pair_that_turns(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    high += 0.001 if high == low else 0  # a step, not a division by zero
    pair = torch.arange(dim // 2, dtype=torch.float32, device=frequencies.device)
    slowed = ((pair - low) / (high - low)).clamp(0, 1)
    return frequencies * (slowed / factor + (1 - slowed))


def yarn_temperature(factor: float, mscale: float = 1.0) -> float:
    """YaRN's attention temperature: sqrt(1/t) = 0.1 m ln(s) + 1, which compensates the flatter
    attention of longer contexts.

    Cosines and sines are multiplied by it, and hence scores by its square.
    Source: YaRN, arXiv:2309.00071, section 3.3; m: DeepSeek-V2's code.

    >>> round(yarn_temperature(4.0), 4)
    1.1386
    """
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _stretch(factor: float, rotary_dim: int) -> float:
    """The factor on the base; a single pair has the angle 1 whatever the base."""
    return 1.0 if rotary_dim == 2 else float(factor ** (rotary_dim / (rotary_dim - 2)))
