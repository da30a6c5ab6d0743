"""Activation functions, plain and memory-efficient."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def gelu_plain(x: Float[Tensor, "*shape"], *, tanh: bool = False) -> Float[Tensor, "*shape"]:
    """GELU: x * Phi(x), with Phi the normal distribution function, or its tanh approximation, as in
        GPT-2.

    Source: Hendrycks and Gimpel, arXiv:1606.08415, section 2. Tested against: torch.
    """
    if tanh:
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))
        return 0.5 * x * (1 + torch.tanh(inner))
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def gelu(x: Float[Tensor, "*shape"], *, tanh: bool = False) -> Float[Tensor, "*shape"]:
    """`gelu_plain` with torch's kernel."""
    return F.gelu(x, approximate="tanh" if tanh else "none")


def soft_cap(x: Float[Tensor, "*shape"], cap: float) -> Float[Tensor, "*shape"]:
    """Soft capping: c tanh(x / c), which is close to x near zero and bounded by +-c.

    Source: Gemma 2, arXiv:2408.00118, section 2. Tested against: transformers.

    >>> soft_cap(torch.tensor([0.01, 1000.0]), 30.0).tolist()
    [0.009999999776482582, 30.0]
    """
    return cap * torch.tanh(x / cap)


def silu_plain(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x * sigmoid(x), sigmoid(x) = 1 / (1 + exp(-x)). Source: arXiv:1606.08415. Tested against: torch."""
    return x * torch.sigmoid(x)


def silu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`silu_plain` with torch's kernel."""
    return F.silu(x)


def swiglu_plain(
    gate: Float[Tensor, "*shape F"], up: Float[Tensor, "*shape F"]
) -> Float[Tensor, "*shape F"]:
    """Gated product silu(gate) * up. Source: Shazeer, arXiv:2002.05202. Tested against: transformers."""
    return silu_plain(gate) * up


class _SwiGlu(torch.autograd.Function):
    """silu(gate) * up from a fused projection: saves the projection only and recomputes the
    sigmoid.

    Autograd would save three more tensors of the size of `up` per layer.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors  # type: ignore[attr-defined]
        gate, up = gate_up.chunk(2, dim=-1)
        result = torch.empty_like(gate_up)
        grad_gate, grad_up = result.chunk(2, dim=-1)
        torch.mul(F.silu(gate), grad, out=grad_up)
        torch.mul(grad, up, out=grad_gate)
        # silu'(g) by torch's backward kernel: sigmoid(g) * (1 + g * (1 - sigmoid(g)))
        torch.ops.aten.silu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)
        return result


def swiglu(gate_up: Float[Tensor, "*shape 2F"]) -> Float[Tensor, "*shape F"]:
    """silu(first half) * second half of a fused gate/up projection, memory-efficient.

    First derivatives only. Tested against: `swiglu_plain`.
    """
    if torch.compiler.is_compiling():  # the compiler fuses the plain version itself
        return swiglu_plain(*gate_up.chunk(2, dim=-1))
    if not torch.is_grad_enabled():  # the same bits, without the cost of a derivative's frame
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)
    return _SwiGlu.apply(gate_up)


def geglu_plain(
    gate: Float[Tensor, "*shape F"], up: Float[Tensor, "*shape F"], *, tanh: bool = True
) -> Float[Tensor, "*shape F"]:
    """Gated product gelu(gate) * up. Source: Shazeer, arXiv:2002.05202. Tested against: transformers."""
    return gelu_plain(gate, tanh=tanh) * up


class _GeGlu(torch.autograd.Function):
    """gelu(gate) * up from a fused projection: saves the projection only and recomputes the GELU."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, gate_up: Tensor, approximate: str
    ) -> Tensor:
        ctx.save_for_backward(gate_up)
        ctx.approximate = approximate  # type: ignore[attr-defined]
        gate, up = gate_up.chunk(2, dim=-1)
        return F.gelu(gate, approximate=approximate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor):  # type: ignore[no-untyped-def]
        (gate_up,) = ctx.saved_tensors  # type: ignore[attr-defined]
        approximate = ctx.approximate  # type: ignore[attr-defined]
        gate, up = gate_up.chunk(2, dim=-1)
        result = torch.empty_like(gate_up)
        grad_gate, grad_up = result.chunk(2, dim=-1)
        torch.mul(F.gelu(gate, approximate=approximate), grad, out=grad_up)
        torch.mul(grad, up, out=grad_gate)
        torch.ops.aten.gelu_backward.grad_input(
            grad_gate, gate, approximate=approximate, grad_input=grad_gate
        )
        return result, None


def geglu(gate_up: Float[Tensor, "*shape 2F"], *, tanh: bool = True) -> Float[Tensor, "*shape F"]:
    """gelu(first half) * second half of a fused gate/up projection, memory-efficient.

    First derivatives only. Tested against: `geglu_plain`.
    """
    if torch.compiler.is_compiling():  # the compiler fuses the plain version itself
        return geglu_plain(*gate_up.chunk(2, dim=-1), tanh=tanh)
    return _GeGlu.apply(gate_up, "tanh" if tanh else "none")


def relu2_plain(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """max(x, 0)^2. Source: So et al., Primer, arXiv:2109.08668. Tested against: transformers."""
    return torch.relu(x).pow(2)


class _Relu2(torch.autograd.Function):
    """relu(x)^2, which saves x only; the derivative is 2 relu(x)."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.relu(x).square_()

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return torch.relu(x).mul_(2).mul_(grad)


def relu2(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`relu2_plain`, saving only x for the backward pass; first derivatives only.

    Tested against: `relu2_plain`.
    """
    if torch.compiler.is_compiling():  # the compiler fuses the plain version itself
        return relu2_plain(x)
    return _Relu2.apply(x)


def clamped_swiglu(
    gate_up: Float[Tensor, "*shape 2F"], *, alpha: float = 1.702, limit: float = 7.0
) -> Float[Tensor, "*shape F"]:
    """gpt-oss's gated activation: (u + 1) g sigmoid(alpha g) with g = min(gate, limit) and u = up
    clamped to [-limit, limit].

    gate and up are the halves of the last axis. Source: gpt-oss model card, arXiv:2508.10925.
    Tested against: transformers' GptOssExperts.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return (up + 1) * gate * torch.sigmoid(alpha * gate)
