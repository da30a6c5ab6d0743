"""Mamba-2: a state-space model with a scalar decay per head, equivalent to linear attention.

Source: Dao and Gu, "Transformers are SSMs", arXiv:2405.21060, section 7 and figure 6.
"""

from __future__ import annotations

from typing import ClassVar, Literal

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
from glassbox.layers.mamba import draw_step_bias
from glassbox.layers.parameter_roles import FusedRows
from glassbox.layers.short_conv import ShortConv
from glassbox.layers.state import TensorState
from glassbox.ops.activations import silu
from glassbox.ops.chunks import wide
from glassbox.ops.linear_attention import decayed_attention
from glassbox.ops.norms import rms_norm


class Mamba2(Spec):
    """Mamba-2: H heads of Dh channels, each with N states; heads of a group share the input and
    output vectors.
    """

    kind: Literal["mamba2"] = "mamba2"
    num_heads: int = Field(gt=0)
    head_dim: int | None = Field(
        None, gt=0, description="twice hidden_size / num_heads unless given"
    )
    state_size: int = Field(128, gt=0, description="N, states a channel")
    num_groups: int = Field(1, gt=0, description="how many pairs of vectors b and c there are")
    conv_taps: int = Field(4, gt=1)
    conv_bias: bool = True
    bias: bool = Field(False, description="on the first and the last projection")
    min_step: float = Field(0.0, ge=0, description="a smaller step size becomes this")
    max_step: float | None = Field(None, gt=0, description="a larger step size becomes this")
    norm_eps: float = Field(1e-5, gt=0)

    @model_validator(mode="after")
    def _groups_divide(self) -> Mamba2:
        if self.num_heads % self.num_groups:
            raise ValueError(
                f"num_heads = {self.num_heads} is no multiple of num_groups = {self.num_groups}"
            )
        return self

    def resolve(self, hidden_size: int) -> Mamba2:
        """Return the spec with all defaults filled in. Raises ValueError if the heads do not divide
        the sizes.
        """
        return self.model_copy(update={"head_dim": self.resolved_head_dim(hidden_size)})

    def resolved_head_dim(self, hidden_size: int) -> int:
        """Dh: `head_dim`, or twice hidden_size / num_heads. Raises ValueError if that is not an
        integer.
        """
        if self.head_dim is not None:
            return self.head_dim
        if 2 * hidden_size % self.num_heads:
            raise ValueError(
                f"twice hidden_size = {hidden_size} is no multiple of num_heads = "
                f"{self.num_heads}; change one or give head_dim"
            )
        return 2 * hidden_size // self.num_heads

    def build(self, hidden_size: int) -> Mamba2Layer:
        """Return the module; its weights are not yet initialized."""
        return Mamba2Layer(self, hidden_size)


class Mamba2Layer(nn.Module):
    """The module of `Mamba2`: the SSD form of a state-space model, as attention with q = c, k = b,
    v = delta x.

    [z, x, b, c, s] = W_i hidden, with x, b, c convolved; delta = softplus(s + bias) clamped to its
    limits; y = attention(c, b, delta x, log_decay = delta a) + skip * x; o = W_o rms_norm(y *
    silu(z)), with the norm over each group's channels. `rate` is the logarithm of -a.
    Tested against: transformers Mamba2Mixer.
    """

    attend = staticmethod(decayed_attention)
    inside = LinearHeads()

    wide_weights: ClassVar[tuple[str, ...]] = ("step_bias", "rate", "skip", "norm_weight")

    no_decay: ClassVar[tuple[str, ...]] = ("rate", "skip", "step_bias")

    def __init__(self, spec: Mamba2, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec
        self.head_dim = spec.resolved_head_dim(hidden_size)
        heads, inner = spec.num_heads, spec.num_heads * self.head_dim
        keys = spec.num_groups * spec.state_size
        self.sizes, self.conv_sizes = (inner, inner + 2 * keys, heads), (inner, keys, keys)
        self.input = Linear(hidden_size, sum(self.sizes), bias=spec.bias)
        self.conv = ShortConv(self.sizes[1], spec.conv_taps, bias=spec.conv_bias)
        self.step_bias = nn.Parameter(torch.empty(heads))
        self.rate = nn.Parameter(torch.empty(heads))
        self.skip = nn.Parameter(torch.empty(heads))
        self.norm_weight = nn.Parameter(torch.empty(inner))
        self.output = Linear(inner, hidden_size, bias=spec.bias, into_residual=True)

    def fused_rows(self) -> dict[str, FusedRows]:
        """Rows of z, x, b, c and s in the fused matrix."""
        (inner, _, heads), keys = self.sizes, self.conv_sizes[1]
        return {"input.weight": FusedRows((inner, inner, keys, keys, heads))}

    @torch.no_grad()
    def initialize(self, draw: Draw) -> None:
        """Initialize as in the paper: a between -1 and -16, step sizes between 0.001 and 0.1, skip
        = 1.
        """
        draw_step_bias(self.step_bias, draw)
        self.rate.copy_(nn.init.uniform_(torch.empty_like(self.rate), 1, 16, draw.generator).log())
        nn.init.ones_(self.skip)
        nn.init.ones_(self.norm_weight)

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> TensorState:
        """Return an empty state: the last inputs of the convolution, and a zero matrix per head,
        whatever the length.
        """
        memory = torch.zeros(
            batch_size,
            self.spec.num_heads,
            self.spec.state_size,
            self.head_dim,
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
        spec = self.spec
        gate, mixed, step = self.input(hidden).split(self.sizes, dim=-1)
        mixed, last = self.conv(mixed, context, None if state is None else state["conv"])
        x, b, c = mixed.split(self.conv_sizes, dim=-1)
        x = x.unflatten(-1, (spec.num_heads, -1))  # (B, T, H, Dh)
        b, c = (part.unflatten(-1, (spec.num_groups, -1)) for part in (b, c))  # (B, T, G, N)
        delta = F.softplus(wide(step) + wide(self.step_bias)).clamp(spec.min_step, spec.max_step)
        y, memory = self.attend(
            c,
            b,
            wide(x) * delta.unsqueeze(-1),
            -torch.exp(wide(self.rate)) * delta,
            None if state is None else state["memory"],
            documents=context.documents,
            lengths=context.lengths,
        )
        if state is not None:
            state["conv"], state["memory"] = last, memory
        y = torch.addcmul(y, wide(x), wide(self.skip).unsqueeze(-1)).flatten(2)
        gated = (y * silu(wide(gate))).unflatten(-1, (spec.num_groups, -1))
        ones = torch.ones_like(gated[0, 0, 0])
        normal = rms_norm(gated, ones, spec.norm_eps).flatten(2).to(hidden.dtype)
        return self.output(normal * self.norm_weight.to(hidden.dtype))
