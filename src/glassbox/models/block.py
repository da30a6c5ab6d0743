"""A block: a mixer and a feed-forward on the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glassbox.layers.context import Context
from glassbox.layers.paged_state import PagedState
from glassbox.layers.state import RowState, State
from glassbox.models.config import BlockSpec
from glassbox.ops.chunks import wide


@dataclass
class BlockState(RowState):
    """What one block keeps of the tokens so far; only a feed-forward that shifts tokens has a part."""

    kept = ("mixer", "ffn")

    mixer: State
    ffn: State | None = None

    @property
    def cache_bytes(self) -> int:
        """Memory used, in bytes."""
        return self.mixer.cache_bytes + (0 if self.ffn is None else self.ffn.cache_bytes)


class Block(nn.Module):
    """A mixer and a feed-forward on the residual stream, in the layout that `BlockSpec` names.

    Source: pre Radford et al. 2019, section 2.3; post (norm of the branch's output, not of the sum)
    OLMo 2, arXiv:2501.00656; sandwich Gemma 2, arXiv:2408.00118; parallel GPT-J and GPT-NeoX,
    arXiv:2204.06745; normed MiniMax-01, arXiv:2501.08313, after DeepNorm, arXiv:2203.00555.
    Tested against: transformers, by the families that use each.
    """

    def __init__(self, spec: BlockSpec, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.residual = spec.residual
        self.scale = spec.residual_scale
        self.skip_scale = spec.skip_scale
        self.dropout = dropout
        self.float32_residual = spec.float32_residual
        before, after = spec.residual != "post", spec.residual in ("post", "sandwich")
        has_ffn = spec.ffn is not None

        def norm(wanted: bool) -> nn.Module | None:
            return spec.norm.build(hidden_size) if wanted else None

        self.mixer_norm = norm(before)
        self.mixer: nn.Module = spec.mixer.build(hidden_size)
        self.mixer_out_norm = norm(after)
        self.ffn_norm = norm(before and has_ffn and not spec.shared_norm)
        self.ffn: nn.Module | None = None if spec.ffn is None else spec.ffn.build(hidden_size)
        self.ffn_out_norm = norm(after and has_ffn)

    def forward(
        self, hidden: Float[Tensor, "B T D"], context: Context, state: BlockState | None = None
    ) -> Float[Tensor, "B T D"]:
        """Both branches, each added to the residual stream."""
        if self.float32_residual:
            hidden = wide(hidden)
        normed = self._narrow(hidden)
        if self.mixer_norm is not None:
            normed = self.mixer_norm(normed)
        mixed = self.mixer(normed, context, None if state is None else state.mixer)
        middle = self.middle(hidden, normed, mixed)
        if self.ffn is None:
            return middle
        source = self._narrow(hidden if self.residual == "parallel" else middle)
        if self.ffn_norm is not None:
            normed = self.ffn_norm(source)
        elif self.residual == "post":
            normed = source  # where a parallel block shares its norm, `normed` is the mixer's
        if state is not None and state.ffn is not None:
            changed = self.ffn(normed, context, state.ffn)
        else:
            changed = self.ffn(normed, context)
        return self._skip(middle, normed) + self._branch(changed, self.ffn_out_norm)

    def middle(
        self,
        hidden: Float[Tensor, "B T D"],
        normed: Float[Tensor, "B T D"],
        mixed: Float[Tensor, "B T D"],
    ) -> Float[Tensor, "B T D"]:
        """The residual stream between the branches: the mixer's output added."""
        return self._skip(hidden, normed) + self._branch(mixed, self.mixer_out_norm)

    def _skip(self, hidden: Tensor, normed: Tensor) -> Tensor:
        """What a branch is added to."""
        return self.skip_scale * normed if self.residual == "normed" else hidden

    def _narrow(self, hidden: Tensor) -> Tensor:
        """What a branch reads: the stream, in the dtype of the matrices where it is kept wider.

        Of mixed weights those are the narrowest: see `layers.wide_weights`.
        """
        if not self.float32_residual:
            return hidden
        return hidden.to(min((p.dtype for p in self.parameters()), key=lambda d: d.itemsize))

    def _branch(self, branch: Tensor, norm: nn.Module | None) -> Tensor:
        if norm is not None:
            branch = norm(branch)
        if self.scale != 1.0:
            branch = branch * self.scale
        if self.dropout and self.training:
            branch = F.dropout(branch, self.dropout)
        return branch

    def init_paged(
        self,
        num_blocks: int,
        block_size: int,
        context_length: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> PagedState | None:
        """An empty pool of blocks for this block's mixer; None where it keeps its state by the row."""
        mixer: Any = self.mixer
        if not hasattr(mixer, "init_paged"):
            return None
        pool: PagedState | None = mixer.init_paged(
            num_blocks, block_size, context_length, device=device, dtype=dtype
        )
        return pool

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> BlockState:
        """An empty state of this block's mixer, and of its feed-forward where that keeps one."""
        mixer: Any = self.mixer
        ffn: Any = self.ffn
        size = (batch_size, max_length)
        return BlockState(
            mixer.init_state(*size, device=device, dtype=dtype),
            ffn.init_state(*size, device=device, dtype=dtype)
            if hasattr(ffn, "init_state")
            else None,
        )
