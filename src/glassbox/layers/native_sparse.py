"""Native sparse attention (NSA): compressed blocks, selected blocks and a sliding window.

Source: Yuan et al., arXiv:2502.11089, section 3.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from glassbox.layers.context import Context
from glassbox.layers.grouped_heads import (
    GroupedHeads,
    into_slots,
    rotate,
    slots_in_cache,
    slots_in_row,
)
from glassbox.layers.initialization import Draw
from glassbox.layers.key_value_state import KeyValueState
from glassbox.layers.linear import Linear
from glassbox.layers.parameter_roles import FusedRows
from glassbox.layers.state import RowState, TensorState
from glassbox.ops.activations import gelu
from glassbox.ops.native_sparse import SparseSizes, compressed_attention, window_attention
from glassbox.ops.selected_blocks import padded_length, selected_attention


class NativeSparse(GroupedHeads):
    """Native sparse attention: three attention branches, each with its own keys and values,
    weighted by a gate per head and token.

    The paper's symbols: block_size l, stride d, selection_size l', num_selected n, window w. Its
    model has l = 32, d = 16, l' = 64, n = 16 (including 1 first and 2 local blocks), w = 512.
    """

    kind: Literal["native_sparse"] = "native_sparse"
    block_size: int = Field(32, gt=0, description="tokens per compressed block")
    stride: int = Field(16, gt=0, description="tokens between the starts of compressed blocks")
    selection_size: int = Field(64, gt=0, description="tokens per selected block")
    num_selected: int = Field(
        16, gt=0, description="blocks selected per query, including the fixed ones"
    )
    num_first: int = Field(1, ge=0, description="blocks at the start that are always chosen")
    num_local: int = Field(
        2, gt=0, description="latest blocks, the query's own and those before it"
    )
    window: int = Field(512, gt=0, description="latest tokens, the query's own among them")
    summary: Literal["mlp", "linear"] = Field(
        "mlp", description="how a block is compressed to one vector"
    )
    summary_size: int | None = Field(
        None, gt=0, description="middle of the mlp; 2 * head_dim unless given"
    )

    @model_validator(mode="after")
    def _blocks_fit(self) -> NativeSparse:
        for name, size in (
            ("block_size", self.block_size),
            ("selection_size", self.selection_size),
        ):
            if size % self.stride:
                raise ValueError(f"{name} = {size} is no multiple of stride = {self.stride}")
        if self.block_size > self.selection_size:
            raise ValueError(
                f"block_size = {self.block_size} is more than selection_size = "
                f"{self.selection_size}; a summary must fit into a block"
            )
        if self.num_first + self.num_local > self.num_selected:
            raise ValueError(
                f"num_selected = {self.num_selected} is less than num_first + num_local = "
                f"{self.num_first + self.num_local}, which are always chosen"
            )
        if self.summary == "linear" and self.summary_size is not None:
            raise ValueError(
                f"summary_size = {self.summary_size} needs summary = mlp, not 'linear'"
            )
        return self

    def resolve(self, hidden_size: int) -> NativeSparse:
        """Return the spec with all defaults filled in."""
        spec = super().resolve(hidden_size)
        assert spec.head_dim is not None
        if spec.summary == "linear":
            return spec
        return spec.model_copy(update={"summary_size": spec.summary_size or 2 * spec.head_dim})

    @property
    def sizes(self) -> SparseSizes:
        """The block sizes in the form that the operations take."""
        names = SparseSizes.__dataclass_fields__
        return SparseSizes(**{name: getattr(self, name) for name in names})

    def build(self, hidden_size: int) -> NativeSparseAttention:
        """Return the module; its weights are not yet initialized."""
        return NativeSparseAttention(self, hidden_size)


class BlockSummary(nn.Module):
    """Compresses the vectors of a block, with positional vectors added, into one vector (the
    paper's phi).
    """

    no_decay: ClassVar[tuple[str, ...]] = ("position",)

    def __init__(self, block_size: int, head_dim: int, middle: int | None) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.empty(block_size, head_dim))
        width = block_size * head_dim
        self.up = None if middle is None else Linear(width, middle, bias=True)
        self.down = Linear(width if middle is None else middle, head_dim, bias=True)

    def forward(self, blocks: Float[Tensor, "*shape l Dh"]) -> Float[Tensor, "*shape Dh"]:
        """Add the positional vectors, concatenate, and project (through a GELU layer for the mlp)."""
        flat = (blocks + self.position).flatten(-2)
        return self.down(flat if self.up is None else gelu(self.up(flat)))

    def initialize(self, draw: Draw) -> None:
        """Initialize the positional vectors from a normal distribution."""
        draw.normal(self.position)


class NativeSparseState(RowState):
    """The cache of the three branches: keys and values of selection, block summaries, and two short
    tails.

    selected: keys and values of every token.
    summaries: of every complete block, and a spare slot for values to be discarded.
    tails: the latest keys and values of the window branch (window - 1), and those of the
        compression branch that later tokens' blocks still need (block_size - 1).
    """

    kept = ("selected", "summaries", "tails")

    def __init__(self, selected: KeyValueState, summaries: TensorState, tails: TensorState) -> None:
        self.selected = selected
        self.summaries = summaries
        self.tails = tails

    def with_tail(
        self, name: str, new: Float[Tensor, "B K T Dh"], lengths: Int[Tensor, " B"]
    ) -> Float[Tensor, "B K S Dh"]:
        """Append this call's vectors to the tail; the tail advances to the last token of each row
        before its padding.
        """
        tail = self.tails[name]
        both = torch.cat((tail.to(new.dtype), new), dim=2)
        kept = torch.arange(tail.shape[2], device=new.device) + lengths[:, None]
        index = kept[:, None, :, None].expand_as(tail)
        self.tails[name] = both.gather(2, index)
        return both


class NativeSparseAttention(nn.Module):
    """The module of `NativeSparse`; one fused matrix computes the query and the keys and values of
    all branches.

    Its rows are q (H Dh), then keys and values of compression, selection and window (K Dh each).
    All branches share the query. A block is summarized from unrotated keys, and its key is then
    rotated by the position of the block's first token; the paper does not specify this.
    Tested against: `native_sparse_plain`, outputs and gradients.
    """

    def __init__(self, spec: NativeSparse, hidden_size: int) -> None:
        super().__init__()
        self.spec = spec.resolve(hidden_size)
        self.sizes = spec.sizes
        self.num_heads = spec.num_heads
        self.num_kv_heads = spec.kv_heads
        self.head_dim = spec.resolved_head_dim(hidden_size)
        query_size = self.num_heads * self.head_dim
        key_size = self.num_kv_heads * self.head_dim
        self.qkv = Linear(hidden_size, query_size + 6 * key_size)
        self.gate = Linear(hidden_size, 3 * self.num_heads, bias=True)
        middle = self.spec.summary_size
        self.key_summary = BlockSummary(spec.block_size, self.head_dim, middle)
        self.value_summary = BlockSummary(spec.block_size, self.head_dim, middle)
        self.output = Linear(query_size, hidden_size, into_residual=True)

    def fused_rows(self) -> dict[str, FusedRows]:
        """Rows of q, and of keys and values of the three branches, in the fused matrix."""
        keys = self.num_kv_heads * self.head_dim
        return {"qkv.weight": FusedRows((self.num_heads * self.head_dim, *[keys] * 6))}

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> NativeSparseState:
        """Return an empty state for `batch_size` rows of up to `max_length` tokens, in whole
        blocks.
        """
        length = padded_length(max_length, self.spec.selection_size)
        heads, size = self.num_kv_heads, self.head_dim

        def pair(name: str, slots: int) -> dict[str, Tensor]:
            shape = (batch_size, heads, slots, size)
            return {
                f"{name}_{kind}": torch.zeros(shape, device=device, dtype=dtype)
                for kind in ("keys", "values")
            }

        return NativeSparseState(
            KeyValueState(batch_size, heads, length, size, device=device, dtype=dtype),
            TensorState(**pair("block", self.sizes.num_compressed(length) + 1)),
            TensorState(
                **pair("window", self.spec.window - 1),
                **pair("compression", self.spec.block_size - 1),
            ),
        )

    def forward(
        self,
        hidden: Float[Tensor, "B T D"],
        context: Context,
        state: NativeSparseState | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Attend from each token to compressed blocks, selected blocks and the sliding window."""
        batch, length, _ = hidden.shape
        heads, groups, size = self.num_kv_heads, self.num_heads // self.num_kv_heads, self.head_dim
        projected = self.qkv(hidden).view(batch, length, -1, size)
        q, *branches = projected.split((self.num_heads, *[heads] * 6), dim=2)
        q = rotate(q, self.spec.positions, size, context)
        for rotated in (2, 4):  # the keys of selection and of the window
            branches[rotated] = rotate(branches[rotated], self.spec.positions, size, context)
        q = q.transpose(1, 2)  # (B, H, T, Dh)
        raw_k, raw_v, k, v, near_k, near_v = (x.transpose(1, 2) for x in branches)  # (B, K, T, Dh)

        window, selection = self.spec.window, self.spec.selection_size
        if state is None:
            slots = slots_in_row(length, context, selection)
            k, v, raw_k, raw_v = (into_slots(x, slots, context) for x in (k, v, raw_k, raw_v))
            block_k, block_v = self._summaries(raw_k, raw_v, context, slots.own)
            near_k, near_v = (nn.functional.pad(x, (0, 0, window - 1, 0)) for x in (near_k, near_v))
        else:
            lengths = self._lengths(hidden, context)
            slots = slots_in_cache(context, selection)
            state.selected.update(k, v, context)
            k, v = state.selected.keys, state.selected.values
            block_k, block_v = self._new_summaries(raw_k, raw_v, lengths, context, state)
            near_k = state.with_tail("window_keys", near_k, lengths)
            near_v = state.with_tail("window_values", near_v, lengths)

        grouped = q.unflatten(1, (heads, groups))
        coarse, blocks = compressed_attention(grouped, block_k, block_v, slots, self.sizes)
        fine = selected_attention(
            grouped.transpose(2, 3), k, v, blocks, slots.first, slots.own, block_size=selection
        )
        near = window_attention(q, near_k, near_v, slots.own - slots.first, window=window)
        mixed = torch.stack(
            (coarse.flatten(1, 2), fine.transpose(2, 3).flatten(1, 2), near), dim=-1
        )
        gates = self.gate(hidden).sigmoid().view(batch, length, self.num_heads, 1, 3)
        mixed = (mixed.transpose(1, 2) * gates).sum(-1)  # (B, T, H, Dh)
        return self.output(mixed.flatten(2))

    def _summaries(
        self, raw_k: Tensor, raw_v: Tensor, context: Context, slots: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Summaries of all blocks of all slots; those that include a gap or a document boundary are
        never attended to.
        """
        size, stride = self.spec.block_size, self.spec.stride
        keys, values = (x.unfold(2, size, stride).mT for x in (raw_k, raw_v))  # (B, K, C, l, Dh)
        starts = torch.arange(keys.shape[2], device=raw_k.device) * stride
        if context.documents is None:
            positions = starts.unsqueeze(0)
        else:
            by_slot = slots.new_zeros(slots.shape[0], raw_k.shape[2])
            by_slot.scatter_(1, slots, context.positions.expand_as(slots))
            positions = by_slot[:, starts]
        return self._rotated(self.key_summary(keys), positions), self.value_summary(values)

    def _new_summaries(
        self,
        raw_k: Tensor,
        raw_v: Tensor,
        lengths: Tensor,
        context: Context,
        state: NativeSparseState,
    ) -> tuple[Tensor, Tensor]:
        """Summarize the blocks that this call's tokens complete; return all summaries so far."""
        size, stride = self.spec.block_size, self.spec.stride
        batch, heads, length, _ = raw_k.shape
        start = context.positions[:, :1].expand(batch, 1)
        number = (start - size + stride).clamp(min=0) // stride  # the first that ends here or later
        number = number + torch.arange(-(-length // stride), device=raw_k.device)  # (B, M)
        whole = number * stride + size <= start + lengths[:, None]
        place = (number * stride - start + size - 1).unsqueeze(-1)
        place = place + torch.arange(size, device=raw_k.device)  # (B, M, l), behind the tail
        found = []
        for name, raw in (("compression_keys", raw_k), ("compression_values", raw_v)):
            both = state.with_tail(name, raw, lengths)
            index = place.clamp(max=both.shape[2] - 1).flatten(1)[:, None, :, None]
            gathered = both.gather(2, index.expand(batch, heads, -1, both.shape[3]))
            found.append(gathered.unflatten(2, place.shape[1:]))
        keys = self._rotated(self.key_summary(found[0]), number * stride)
        values = self.value_summary(found[1])
        for name, new in (("block_keys", keys), ("block_values", values)):
            kept = state.summaries[name]
            slot = number.where(whole, kept.shape[2] - 1)[:, None, :, None].expand_as(new)
            kept.scatter_(2, slot, new.to(kept.dtype))
        return state.summaries["block_keys"][:, :, :-1], state.summaries["block_values"][:, :, :-1]

    def _rotated(self, keys: Tensor, positions: Tensor) -> Tensor:
        there = Context(positions=positions)
        turned = rotate(keys.transpose(1, 2), self.spec.positions, self.head_dim, there)
        return turned.transpose(1, 2)

    def _lengths(self, hidden: Tensor, context: Context) -> Tensor:
        if context.lengths is not None:
            return context.lengths
        return torch.full((hidden.shape[0],), hidden.shape[1], device=hidden.device)
