"""Retention: linear attention with rotary positions and a fixed decay rate per head.

Source: Sun et al., Retentive Network, arXiv:2307.08621.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from glassbox.core.config import Spec
from glassbox.layers.context import Context
from glassbox.layers.inside import LinearHeads
from glassbox.layers.linear import Linear
from glassbox.layers.norms import RmsNorm, RmsNormLayer
from glassbox.layers.parameter_roles import FusedRows
from glassbox.layers.rotary import Rotary
from glassbox.layers.state import TensorState
from glassbox.ops.activations import silu
from glassbox.ops.chunks import wide
from glassbox.ops.linear_attention import decayed_attention
from glassbox.ops.rotary import apply_rotary


class Retention(Spec):
    """Retention: o_t = sum over s <= t of gamma_h^(t - s) (q_t . k_s) v_s, with rotary positions on
        q and k.

    Head h = 0 .. H - 1 decays by gamma_h = 1 - 2^(-5 - h) per token. Rotary positions together with
    the decay gamma are the paper's exp(i theta) with xPos's decay, its equation 3.
    """

    kind: Literal["retention"] = "retention"
    num_heads: int = Field(gt=0)
    key_dim: int | None = Field(
        None, gt=0, description="a head; hidden_size / num_heads unless given"
    )
    value_dim: int | None = Field(None, gt=0, description="a head; twice key_dim unless given")
    positions: Rotary | None = Rotary(layout="interleaved")
    norm_eps: float = Field(1e-6, gt=0)

    def resolve(self, hidden_size: int) -> Retention:
        """Return the spec with all defaults filled in."""
        if self.key_dim is None and hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size = {hidden_size} is no multiple of num_heads = {self.num_heads}; "
                "change one or give key_dim"
            )
        key_dim = self.key_dim or hidden_size // self.num_heads
        value_dim = self.value_dim or 2 * key_dim
        return self.model_copy(update={"key_dim": key_dim, "value_dim": value_dim})

    def build(self, hidden_size: int) -> RetentionLayer:
        """Return the module; its weights are not yet initialized."""
        return RetentionLayer(self, hidden_size)


class RetentionLayer(nn.Module):
    """The module of `Retention`: output(silu(gate(x)) * norm(each head)), the paper's equation 8.

    The norm is an RMSNorm of each head (as in the authors' code), so the score scalings of the
    paper's section 2.1 ("retention score normalization") cancel and are omitted. q, k, v and the
    gate are one fused matrix, (2 H Dk + 2 H Dv, D).
    Tested against: the parallel form of the paper with its scalings, outputs and gradients.
    """

    attend = staticmethod(decayed_attention)
    inside = LinearHeads()

    def __init__(self, spec: Retention, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec.resolve(hidden_size)
        assert self.spec.key_dim is not None
        assert self.spec.value_dim is not None
        self.key_dim, self.value_dim = self.spec.key_dim, self.spec.value_dim
        keys, values = spec.num_heads * self.key_dim, spec.num_heads * self.value_dim
        self.sizes = (2 * keys, values, values)
        self.qkvg = Linear(hidden_size, sum(self.sizes))
        self.norm = RmsNormLayer(RmsNorm(eps=spec.norm_eps), self.value_dim)
        self.output = Linear(values, hidden_size, into_residual=True)

    def fused_rows(self) -> dict[str, FusedRows]:
        """Rows of q, k, v and the gate in the fused matrix."""
        keys, values, gate = self.sizes
        return {"qkvg.weight": FusedRows((keys // 2, keys // 2, values, gate))}

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> TensorState:
        """Return an empty matrix memory, (B, H, Dk, Dv), whatever the length."""
        shape = (batch_size, self.spec.num_heads, self.key_dim, self.value_dim)
        return TensorState(memory=wide(torch.zeros(shape, device=device, dtype=dtype)))

    def forward(
        self, hidden: Float[Tensor, "B T D"], context: Context, state: TensorState | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix each token with the earlier tokens of its document, and of the cached past if `state`
        is given.
        """
        qk, v, gate = self.qkvg(hidden).split(self.sizes, -1)
        qk = qk.unflatten(-1, (2 * self.spec.num_heads, self.key_dim))
        rotary = self.spec.positions
        if rotary is not None:
            channels = rotary.num_channels(self.key_dim)
            cos, sin = context.rotary(channels, rotary.base, rotary.scaling)
            qk = apply_rotary(qk, cos, sin, layout=rotary.layout)
        q, k = qk.chunk(2, 2)  # (B, T, H, Dk)
        mixed, memory = self.attend(
            q,
            k / math.sqrt(self.key_dim),
            v.unflatten(-1, (-1, self.value_dim)),
            self.log_decay(hidden),
            None if state is None else state["memory"],
            documents=context.documents,
            lengths=context.lengths,
        )
        if state is not None:
            state["memory"] = memory
        return self.output(silu(gate) * self.norm(mixed).flatten(2))

    def log_decay(self, like: Tensor) -> Float[Tensor, "1 1 H"]:
        """log gamma_h of every head, in `like`'s dtype or float32."""
        logs = [math.log1p(-(2.0 ** (-5 - head))) for head in range(self.spec.num_heads)]
        return torch.tensor(logs, device=like.device, dtype=wide(like[:0]).dtype).view(1, 1, -1)
