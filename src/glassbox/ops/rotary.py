"""Rotary position embedding: each pair of channels of q and k is turned by position * frequency.

Source: Su et al., RoFormer, arXiv:2104.09864, section 3.4.2. Two layouts pair the channels:
`half` pairs channel i with i + Dh/2 (GPT-NeoX, Llama in Hugging Face files);
`interleaved` pairs 2i with 2i + 1 (the paper, Meta's Llama files, GGUF).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rotary_frequencies(
    rotary_dim: int, base: float, device: torch.device | None = None
) -> Float[Tensor, " R"]:
    """Angle per position of each channel pair: base^(-2i / rotary_dim), i = 0 .. rotary_dim/2 - 1."""
    exponent = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device=device) / rotary_dim
    return 1.0 / (base**exponent)


def rotary_tables(
    positions: Int[Tensor, "*shape"], frequencies: Float[Tensor, " R"]
) -> tuple[Float[Tensor, "*shape R"], Float[Tensor, "*shape R"]]:
    """Cosines and sines of position * frequency, always in float32: bf16 angles lose whole positions."""
    angles = positions.to(torch.float32).unsqueeze(-1) * frequencies
    return angles.cos(), angles.sin()


def apply_rotary(
    x: Float[Tensor, "B H T Dh"],
    cos: Float[Tensor, "#B 1 T R"],
    sin: Float[Tensor, "#B 1 T R"],
    *,
    layout: str = "half",
) -> Float[Tensor, "B H T Dh"]:
    """Turn the first 2R channels of each head by the tables' angles; the rest pass unturned.

    (a, b) -> (a cos - b sin, b cos + a sin) for each pair. Raises ValueError for another layout.
    Tested against: transformers, and the property that scores depend on distance alone.
    """
    pairs = cos.shape[-1]
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    if layout == "half":
        a, b = turned[..., :pairs], turned[..., pairs:]
        result = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    elif layout == "interleaved":
        a, b = turned[..., 0::2], turned[..., 1::2]
        result = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    else:
        raise ValueError(f"rotary layout {layout!r}: use 'half' or 'interleaved'")
    return torch.cat((result, rest), dim=-1) if rest.shape[-1] else result
