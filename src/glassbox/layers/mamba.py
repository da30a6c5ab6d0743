"""Mamba: a short convolution followed by a selective state-space model, with a gate.

Source: Gu and Dao, "Mamba", arXiv:2312.00752, section 3.4 and figure 3; the norms on step size, b
and c are Jamba's (arXiv:2403.19887, section 3).
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from glassbox.core.config import Spec
from glassbox.layers.context import Context
from glassbox.layers.initialization import Draw
from glassbox.layers.inside import Channels
from glassbox.layers.linear import Linear
from glassbox.layers.norms import RmsNorm, RmsNormLayer
from glassbox.layers.parameter_roles import FusedRows
from glassbox.layers.short_conv import ShortConv
from glassbox.layers.state import TensorState
from glassbox.ops.activations import silu
from glassbox.ops.chunks import wide
from glassbox.ops.selective_scan import selective_scan


class Mamba(Spec):
    """Mamba: I channels with N states each, whose step size, input and output depend on the token."""

    kind: Literal["mamba"] = "mamba"
    inner_size: int | None = Field(None, gt=0, description="I; twice hidden_size unless given")
    state_size: int = Field(16, gt=0, description="N, states a channel")
    step_rank: int | None = Field(
        None, gt=0, description="rank of the step size; hidden_size / 16, rounded up, unless given"
    )
    conv_taps: int = Field(4, gt=1)
    conv_bias: bool = True
    bias: bool = Field(False, description="on the first and the last projection")
    norm: RmsNorm | None = Field(None, description="on step size, b and c, as Jamba")

    def resolve(self, hidden_size: int) -> Mamba:
        """Return the spec with all defaults filled in."""
        inner_size, step_rank = self.sizes(hidden_size)
        return self.model_copy(update={"inner_size": inner_size, "step_rank": step_rank})

    def sizes(self, hidden_size: int) -> tuple[int, int]:
        """inner_size and step_rank, as given or by default."""
        return self.inner_size or 2 * hidden_size, self.step_rank or -(-hidden_size // 16)

    def build(self, hidden_size: int) -> MambaLayer:
        """Return the module; its weights are not yet initialized."""
        return MambaLayer(self, hidden_size)


@torch.no_grad()
def draw_step_bias(bias: Float[Tensor, " I"], draw: Draw) -> None:
    """Initialize a bias in place so that softplus(bias) is log-uniform in [0.001, 0.1]
    (arXiv:2312.00752, section 3.6).
    """
    uniform = nn.init.uniform_(torch.empty_like(bias), generator=draw.generator)
    low, high = math.log(1e-3), math.log(0.1)
    step = torch.exp(low + (high - low) * uniform)
    bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus


class MambaLayer(nn.Module):
    """The module of `Mamba`: y = scan(x, delta, a, b, c) + skip * x, o = W_o (y * silu(z)).

    [x, z] = W_i hidden, with x convolved; [s, b, c] = W x; delta = softplus(W_s s + bias). `rate`
    is the logarithm of -a, (I, N). Tested against: transformers MambaMixer and JambaMambaMixer.
    """

    attend = staticmethod(selective_scan)
    inside = Channels(query="c", key="b", value="x")

    wide_weights: ClassVar[tuple[str, ...]] = ("step_bias", "rate", "skip")

    no_decay: ClassVar[tuple[str, ...]] = ("rate", "skip", "step_bias")
    matrices: ClassVar[tuple[str, ...]] = ("step_weight",)

    def __init__(self, spec: Mamba, hidden_size: int) -> None:
        super().__init__()
        inner, rank = spec.sizes(hidden_size)
        states = spec.state_size
        self.sizes = (rank, states, states)
        self.input = Linear(hidden_size, 2 * inner, bias=spec.bias)
        self.conv = ShortConv(inner, spec.conv_taps, bias=spec.conv_bias)
        self.select = Linear(inner, sum(self.sizes))
        self.norms = (
            None
            if spec.norm is None
            else nn.ModuleList(RmsNormLayer(spec.norm, size) for size in self.sizes)
        )
        self.step_weight = nn.Parameter(torch.empty(inner, rank))
        self.step_bias = nn.Parameter(torch.empty(inner))
        self.rate = nn.Parameter(torch.empty(inner, states))
        self.skip = nn.Parameter(torch.empty(inner))
        self.output = Linear(inner, hidden_size, bias=spec.bias, into_residual=True)

    def fused_rows(self) -> dict[str, FusedRows]:
        """Rows of x and z, and of s, b and c, in the fused matrices."""
        inner = self.rate.shape[0]
        return {"input.weight": FusedRows((inner, inner)), "select.weight": FusedRows(self.sizes)}

    @torch.no_grad()
    def initialize(self, draw: Draw) -> None:
        """Initialize as in the paper: a_n = -n, step sizes between 0.001 and 0.1, skip = 1."""
        bound = self.sizes[0] ** -0.5
        nn.init.uniform_(self.step_weight, -bound, bound, generator=draw.generator)
        draw_step_bias(self.step_bias, draw)
        self.rate.copy_(torch.log(torch.arange(1, self.sizes[1] + 1)).expand_as(self.rate))
        nn.init.ones_(self.skip)

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> TensorState:
        """Return an empty state: the last inputs of the convolution, and N zeros per channel,
        whatever the length.
        """
        memory = torch.zeros(
            batch_size,
            *self.rate.shape,
            device=device,
            dtype=torch.promote_types(dtype, torch.float32),
        )
        conv = self.conv.init_state(batch_size, device=device, dtype=dtype)
        return TensorState(conv=conv, memory=memory)

    def forward(
        self, hidden: Float[Tensor, "B T D"], context: Context, state: TensorState | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix each token with the earlier tokens of its document, and of the cached past if `state`
        is given.
        """
        x, gate = self.input(hidden).chunk(2, dim=-1)  # (B, T, I)
        x, last = self.conv(x, context, None if state is None else state["conv"])
        parts = self.select(x).split(self.sizes, dim=-1)
        if self.norms is not None:
            parts = [norm(part) for norm, part in zip(self.norms, parts, strict=True)]
        step, b, c = parts
        delta = F.softplus(wide(F.linear(step, self.step_weight)) + wide(self.step_bias))
        y, memory = self.attend(
            x,
            delta,
            -torch.exp(wide(self.rate)),
            b,
            c,
            None if state is None else state["memory"],
            documents=context.documents,
            lengths=context.lengths,
        )
        if state is not None:
            state["conv"], state["memory"] = last, memory
        return self.output(((y + x * self.skip) * silu(gate)).to(gate.dtype))
