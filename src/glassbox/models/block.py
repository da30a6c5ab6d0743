"""A block, and the table that maps specs to modules: a new variant is a spec and a row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from glassbox.core.config import Spec
from glassbox.layers.attention import GroupedQuery, GroupedQueryAttention
from glassbox.layers.block_mixture import BlockMixture, BlockMixtureAttention
from glassbox.layers.context import Context
from glassbox.layers.delta_net import DeltaNet, DeltaNetLayer, GatedDelta
from glassbox.layers.experts import MixtureOfExperts, MixtureOfExpertsLayer
from glassbox.layers.feedforward import (
    ClampedSwiGlu,
    ClampedSwiGluLayer,
    GeGlu,
    GeGluLayer,
    Gelu,
    GeluLayer,
    Relu2,
    Relu2Layer,
    SwiGlu,
    SwiGluLayer,
)
from glassbox.layers.gated_attention_unit import GatedAttentionUnit, GatedAttentionUnitLayer
from glassbox.layers.latent import Latent, LatentAttention
from glassbox.layers.lightning import Lightning, LightningAttention
from glassbox.layers.mamba import Mamba, MambaLayer
from glassbox.layers.mamba2 import Mamba2, Mamba2Layer
from glassbox.layers.native_sparse import NativeSparse, NativeSparseAttention
from glassbox.layers.norms import LayerNorm, LayerNormLayer, RmsNorm, RmsNormLayer
from glassbox.layers.paged_state import PagedState
from glassbox.layers.retention import Retention, RetentionLayer
from glassbox.layers.rwkv import RwkvChannel, RwkvChannelLayer, RwkvTime, RwkvTimeLayer
from glassbox.layers.rwkv7 import (
    Rwkv7Channel,
    Rwkv7ChannelLayer,
    Rwkv7Time,
    Rwkv7TimeLayer,
)
from glassbox.layers.state import RowState, State
from glassbox.models.config import BlockSpec
from glassbox.ops.chunks import wide

MODULES: dict[type[Spec], Callable[[Any, int], nn.Module]] = {
    GroupedQuery: GroupedQueryAttention,
    Latent: LatentAttention,
    NativeSparse: NativeSparseAttention,
    BlockMixture: BlockMixtureAttention,
    GatedAttentionUnit: GatedAttentionUnitLayer,
    Lightning: LightningAttention,
    Retention: RetentionLayer,
    DeltaNet: DeltaNetLayer,
    GatedDelta: DeltaNetLayer,
    Mamba: MambaLayer,
    Mamba2: Mamba2Layer,
    RwkvTime: RwkvTimeLayer,
    Rwkv7Time: Rwkv7TimeLayer,
    Gelu: GeluLayer,
    SwiGlu: SwiGluLayer,
    GeGlu: GeGluLayer,
    ClampedSwiGlu: ClampedSwiGluLayer,
    Relu2: Relu2Layer,
    MixtureOfExperts: MixtureOfExpertsLayer,
    RwkvChannel: RwkvChannelLayer,
    Rwkv7Channel: Rwkv7ChannelLayer,
    RmsNorm: RmsNormLayer,
    LayerNorm: LayerNormLayer,
}


def build(spec: Spec, hidden_size: int) -> nn.Module:
    """The module of a spec."""
    return MODULES[type(spec)](spec, hidden_size)


@dataclass
class BlockState(RowState):
    """What one block keeps of the tokens so far; only a feed-forward that shifts tokens has a part."""

    kept = ("mixer", "ffn")

    mixer: State
    ffn: State | None = None

    @property
    def cache_bytes(self) -> int:
        """Memory held."""
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
            return build(spec.norm, hidden_size) if wanted else None

        self.mixer_norm = norm(before)
        self.mixer = build(spec.mixer, hidden_size)
        self.mixer_out_norm = norm(after)
        self.ffn_norm = norm(before and has_ffn and not spec.shared_norm)
        self.ffn = None if spec.ffn is None else build(spec.ffn, hidden_size)
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
        middle = self._skip(hidden, normed) + self._branch(mixed, self.mixer_out_norm)
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

    def _skip(self, hidden: Tensor, normed: Tensor) -> Tensor:
        """What a branch is added to."""
        return self.skip_scale * normed if self.residual == "normed" else hidden

    def _narrow(self, hidden: Tensor) -> Tensor:
        """What a branch reads: the stream, in the dtype of the weights where it is kept wider."""
        return hidden.to(next(self.parameters()).dtype) if self.float32_residual else hidden

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
