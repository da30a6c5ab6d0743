"""Gated attention unit: one head of attention and the feed-forward's gate in a single layer.

Source: Hua et al., "Transformer Quality in Linear Time" (GAU and FLASH), arXiv:2202.10447.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from glassbox.core.config import Spec
from glassbox.layers.context import Context
from glassbox.layers.initialization import Draw
from glassbox.layers.inside import OneHead
from glassbox.layers.linear import Linear
from glassbox.layers.parameter_roles import FusedRows
from glassbox.layers.rotary import Rotary
from glassbox.layers.state import TensorState
from glassbox.ops.activations import silu
from glassbox.ops.chunks import wide
from glassbox.ops.mixed_chunk import mixed_chunk
from glassbox.ops.rotary import apply_rotary


class GatedAttentionUnit(Spec):
    """output(u * attend(v)) with u, v, z = silu(W x), and four narrow views of z for q and k.

    Within a chunk attention is relu(q . k / C + w)^2, across chunks linear: the paper's FLASH; a chunk
    as long as the sequence makes it FLASH-Quad. It widens as a feed-forward does: a block of it
    needs none (`ffn: null`), and two of them stand for one block of attention and feed-forward.
    """

    kind: Literal["gated_attention_unit"] = "gated_attention_unit"
    size: int | None = Field(
        None, gt=0, description="width of u and v, E; twice hidden_size unless given"
    )
    key_dim: int = Field(128, gt=0, description="width of z, q and k, S")
    chunk: int = Field(256, gt=0, description="C, tokens that attend quadratically")
    positions: Rotary | None = Rotary()

    def resolve(self, hidden_size: int) -> GatedAttentionUnit:
        """Return the spec with all defaults filled in."""
        return self.model_copy(update={"size": self.size or 2 * hidden_size})

    def build(self, hidden_size: int) -> GatedAttentionUnitLayer:
        """Return the module; its weights are not yet initialized."""
        return GatedAttentionUnitLayer(self, hidden_size)


class GatedAttentionUnitLayer(nn.Module):
    """The module of `GatedAttentionUnit`; u, v and z are one fused matrix, (2 E + S, D).

    factor, shift: (4, S), the per-channel affine maps from z to the two queries and two keys.
    distance: (C,), a bias on the scores by distance in tokens.
    Tested against: the paper's equations written out, outputs and gradients.
    """

    attend = staticmethod(mixed_chunk)
    inside = OneHead(query="quad_q", key="quad_k", value="v")

    no_decay: ClassVar[tuple[str, ...]] = ("factor", "shift")

    def __init__(self, spec: GatedAttentionUnit, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec.resolve(hidden_size)
        assert self.spec.size is not None
        self.size = self.spec.size
        self.uvz = Linear(hidden_size, 2 * self.size + spec.key_dim)
        self.factor = nn.Parameter(torch.empty(4, spec.key_dim))
        self.shift = nn.Parameter(torch.zeros(4, spec.key_dim))
        self.distance = nn.Parameter(torch.empty(spec.chunk))
        self.output = Linear(self.size, hidden_size, into_residual=True)

    def fused_rows(self) -> dict[str, FusedRows]:
        """Rows of u, v and z in the fused matrix."""
        return {"uvz.weight": FusedRows((self.size, self.size, self.spec.key_dim))}

    def initialize(self, draw: Draw) -> None:
        """Initialize factors and distances from a normal distribution, shifts to zero, as in the
        paper's code.
        """
        draw.normal(self.factor)
        draw.normal(self.distance)
        nn.init.zeros_(self.shift)

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> TensorState:
        """Return an empty state of fixed size: keys and values of the last chunk, and the sum over
        earlier chunks.
        """
        spec = self.spec
        recent = torch.zeros(
            batch_size, spec.chunk, 2 * spec.key_dim + self.size, device=device, dtype=dtype
        )
        memory = torch.zeros(batch_size, spec.key_dim, self.size, device=device, dtype=dtype)
        return TensorState(recent=wide(recent), memory=wide(memory))

    def forward(
        self, hidden: Float[Tensor, "B T D"], context: Context, state: TensorState | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix each token with the earlier tokens of its document, and of the cached past if `state`
        is given.
        """
        u, v, z = silu(self.uvz(hidden)).split((self.size, self.size, self.spec.key_dim), -1)
        views = z.unsqueeze(2) * self.factor + self.shift  # (B, T, 4, S)
        rotary = self.spec.positions
        if rotary is not None:
            channels = rotary.num_channels(self.spec.key_dim)
            cos, sin = context.rotary(channels, rotary.base, rotary.scaling)
            views = apply_rotary(views, cos, sin, layout=rotary.layout)
        quad_q, quad_k, lin_q, lin_k = views.unbind(2)
        mixed, recent, memory = self.attend(
            quad_q,
            quad_k,
            lin_q,
            lin_k,
            v,
            self.distance,
            context.positions,
            None if state is None else state["recent"],
            None if state is None else state["memory"],
            documents=context.documents,
            lengths=context.lengths,
        )
        if state is not None:
            state["recent"], state["memory"] = recent, memory
        return self.output(u * mixed)
