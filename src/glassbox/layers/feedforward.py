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
    """GPT-2's two-layer perceptron: down(gelu(up(x))). Source: arXiv:1606.08415."""

    gated: ClassVar[bool] = False
    kind: Literal["gelu"] = "gelu"
    size: int = Field(gt=0, description="F, intermediate size")
    tanh: bool = Field(True, description="the tanh form, as GPT-2, or the exact one")
    bias: bool = True

    def activate(self, middle: Float[Tensor, "*shape M"]) -> Float[Tensor, "*shape F"]:
        """Activation between the two projections; its input has M = F channels."""
        return gelu(middle, tanh=self.tanh)

    def build(self, hidden_size: int) -> GeluLayer:
        """Return the module; its weights are not yet initialized."""
        return GeluLayer(self, hidden_size)


class SwiGlu(Spec):
    """Llama's gated perceptron: down(silu(gate(x)) * up(x)). Source: arXiv:2002.05202."""

    gated: ClassVar[bool] = True
    kind: Literal["swiglu"] = "swiglu"
    size: int = Field(gt=0, description="F, intermediate size")
    bias: bool = False

    def activate(self, middle: Float[Tensor, "*shape M"]) -> Float[Tensor, "*shape F"]:
        """Gated activation between the two projections; its input has M = 2F channels, the gate
        first.
        """
        return swiglu(middle)

    def build(self, hidden_size: int) -> SwiGluLayer:
        """Return the module; its weights are not yet initialized."""
        return SwiGluLayer(self, hidden_size)


class GeGlu(Spec):
    """Gemma's gated perceptron: down(gelu(gate(x)) * up(x)). Source: arXiv:2002.05202."""

    gated: ClassVar[bool] = True
    kind: Literal["geglu"] = "geglu"
    size: int = Field(gt=0, description="F, intermediate size")
    tanh: bool = Field(True, description="the tanh form, as Gemma, or the exact one")
    bias: bool = False

    def activate(self, middle: Float[Tensor, "*shape M"]) -> Float[Tensor, "*shape F"]:
        """Gated activation between the two projections; its input has M = 2F channels, the gate
        first.
        """
        return geglu(middle, tanh=self.tanh)

    def build(self, hidden_size: int) -> GeGluLayer:
        """Return the module; its weights are not yet initialized."""
        return GeGluLayer(self, hidden_size)


class ClampedSwiGlu(Spec):
    """gpt-oss's gated perceptron: down((u + 1) g sigmoid(alpha g)), g and u clamped to the limit.
    Source: arXiv:2508.10925.
    """

    gated: ClassVar[bool] = True
    kind: Literal["clamped_swiglu"] = "clamped_swiglu"
    size: int = Field(gt=0, description="F, intermediate size")
    alpha: float = Field(1.702, gt=0)
    limit: float = Field(7.0, gt=0)
    bias: bool = False

    def activate(self, middle: Float[Tensor, "*shape M"]) -> Float[Tensor, "*shape F"]:
        """Gated activation between the two projections; its input has M = 2F channels, the gate
        first.
        """
        return clamped_swiglu(middle, alpha=self.alpha, limit=self.limit)

    def build(self, hidden_size: int) -> ClampedSwiGluLayer:
        """Return the module; its weights are not yet initialized."""
        return ClampedSwiGluLayer(self, hidden_size)


class Relu2(Spec):
    """A perceptron with sparse activations: down(relu(up(x))^2). Source: arXiv:2109.08668."""

    gated: ClassVar[bool] = False
    kind: Literal["relu2"] = "relu2"
    size: int = Field(gt=0, description="F, intermediate size")
    bias: bool = False

    def activate(self, middle: Float[Tensor, "*shape M"]) -> Float[Tensor, "*shape F"]:
        """Activation between the two projections; its input has M = F channels."""
        return relu2(middle)

    def build(self, hidden_size: int) -> Relu2Layer:
        """Return the module; its weights are not yet initialized."""
        return Relu2Layer(self, hidden_size)


Perceptron = Gelu | SwiGlu | GeGlu | ClampedSwiGlu | Relu2
"""The union of perceptron specs, also used for the experts of a mixture."""


class GeluLayer(nn.Module):
    """The module of `Gelu`."""

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
    """The module of `SwiGlu`; gate and up are one fused matrix, (2F, D)."""

    def __init__(self, spec: SwiGlu, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        self.gate_up = Linear(hidden_size, 2 * spec.size, bias=spec.bias)
        self.down = Linear(spec.size, hidden_size, bias=spec.bias, into_residual=True)

    def fused_rows(self) -> dict[str, FusedRows]:
        """Rows of the gate and up projections in the fused matrix."""
        return {"gate_up.weight": FusedRows((self.spec.size, self.spec.size))}

    def forward(
        self, x: Float[Tensor, "B T D"], context: Context | None = None
    ) -> Float[Tensor, "B T D"]:
        """Gate and up-projection, multiplied, then down-projection."""
        return self.down(self.spec.activate(self.gate_up(x)))


class GeGluLayer(nn.Module):
    """The module of `GeGlu`; gate and up are one fused matrix, (2F, D)."""

    def __init__(self, spec: GeGlu, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        self.gate_up = Linear(hidden_size, 2 * spec.size, bias=spec.bias)
        self.down = Linear(spec.size, hidden_size, bias=spec.bias, into_residual=True)

    def fused_rows(self) -> dict[str, FusedRows]:
        """Rows of the gate and up projections in the fused matrix."""
        return {"gate_up.weight": FusedRows((self.spec.size, self.spec.size))}

    def forward(
        self, x: Float[Tensor, "B T D"], context: Context | None = None
    ) -> Float[Tensor, "B T D"]:
        """Gate and up-projection, multiplied, then down-projection."""
        return self.down(self.spec.activate(self.gate_up(x)))


class ClampedSwiGluLayer(nn.Module):
    """The module of `ClampedSwiGlu`; gate and up are one fused matrix, (2F, D)."""

    def __init__(self, spec: ClampedSwiGlu, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        self.gate_up = Linear(hidden_size, 2 * spec.size, bias=spec.bias)
        self.down = Linear(spec.size, hidden_size, bias=spec.bias, into_residual=True)

    def fused_rows(self) -> dict[str, FusedRows]:
        """Rows of the gate and up projections in the fused matrix."""
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
