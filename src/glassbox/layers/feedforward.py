"""Position-wise feed-forward layers and their specs."""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from glassbox.core.config import Spec
from glassbox.layers.context import Context
from glassbox.layers.linear import Linear
from glassbox.layers.parameter_roles import FusedRows
from glassbox.ops.activations import clamped_swiglu, geglu, gelu, relu2, swiglu


class Gelu(Spec):
    """down(gelu(up(x))): GPT-2's two-layer perceptron. Source: arXiv:1606.08415."""

    gated: ClassVar[bool] = False
    kind: Literal["gelu"] = "gelu"
    size: int = Field(gt=0, description="F, intermediate size")
    tanh: bool = Field(True, description="the tanh form, as GPT-2, or the exact one")
    bias: bool = True

    def activate(self, middle: Float[Tensor, "*shape M"]) -> Float[Tensor, "*shape F"]:
        """The activation between the two projections; M = F."""
        return gelu(middle, tanh=self.tanh)

    def build(self, hidden_size: int) -> GeluLayer:
        """The layer, with fresh weights yet to be drawn."""
        return GeluLayer(self, hidden_size)


class SwiGlu(Spec):
    """down(silu(gate(x)) * up(x)): Llama's gated perceptron. Source: arXiv:2002.05202."""

    gated: ClassVar[bool] = True
    kind: Literal["swiglu"] = "swiglu"
    size: int = Field(gt=0, description="F, intermediate size")
    bias: bool = False

    def activate(self, middle: Float[Tensor, "*shape M"]) -> Float[Tensor, "*shape F"]:
        """The gated activation between the two projections; M = 2F, the gate first."""
        return swiglu(middle)

    def build(self, hidden_size: int) -> SwiGluLayer:
        """The layer, with fresh weights yet to be drawn."""
        return SwiGluLayer(self, hidden_size)


class GeGlu(Spec):
    """down(gelu(gate(x)) * up(x)): Gemma's gated perceptron. Source: arXiv:2002.05202."""

    gated: ClassVar[bool] = True
    kind: Literal["geglu"] = "geglu"
    size: int = Field(gt=0, description="F, intermediate size")
    tanh: bool = Field(True, description="the tanh form, as Gemma, or the exact one")
    bias: bool = False

    def activate(self, middle: Float[Tensor, "*shape M"]) -> Float[Tensor, "*shape F"]:
        """The gated activation between the two projections; M = 2F, the gate first."""
        return geglu(middle, tanh=self.tanh)

    def build(self, hidden_size: int) -> GeGluLayer:
        """The layer, with fresh weights yet to be drawn."""
        return GeGluLayer(self, hidden_size)


class ClampedSwiGlu(Spec):
    """down((u + 1) g sigmoid(alpha g)), g and u cut at the limit: gpt-oss. Source: arXiv:2508.10925."""

    gated: ClassVar[bool] = True
    kind: Literal["clamped_swiglu"] = "clamped_swiglu"
    size: int = Field(gt=0, description="F, intermediate size")
    alpha: float = Field(1.702, gt=0)
    limit: float = Field(7.0, gt=0)
    bias: bool = False

    def activate(self, middle: Float[Tensor, "*shape M"]) -> Float[Tensor, "*shape F"]:
        """The gated activation between the two projections; M = 2F, the gate first."""
        return clamped_swiglu(middle, alpha=self.alpha, limit=self.limit)

    def build(self, hidden_size: int) -> ClampedSwiGluLayer:
        """The layer, with fresh weights yet to be drawn."""
        return ClampedSwiGluLayer(self, hidden_size)


class Relu2(Spec):
    """down(relu(up(x))^2): a sparse middle, cheap to compute. Source: arXiv:2109.08668."""

    gated: ClassVar[bool] = False
    kind: Literal["relu2"] = "relu2"
    size: int = Field(gt=0, description="F, intermediate size")
    bias: bool = False

    def activate(self, middle: Float[Tensor, "*shape M"]) -> Float[Tensor, "*shape F"]:
        """The activation between the two projections; M = F."""
        return relu2(middle)

    def build(self, hidden_size: int) -> Relu2Layer:
        """The layer, with fresh weights yet to be drawn."""
        return Relu2Layer(self, hidden_size)


Perceptron = Gelu | SwiGlu | GeGlu | ClampedSwiGlu | Relu2
"""Two matrices and what stands between them: also what an expert of a mixture is."""


class GeluLayer(nn.Module):
    """Module of `Gelu`."""

    def __init__(self, spec: Gelu, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        self.up = Linear(hidden_size, spec.size, bias=spec.bias)
        self.down = Linear(spec.size, hidden_size, bias=spec.bias, into_residual=True)

    def forward(
        self, x: Float[Tensor, "B T D"], context: Context | None = None
    ) -> Float[Tensor, "B T D"]:
        """Up-projection, GELU, down-projection."""
        return self.down(self.spec.activate(self.up(x)))


class SwiGluLayer(nn.Module):
    """Module of `SwiGlu`; gate and up are one matrix, (2F, D), so that they are one product."""

    def __init__(self, spec: SwiGlu, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        self.gate_up = Linear(hidden_size, 2 * spec.size, bias=spec.bias)
        self.down = Linear(spec.size, hidden_size, bias=spec.bias, into_residual=True)

    def fused_rows(self) -> dict[str, FusedRows]:
        """Gate and up."""
        return {"gate_up.weight": FusedRows((self.spec.size, self.spec.size))}

    def forward(
        self, x: Float[Tensor, "B T D"], context: Context | None = None
    ) -> Float[Tensor, "B T D"]:
        """Gate and up-projection, multiplied, then down-projection."""
        return self.down(self.spec.activate(self.gate_up(x)))


class GeGluLayer(nn.Module):
    """Module of `GeGlu`; gate and up are one matrix, (2F, D), so that they are one product."""

    def __init__(self, spec: GeGlu, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        self.gate_up = Linear(hidden_size, 2 * spec.size, bias=spec.bias)
        self.down = Linear(spec.size, hidden_size, bias=spec.bias, into_residual=True)

    def fused_rows(self) -> dict[str, FusedRows]:
        """Gate and up."""
        return {"gate_up.weight": FusedRows((self.spec.size, self.spec.size))}

    def forward(
        self, x: Float[Tensor, "B T D"], context: Context | None = None
    ) -> Float[Tensor, "B T D"]:
        """Gate and up-projection, multiplied, then down-projection."""
        return self.down(self.spec.activate(self.gate_up(x)))


class ClampedSwiGluLayer(nn.Module):
    """Module of `ClampedSwiGlu`; gate and up are one matrix, (2F, D), so that they are one product."""

    def __init__(self, spec: ClampedSwiGlu, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        self.gate_up = Linear(hidden_size, 2 * spec.size, bias=spec.bias)
        self.down = Linear(spec.size, hidden_size, bias=spec.bias, into_residual=True)

    def fused_rows(self) -> dict[str, FusedRows]:
        """Gate and up."""
        return {"gate_up.weight": FusedRows((self.spec.size, self.spec.size))}

    def forward(
        self, x: Float[Tensor, "B T D"], context: Context | None = None
    ) -> Float[Tensor, "B T D"]:
        """Gate and up-projection, clamped, multiplied, then down-projection."""
        return self.down(self.spec.activate(self.gate_up(x)))


class Relu2Layer(nn.Module):
    """Module of `Relu2`."""

    def __init__(self, spec: Relu2, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        self.up = Linear(hidden_size, spec.size, bias=spec.bias)
        self.down = Linear(spec.size, hidden_size, bias=spec.bias, into_residual=True)

    def forward(
        self, x: Float[Tensor, "B T D"], context: Context | None = None
    ) -> Float[Tensor, "B T D"]:
        """Up-projection, squared ReLU, down-projection."""
        return self.down(self.spec.activate(self.up(x)))
