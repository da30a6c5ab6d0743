"""A linear layer with a 4-bit (NF4) weight."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from glassbox.layers.linear import Linear
from glassbox.ops.quantization import Nf4, dequantize_nf4, quantize_nf4


class _Product(torch.autograd.Function):
    """x W^T, with W dequantized for the product only; gradients are computed for x only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Nf4Linear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.dense(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.layer.dense(grad.dtype), None


class Nf4Linear(nn.Module):
    """A linear layer with a frozen weight in NF4: y = x W^T + b, W dequantized at every call.

    The quantized weight is stored in buffers whose shapes follow from the layer's, so that a saved
    state dict loads into a new layer. The product is computed in `compute_dtype`, the result has
    x's dtype.
    Source: QLoRA, arXiv:2305.14314. Tested against: bitsandbytes Linear4bit.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        into_residual: bool = False,
        compute_dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__()
        self.into_residual = into_residual
        self.in_features = in_features
        self.out_features = out_features
        self.compute_dtype = compute_dtype
        codes, scales, groups = Nf4.sizes(in_features * out_features)
        self.register_buffer("codes", torch.zeros(codes, dtype=torch.uint8))
        self.register_buffer("scales", torch.zeros(scales, dtype=torch.uint8))
        self.register_buffer("scale_scales", torch.zeros(groups))
        self.register_buffer("offset", torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    @classmethod
    def from_linear(
        cls, linear: Linear, *, compute_dtype: torch.dtype = torch.bfloat16
    ) -> Nf4Linear:
        """Quantize a `Linear` to 4 bits; the bias is shared."""
        with torch.device("meta"):
            layer = cls(
                linear.in_features,
                linear.out_features,
                into_residual=linear.into_residual,
                compute_dtype=compute_dtype,
            )
        packed = quantize_nf4(linear.weight)
        layer.codes, layer.scales = packed.codes, packed.scales
        layer.scale_scales, layer.offset = packed.scale_scales, packed.offset
        layer.bias = linear.bias
        return layer.train(linear.training)

    def dense(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "O I"]:
        """Return W dequantized."""
        codes, scales = self.get_buffer("codes"), self.get_buffer("scales")
        packed = Nf4(codes, scales, self.get_buffer("scale_scales"), self.get_buffer("offset"))
        return dequantize_nf4(packed, (self.out_features, self.in_features), dtype)

    @property
    def weight(self) -> Float[Tensor, "O I"]:
        """W dequantized, for code that reads a layer's weight."""
        return self.dense(self.compute_dtype)

    def forward(self, x: Float[Tensor, "*shape I"]) -> Float[Tensor, "*shape O"]:
        """Project the last axis."""
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = _Product.apply(x.to(self.compute_dtype), self).to(x.dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def to_linear(self, dtype: torch.dtype) -> Linear:
        """Return the equivalent `Linear` with the dequantized weight."""
        with torch.device("meta"):
            linear = Linear(self.in_features, self.out_features, into_residual=self.into_residual)
        linear.weight = nn.Parameter(self.dense(dtype))
        linear.bias = self.bias
        return linear.train(self.training)

    def extra_repr(self) -> str:
        """The settings shown by `print(model)`."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, nf4"
