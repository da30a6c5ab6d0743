"""Sinusoidal position embeddings, with wavelengths from 2 pi to 2 pi * 10000.

Source: Vaswani et al., arXiv:1706.03762, section 3.5.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.ops.rotary import rotary_frequencies


def sinusoidal(positions: Int[Tensor, "*shape"], size: int) -> Float[Tensor, "*shape D"]:
    """Channel 2i is sin(p / 10000^(2i/D)) and channel 2i + 1 the cosine of the same angle, in
    float32.

    Tested against: the formula as a loop, and transformers DistilBERT.

    >>> sinusoidal(torch.tensor(0), 4).tolist()
    [0.0, 1.0, 0.0, 1.0]
    """
    frequencies = rotary_frequencies(size, 10000.0, positions.device)
    angles = positions.to(torch.float32).unsqueeze(-1) * frequencies
    waves = torch.stack((angles.sin(), angles.cos()), dim=-1)
    return waves.flatten(-2)[..., :size]
