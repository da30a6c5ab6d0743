"""Lightning Attention: linear attention with a fixed decay rate per head.

Source: Qin et al., Lightning Attention-2, arXiv:2401.04658; the gate and the norm as in
MiniMax-Text-01, arXiv:2501.08313, section 2.2.
"""

from __future__ import annotations

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
from glassbox.layers.state import TensorState
from glassbox.ops.activations import silu
from glassbox.ops.chunks import wide
from glassbox.ops.linear_attention import decayed_attention


class Lightning(Spec):
    """Lightning Attention: S_t = exp(-r_h) S_{t-1} + k_t v_t^T, o_t = S_t^T q_t, with q, k, v =
    silu(W x).

    Head h = 1 .. H decays at the rate r_h = rate_scale * 2^(-8 h / H), as the slopes of ALiBi.
    """

    kind: Literal["lightning"] = "lightning"
    num_heads: int = Field(gt=0)
    head_dim: int | None = Field(None, gt=0, description="hidden_size / num_heads unless given")
    rate_scale: float = Field(
        1.0, gt=0, description="times each head's rate; MiniMax lowers it from layer to layer"
    )
    norm_eps: float = Field(1e-6, gt=0)

    def resolve(self, hidden_size: int) -> Lightning:
        """Return the spec with all defaults filled in."""
        if self.head_dim is not None:
            return self
        if hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size = {hidden_size} is no multiple of num_heads = {self.num_heads}; "
                "change one or give head_dim"
            )
        return self.model_copy(update={"head_dim": hidden_size // self.num_heads})

    def build(self, hidden_size: int) -> LightningAttention:
        """Return the module; its weights are not yet initialized."""
        return LightningAttention(self, hidden_size)


class LightningAttention(nn.Module):
    """The module of `Lightning`: output(sigmoid(gate(x)) * rms_norm(concatenated heads)).

    The rows of `qkv` are q, k and v of one head after the other, as in MiniMax's files.
    Tested against: transformers MiniMaxLightningAttention, outputs and gradients.
    """

    attend = staticmethod(decayed_attention)
    inside = LinearHeads()

    def __init__(self, spec: Lightning, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec.resolve(hidden_size)
        assert self.spec.head_dim is not None
        self.head_dim = self.spec.head_dim
        size = self.spec.num_heads * self.head_dim
        self.qkv = Linear(hidden_size, 3 * size)
        self.gate = Linear(hidden_size, size)
        self.norm = RmsNormLayer(RmsNorm(eps=self.spec.norm_eps), size)
        self.output = Linear(size, hidden_size, into_residual=True)

    def fused_rows(self) -> dict[str, FusedRows]:
        """Rows of q, k and v in the fused matrix, head by head."""
        return {"qkv.weight": FusedRows((self.head_dim,) * 3, groups=self.spec.num_heads)}

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> TensorState:
        """Return an empty matrix memory, (B, H, Dh, Dh), whatever the length."""
        shape = (batch_size, self.spec.num_heads, self.head_dim, self.head_dim)
        return TensorState(memory=wide(torch.zeros(shape, device=device, dtype=dtype)))

    def forward(
        self, hidden: Float[Tensor, "B T D"], context: Context, state: TensorState | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix each token with the earlier tokens of its document, and of the cached past if `state`
        is given.
        """
        heads = silu(self.qkv(hidden)).unflatten(-1, (self.spec.num_heads, 3 * self.head_dim))
        q, k, v = heads.split(self.head_dim, -1)  # (B, T, H, Dh)
        mixed, memory = self.attend(
            q,
            k,
            v,
            self.log_decay(hidden),
            None if state is None else state["memory"],
            documents=context.documents,
            lengths=context.lengths,
        )
        if state is not None:
            state["memory"] = memory
        return self.output(torch.sigmoid(self.gate(hidden)) * self.norm(mixed.flatten(2)))

    def log_decay(self, like: Tensor) -> Float[Tensor, "1 1 H"]:
        """-r_h of every head, in `like`'s dtype or float32."""
        count = self.spec.num_heads
        rates = [self.spec.rate_scale * 2 ** (-8 * head / count) for head in range(1, count + 1)]
        return -torch.tensor(rates, device=like.device, dtype=wide(like[:0]).dtype).view(1, 1, -1)
