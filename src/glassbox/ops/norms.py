"""Normalization over the hidden axis."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def rms_norm_plain(
    x: Float[Tensor, "*shape D"], weight: Float[Tensor, " D"], eps: float, *, offset: bool = False
) -> Float[Tensor, "*shape D"]:
    """RMSNorm: w * x / sqrt(mean(x^2) + eps), computed in float32 or wider.

    With `offset` the factor is 1 + w, so that weight decay pulls it towards one instead of zero
    (Gemma); it is applied before the result is cast to x's dtype.
    Source: Zhang and Sennrich, arXiv:1910.07467. Tested against: transformers LlamaRMSNorm and
    Gemma2RMSNorm.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    scale = torch.rsqrt(wide.pow(2).mean(dim=-1, keepdim=True) + eps)
    if offset:
        return (wide * scale * (1 + weight.to(wide.dtype))).to(x.dtype)
    return weight.to(x.dtype) * (wide * scale).to(x.dtype)


class _RmsNorm(torch.autograd.Function):
    """RMSNorm that saves x and one number per row; autograd would save three more arrays.

    With n = x / rms(x) and h = grad * w, the gradient is (h - n * mean(h * n)) / rms(x).
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor, eps: float
    ) -> Tensor:
        inverse = _inverse_rms(x, eps)
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor):  # type: ignore[no-untyped-def]
        x, weight, inverse = ctx.saved_tensors  # type: ignore[attr-defined]
        normal = x * inverse
        product = (grad * normal).reshape(-1, x.shape[-1])
        mean = (product @ weight).div_(x.shape[-1]).reshape(inverse.shape)
        grad_x = (grad * weight).addcmul_(normal, mean, value=-1).mul_(inverse)
        return grad_x, product.sum(dim=0), None


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    return mean_square.add_(eps).rsqrt_()


def rms_norm(
    x: Float[Tensor, "*shape D"], weight: Float[Tensor, " D"], eps: float, *, offset: bool = False
) -> Float[Tensor, "*shape D"]:
    """`rms_norm_plain`, memory-efficient: a hand-written derivative on the CPU, torch's fused
    kernel elsewhere.

    First derivatives only. Tested against: `rms_norm_plain`.
    """
    if torch.compiler.is_compiling():  # the compiler fuses the plain version itself
        return rms_norm_plain(x, weight, eps, offset=offset)
    if x.device.type != "cpu" and not offset:
        return F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), eps)
    lean = not offset and not torch.is_grad_enabled()  # on a CPU, by now
    if lean and x.dtype == weight.dtype == torch.float32:
        return (x * _inverse_rms(x, eps)).mul_(weight)
    wide = x if x.dtype == torch.float64 else x.float()
    factor = weight.to(wide.dtype) + 1 if offset else weight.to(wide.dtype)
    if x.device.type != "cpu":
        return F.rms_norm(wide, (x.shape[-1],), factor, eps).to(x.dtype)
    if not torch.is_grad_enabled():  # the same bits, without the cost of a derivative's frame
        return (wide * _inverse_rms(wide, eps)).mul_(factor).to(x.dtype)
    normal: Tensor = _RmsNorm.apply(wide, factor, eps)
    return normal.to(x.dtype)


def layer_norm_plain(
    x: Float[Tensor, "*shape D"],
    weight: Float[Tensor, " D"],
    bias: Float[Tensor, " D"] | None,
    eps: float,
) -> Float[Tensor, "*shape D"]:
    """LayerNorm: w * (x - mean x) / sqrt(var x + eps) + b, with the biased variance.

    Source: Ba, Kiros and Hinton, arXiv:1607.06450. Tested against: torch.nn.LayerNorm.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    centred = wide - wide.mean(dim=-1, keepdim=True)
    scale = torch.rsqrt(centred.pow(2).mean(dim=-1, keepdim=True) + eps)
    scaled = weight.to(x.dtype) * (centred * scale).to(x.dtype)
    return scaled if bias is None else scaled + bias.to(x.dtype)


def layer_norm(
    x: Float[Tensor, "*shape D"],
    weight: Float[Tensor, " D"],
    bias: Float[Tensor, " D"] | None,
    eps: float,
) -> Float[Tensor, "*shape D"]:
    """`layer_norm_plain` with torch's kernel."""
    bias = None if bias is None else bias.to(x.dtype)
    return F.layer_norm(x, (x.shape[-1],), weight.to(x.dtype), bias, eps)
