"""DeltaNet and gated DeltaNet: linear attention whose state is updated by the delta rule.

Source: DeltaNet, arXiv:2406.06484, section 3.3; gated DeltaNet, arXiv:2412.06464, section 3.4, as
in Qwen3-Next.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from glassbox.core.config import Spec
from glassbox.layers.context import Context
from glassbox.layers.initialization import Draw
from glassbox.layers.inside import LinearHeads
from glassbox.layers.linear import Linear
from glassbox.layers.norms import RmsNorm, RmsNormLayer
from glassbox.layers.parameter_roles import FusedRows
from glassbox.layers.short_conv import ShortConv
from glassbox.layers.state import TensorState
from glassbox.ops.activations import silu
from glassbox.ops.chunks import wide
from glassbox.ops.delta_rule import delta_rule, l2_norm

SpecT = TypeVar("SpecT", bound="DeltaHeads")


class DeltaHeads(Spec):
    """Settings shared by both layers: H value heads, H / K of which share each of K key heads."""

    num_heads: int = Field(gt=0, description="H, value heads")
    num_key_heads: int | None = Field(None, gt=0, description="K; num_heads unless given")
    key_dim: int | None = Field(
        None, gt=0, description="a key head; hidden_size / num_key_heads unless given"
    )
    value_dim: int | None = Field(
        None, gt=0, description="a value head; hidden_size / num_heads unless given"
    )
    conv_taps: int = Field(4, gt=1, description="tokens that the short convolution sees")
    norm_eps: float = Field(1e-6, gt=0)

    @model_validator(mode="after")
    def _heads_divide(self: SpecT) -> SpecT:
        if self.num_heads % self.key_heads:
            raise ValueError(
                f"num_heads = {self.num_heads} is no multiple of num_key_heads = {self.key_heads}"
            )
        return self

    @property
    def key_heads(self) -> int:
        """K, the number of key heads; H by default."""
        return self.num_key_heads or self.num_heads

    def resolve(self: SpecT, hidden_size: int) -> SpecT:
        """Return the spec with all defaults filled in."""
        sizes = {"num_key_heads": self.key_heads}
        for name, heads in (("key_dim", self.key_heads), ("value_dim", self.num_heads)):
            if getattr(self, name) is None:
                if hidden_size % heads:
                    raise ValueError(
                        f"hidden_size = {hidden_size} is no multiple of {heads} heads; "
                        f"change one or give {name}"
                    )
                sizes[name] = hidden_size // heads
        return self.model_copy(update=sizes)


class DeltaNet(DeltaHeads):
    """DeltaNet: S_t = S_{t-1} + k_t (b_t (v_t - S_{t-1}^T k_t))^T, o_t = S_t^T q_t, b = sigmoid(W
    x).
    """

    gated: ClassVar[bool] = False
    kind: Literal["delta_net"] = "delta_net"

    def build(self, hidden_size: int) -> DeltaNetLayer:
        """Return the module; its weights are not yet initialized."""
        return DeltaNetLayer(self, hidden_size)


class GatedDelta(DeltaHeads):
    """Gated DeltaNet: the delta rule applied to a_t S_{t-1}, a = exp(-exp(A) softplus(W x + dt)),
    and an output gate silu(z).
    """

    gated: ClassVar[bool] = True
    kind: Literal["gated_delta"] = "gated_delta"

    def build(self, hidden_size: int) -> DeltaNetLayer:
        """Return the module; its weights are not yet initialized."""
        return DeltaNetLayer(self, hidden_size)


class Forgetting(nn.Module):
    """Log-decay log a = -exp(A) softplus(x + dt), with a rate A and a time step dt for each head,
    as in Mamba-2.
    """

    wide_weights: ClassVar[tuple[str, ...]] = ("log_rate", "time_bias")

    no_decay: ClassVar[tuple[str, ...]] = ("log_rate", "time_bias")

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.log_rate = nn.Parameter(torch.zeros(num_heads))
        self.time_bias = nn.Parameter(torch.zeros(num_heads))

    def initialize(self, draw: Draw) -> None:
        """Initialize rates uniformly in [1, 16] and time steps log-uniformly in [0.001, 0.1], as in
        the authors' code.
        """
        nn.init.uniform_(self.log_rate, 1.0, 16.0, generator=draw.generator)
        self.log_rate.data.log_()
        low, high = math.log(0.001), math.log(0.1)
        nn.init.uniform_(self.time_bias, low, high, generator=draw.generator)
        steps = self.time_bias.data.exp()
        self.time_bias.data.copy_(steps + torch.log(-torch.expm1(-steps)))  # softplus's inverse

    def forward(self, x: Float[Tensor, "B T H"]) -> Float[Tensor, "B T H"]:
        """Log-decays, never above zero, in float32 or wider."""
        return -wide(self.log_rate).exp() * F.softplus(wide(x) + wide(self.time_bias))


class DeltaNetLayer(nn.Module):
    """The module of `DeltaNet` and `GatedDelta`: output(norm(each head) * silu(z)); DeltaNet has no
    gate z.

    q, k and v pass through a short convolution and SiLU; q and k are then normalized to unit
    length, and q is scaled by 1 / sqrt(Dk). `inputs` computes q, k, v (and z) in one product,
    `rates` b (and the input of a).
    Tested against: transformers Qwen3NextGatedDeltaNet, outputs and gradients.
    """

    attend = staticmethod(delta_rule)
    inside = LinearHeads()

    def __init__(self, spec: DeltaNet | GatedDelta, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec.resolve(hidden_size)
        assert self.spec.key_dim is not None
        assert self.spec.value_dim is not None
        self.key_dim, self.value_dim = self.spec.key_dim, self.spec.value_dim
        keys, values = spec.key_heads * self.key_dim, spec.num_heads * self.value_dim
        self.sizes = (keys, keys, values)
        self.inputs = Linear(hidden_size, sum(self.sizes) + (values if spec.gated else 0))
        self.rates = Linear(hidden_size, (2 if spec.gated else 1) * spec.num_heads)
        self.conv = ShortConv(sum(self.sizes), spec.conv_taps)
        self.forgetting = Forgetting(spec.num_heads) if spec.gated else None
        self.norm = RmsNormLayer(RmsNorm(eps=spec.norm_eps), self.value_dim)
        self.output = Linear(values, hidden_size, into_residual=True)

    def fused_rows(self) -> dict[str, FusedRows]:
        """Rows of q, k, v and z, and of b and the input of a, in the fused matrices."""
        gated, heads = self.forgetting is not None, self.spec.num_heads
        gate = (self.sizes[2],) if gated else ()
        return {
            "inputs.weight": FusedRows((*self.sizes, *gate)),
            "rates.weight": FusedRows((heads, heads) if gated else (heads,)),
        }

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> TensorState:
        """Return an empty state: the inputs of the convolution, and a matrix memory (B, H, Dk, Dv),
        whatever the length.
        """
        shape = (batch_size, self.spec.num_heads, self.key_dim, self.value_dim)
        return TensorState(
            conv=self.conv.init_state(batch_size, device=device, dtype=dtype),
            memory=wide(torch.zeros(shape, device=device, dtype=dtype)),
        )

    def forward(
        self, hidden: Float[Tensor, "B T D"], context: Context, state: TensorState | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix each token with the earlier tokens of its document, and of the cached past if `state`
        is given.
        """
        inputs, rates = self.inputs(hidden), self.rates(hidden)
        qkv, last = self.conv(
            inputs[..., : sum(self.sizes)], context, None if state is None else state["conv"]
        )
        q, k, v = qkv.split(self.sizes, -1)
        q, k = (l2_norm(x.unflatten(-1, (-1, self.key_dim))) for x in (q, k))  # (B, T, K, Dk)
        heads = self.spec.num_heads
        mixed, memory = self.attend(
            q / math.sqrt(self.key_dim),
            k,
            v.unflatten(-1, (heads, self.value_dim)),
            torch.sigmoid(rates[..., :heads]),
            None if self.forgetting is None else self.forgetting(rates[..., heads:]),
            None if state is None else state["memory"],
            documents=context.documents,
            lengths=context.lengths,
        )
        if state is not None:
            state["conv"], state["memory"] = last, memory
        mixed = self.norm(mixed).flatten(2)
        if self.forgetting is not None:
            mixed = mixed * silu(inputs[..., sum(self.sizes) :])
        return self.output(mixed)
