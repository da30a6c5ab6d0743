"""Training's heavy operations as the compiler is to read them on a CPU: products, with loops that it fuses between.

Left alone, the compiler takes torch's attention kernel, whose backward pass is slow on CPUs; keeps
float32 copies of what a softmax could give in bfloat16; multiplies transposed arrays where a transposed
copy is faster; and works out masks and rotary tables anew in every layer. Each function here has its
plain version elsewhere in `ops`, which it is tested against, forwards and backwards.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

LARGEST_LOGITS = 1 << 26
"""Logits at a time: 128 MB in bfloat16."""


def compiles_training(x: Tensor) -> bool:
    """Whether the compiler is looking at a pass on a CPU whose gradients are asked for."""
    return torch.compiler.is_compiling() and x.device.type == "cpu" and torch.is_grad_enabled()


def stored(x: Tensor) -> Tensor:
    """x, which the compiler keeps once instead of working it out in every loop that reads it."""
    return x.as_strided(x.shape, x.stride())


class _Linear(torch.autograd.Function):
    """x W^T; for the gradient of W the other gradient is copied in transposed order first.

    A transposed array as the first factor runs at a third of the rate (AMX, 2048 rows, 4096 wide).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return grad @ weight, weight_gradient(grad, x)


def weight_gradient(grad: Float[Tensor, "N O"], x: Float[Tensor, "N I"]) -> Float[Tensor, "O I"]:
    """grad^T x."""
    first = grad.t()
    if (
        grad.dtype == torch.bfloat16
    ):  # as_strided: the compiler may choose no other order for the copy
        first = stored(first.contiguous())
    return first @ x


def linear(
    x: Float[Tensor, "*shape I"], weight: Float[Tensor, "O I"], bias: Float[Tensor, " O"] | None
) -> Float[Tensor, "*shape O"]:
    """x W^T + b. Tested against: torch.nn.functional.linear."""
    product: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight)
    product = product.view(*x.shape[:-1], weight.shape[0])
    return product if bias is None else product + bias.to(product.dtype)


class _Attention(torch.autograd.Function):
    """exp(scores - highest) v, divided by the sum of the exponentials at the end.

    Kept for the backward pass: the exponentials in the inputs' dtype, one number a query, the result.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
        scores = q @ k.transpose(-1, -2)  # (B, K, G T, S)
        wide = scores.to(_wide(q)) * scale + bias
        highest = wide.amax(dim=-1, keepdim=True)
        highest = torch.where(torch.isfinite(highest), highest, torch.zeros_like(highest))
        weights = (wide - highest).exp()
        total = weights.sum(dim=-1, keepdim=True)
        inverse = 1 / torch.where(total == 0, torch.ones_like(total), total)
        narrow = weights.to(q.dtype)
        result = ((narrow @ v).to(_wide(q)) * inverse).to(q.dtype)
        ctx.save_for_backward(q, k, v, narrow, inverse, result)
        ctx.scale = scale
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, inverse, result = ctx.saved_tensors
        wide = grad.to(inverse.dtype)
        upstream = wide * inverse
        mean = (upstream * result.to(inverse.dtype)).sum(dim=-1, keepdim=True)
        upstream = upstream.to(q.dtype)
        grad_v = weights.transpose(-1, -2) @ upstream
        slope = (upstream @ v.transpose(-1, -2)).to(inverse.dtype)
        slope = ((slope - mean) * weights.to(inverse.dtype) * ctx.scale).to(q.dtype)
        return slope @ k, slope.transpose(-1, -2) @ q, grad_v, None, None


def attention(
    q: Float[Tensor, "B H T Dh"],
    k: Float[Tensor, "B K S Dh"],
    v: Float[Tensor, "B K S Dv"],
    mask: Tensor,
    scale: float,
) -> Float[Tensor, "B H T Dv"]:
    """Two products and a softmax: query heads of one key/value head are rows of the same product.

    The exponentials of a layer exist whole, B H T S numbers in the inputs' dtype.
    Tested against: `ops.attention.attention_plain`.
    """
    length, keys, groups = q.shape[-2], k.shape[-2], q.shape[1] // k.shape[1]
    bias = stored(torch.where(mask, 0.0, -math.inf).to(q.dtype))
    if groups > 1:  # (B, H, T, S) or (B, 1, T, S) as (B, K or 1, G T, S)
        shape = (bias.shape[0], bias.shape[1] // groups or 1, groups, length, keys)
        bias = bias.view(bias.shape[0], shape[1], -1, length, keys).expand(shape).flatten(2, 3)
    rows = q.reshape(q.shape[0], k.shape[1], groups * length, q.shape[-1])
    mixed: Tensor = _Attention.apply(rows, k, v, bias, scale)
    return mixed.view(*q.shape[:-1], v.shape[-1])


class _Loss(torch.autograd.Function):
    """Weighted -log softmax(logits)[target] of all rows; the backward pass makes p - onehot of the logits."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
        logits = rows @ weight.t()
        wide = logits.to(_wide(logits))
        highest = wide.amax(dim=-1, keepdim=True)
        log_total = (wide - highest).exp().sum(dim=-1, keepdim=True).log() + highest
        chosen = logits.gather(-1, targets.unsqueeze(-1)).to(wide.dtype)
        ctx.save_for_backward(rows, weight, logits, log_total, targets, scale)
        return ((log_total - chosen).squeeze(-1) * scale).sum()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, logits, log_total, targets, scale = ctx.saved_tensors
        columns = torch.arange(logits.shape[-1], dtype=torch.int32, device=logits.device)
        hit = columns == targets.to(torch.int32).unsqueeze(-1)
        pull = (scale.to(log_total.dtype) * upstream).unsqueeze(-1)
        probability = (logits.to(log_total.dtype) - log_total).exp()
        grad = ((probability - hit.to(log_total.dtype)) * pull).to(logits.dtype)
        return grad @ weight, weight_gradient(grad, rows), None, None


def linear_cross_entropy(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    targets: Int[Tensor, " N"],
    scale: Float[Tensor, " N"],
) -> Float[Tensor, ""]:
    """Summed scale * -log softmax(hidden W^T)[target]; targets must be ids, whatever their scale.

    Tested against: `ops.cross_entropy.cross_entropy_plain`.
    """
    chunk = max(1, LARGEST_LOGITS // weight.shape[0])
    losses: list[Tensor] = [
        _Loss.apply(*part)
        for part in zip(
            hidden.split(chunk),
            [weight] * math.ceil(len(hidden) / chunk),
            targets.split(chunk),
            scale.split(chunk),
            strict=True,
        )
    ]
    return torch.stack(losses).sum() if len(losses) > 1 else losses[0]


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
