"""Normalisation over the hidden axis, plain and fast."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def rms_norm_plain(
    x: Float[Tensor, "*shape D"], weight: Float[Tensor, " D"], eps: float
) -> Float[Tensor, "*shape D"]:
    """Scale to unit root mean square: w * x / sqrt(mean(x^2) + eps), computed in float32 or wider.

    Source: Zhang and Sennrich, arXiv:1910.07467. Tested against: transformers LlamaRMSNorm.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    scale = torch.rsqrt(wide.pow(2).mean(dim=-1, keepdim=True) + eps)
    return weight * (wide * scale).to(x.dtype)


def rms_norm(
    x: Float[Tensor, "*shape D"], weight: Float[Tensor, " D"], eps: float
) -> Float[Tensor, "*shape D"]:
    """`rms_norm_plain` by torch's kernel, which keeps the statistics in float32."""
    return F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), eps)


def layer_norm_plain(
    x: Float[Tensor, "*shape D"],
    weight: Float[Tensor, " D"],
    bias: Float[Tensor, " D"] | None,
    eps: float,
) -> Float[Tensor, "*shape D"]:
    """Centre and scale: w * (x - mean x) / sqrt(var x + eps) + b, the variance without Bessel's -1.

    Source: Ba, Kiros and Hinton, arXiv:1607.06450. Tested against: torch.nn.LayerNorm.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    centred = wide - wide.mean(dim=-1, keepdim=True)
    scale = torch.rsqrt(centred.pow(2).mean(dim=-1, keepdim=True) + eps)
    scaled = weight * (centred * scale).to(x.dtype)
    return scaled if bias is None else scaled + bias


def layer_norm(
    x: Float[Tensor, "*shape D"],
    weight: Float[Tensor, " D"],
    bias: Float[Tensor, " D"] | None,
    eps: float,
) -> Float[Tensor, "*shape D"]:
    """`layer_norm_plain` by torch's kernel."""
    bias = None if bias is None else bias.to(x.dtype)
    return F.layer_norm(x, (x.shape[-1],), weight.to(x.dtype), bias, eps)
