"""Softmax attention in which every query attends to a few selected blocks of keys.

Shared by native sparse attention and mixture of block attention, which differ in how blocks are
selected. Keys are in numbered slots, and block j is the slots j * size ... (j + 1) * size - 1. A
query has the first slot of its document and its own slot, and attends to no key outside of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from glassbox.ops.softmax import softmax

CPU_ELEMENTS, GPU_ELEMENTS = 1 << 20, 1 << 25
"""Scores that exist at a time: what a CPU's cache holds, and what keeps a GPU busy."""
MOST_ROWS = 256
"""Queries multiplied with one block in one product; more would only enlarge the padding of the last
product.
"""
FEW_ROWS = 8
"""Up to this number of rows, as in decoding, the blocks are copied together, which takes fewer
calls.
"""


@dataclass(frozen=True)
class Slots:
    """The slots of queries among the keys.

    own: (#B, T), each query's slot. first: (#B, T), the first slot of its document, the start of a
        block.
    size: number of slots.
    """

    own: Int[Tensor, "#B T"]
    first: Int[Tensor, "#B T"]
    size: int


def document_slots(positions: Int[Tensor, "B T"], block_size: int) -> Slots:
    """Slots in which every document begins at the start of a block, so that no block contains two
    documents.

    positions: counted from each packed document's start. The gap after a document stays empty.

    >>> document_slots(torch.tensor([[0, 1, 2, 0, 1]]), 4).own
    tensor([[0, 1, 2, 4, 5]])
    """
    gaps = torch.zeros_like(positions)
    gaps[:, 1:] = torch.where(positions[:, 1:] == 0, -(positions[:, :-1] + 1) % block_size, 0)
    order = torch.arange(positions.shape[1], device=positions.device)
    own = order + gaps.cumsum(dim=1)
    return Slots(own, own - positions, padded_length(int(own.max()) + 1, block_size))


def padded_length(length: int, block_size: int) -> int:
    """The next multiple of block_size."""
    return -(-length // block_size) * block_size


def selected_attention_plain(
    q: Float[Tensor, "B K R W Dh"],
    k: Float[Tensor, "B K S Dh"],
    v: Float[Tensor, "B K S Dh"],
    blocks: Int[Tensor, "B K R n"],
    first: Int[Tensor, "#B R"],
    last: Int[Tensor, "#B R"],
    *,
    block_size: int,
    scale: float | None = None,
) -> Float[Tensor, "B K R W Dh"]:
    """softmax(scale * q K^T) V with K, V the keys in slots first ... last of each row's blocks.

    A row is W queries that share their blocks (distinct indices; -1 for none); `first` is the first
    slot of a block. A row without any key returns zeros. `scale` is 1/sqrt(Dh) by default. Tested
    against: attention under the same mask.
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    batch, heads, rows = q.shape[:3]
    first, last = first.expand(batch, rows), last.expand(batch, rows)
    result = torch.zeros_like(q)
    for b in range(batch):
        for h in range(heads):
            for r in range(rows):
                seen = [
                    slot
                    for block in blocks[b, h, r].tolist()
                    for slot in range(block * block_size, (block + 1) * block_size)
                    if block >= 0 and first[b, r] <= slot <= last[b, r]
                ]
                if seen:
                    weights = softmax(scale * (q[b, h, r] @ k[b, h, seen].t()))  # (W, seen)
                    result[b, h, r] = weights @ v[b, h, seen]
    return result


@dataclass(frozen=True)
class _Plan:
    """The queries of each block, in pieces with equal numbers of rows, the last one of a block
    padded.

    block: (M,), among all B * K * S / size blocks. row: (M, P), among all B * K * R rows. pair: (M,
        P), which of the row's choices it is. reach: (M, P), the last key of the block that the row
        may attend to, counted from the block's first; -1 for padding.
    """

    block: Tensor
    row: Tensor
    pair: Tensor
    reach: Tensor


def _plan(blocks: Tensor, first: Tensor, last: Tensor, num_blocks: int, size: int) -> _Plan:
    batch, heads, rows, chosen = blocks.shape
    device = blocks.device
    visible = (blocks >= 0) & (blocks * size <= last[:, None, :, None])
    visible &= (blocks + 1) * size > first[:, None, :, None]
    total = batch * heads * num_blocks
    offset = torch.arange(0, total, num_blocks, device=device).view(batch, heads, 1, 1)
    block = torch.where(visible, blocks + offset, total).flatten()
    order = block.argsort(stable=True)
    counts = block.bincount(minlength=total + 1)[:total]
    num_pairs = max(int(counts.sum()), 1)
    used = max(int((counts > 0).sum()), 1)
    piece = min(MOST_ROWS, 1 << (num_pairs // used - 1).bit_length())
    pieces = (counts + piece - 1) // piece
    of = torch.arange(total, device=device).repeat_interleave(pieces)  # (M,)
    within = torch.arange(len(of), device=device) - (pieces.cumsum(0) - pieces)[of]
    ends = counts.cumsum(0)
    begin = (ends - counts)[of] + within * piece
    place = begin[:, None] + torch.arange(piece, device=device)  # (M, P)
    real = place < ends[of][:, None]
    pair = order[torch.where(real, place, begin[:, None])]
    row = pair // chosen
    ends_at = last[:, None].expand(batch, heads, rows).flatten()
    reach = ends_at[row] - (of % num_blocks * size)[:, None]
    return _Plan(of, row, pair, reach.where(real, -1))


class _SelectedAttention(torch.autograd.Function):
    """Block by block: all queries that selected a block are multiplied with it in one product.

    The forward pass computes each query's normalizer first and mixes values second; the backward
    pass recomputes the weights. Neither stores scores.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        q: Tensor,  # (N, W, Dh), N = B * K * R
        k: Tensor,  # (U, size, Dh), U = B * K * S / size
        v: Tensor,
        chosen: int,
        scale: float,
        plan: _Plan,
    ) -> Tensor:
        wide = _wide(q)
        width = q.shape[1]
        steps = _steps(plan, q, k)
        scores: Tensor | None = None
        by_pair = q.new_full((len(q) * chosen, width), -math.inf, dtype=wide)
        for step in steps:
            scores = _scores(q, k, plan, step, scale)
            real = plan.reach[step] >= 0
            by_pair[plan.pair[step][real]] = scores.logsumexp(dim=-1)[real]
        normaliser = by_pair.view(len(q), chosen, width).logsumexp(dim=1)  # (N, W)
        normaliser = normaliser.masked_fill(normaliser.isinf(), 0.0)  # rows that see no key
        out = q.new_zeros(q.shape, dtype=wide)
        for step in steps:
            if len(steps) > 1 or scores is None:
                scores = _scores(q, k, plan, step, scale)
            row = plan.row[step]
            weights = (scores - normaliser[row].unsqueeze(-1)).exp_()  # (m, P, W, size)
            mixed = weights.flatten(1, 2).to(q.dtype) @ v[plan.block[step]].to(q.dtype)
            out.index_add_(0, row.flatten(), mixed.view(-1, *q.shape[1:]).to(wide))
        ctx.save_for_backward(q, k, v, normaliser, out)
        ctx.rest = (scale, plan)  # type: ignore[attr-defined]
        return out.to(q.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor):  # type: ignore[no-untyped-def]
        q, k, v, normaliser, out = ctx.saved_tensors  # type: ignore[attr-defined]
        scale, plan = ctx.rest  # type: ignore[attr-defined]
        wide = out.dtype
        delta = (grad.to(wide) * out).sum(-1)  # (N, W)
        grad_q = torch.zeros_like(out)
        grad_k = k.new_zeros(k.shape, dtype=wide)
        grad_v = torch.zeros_like(grad_k)
        for step in _steps(plan, q, k):
            row, block = plan.row[step], plan.block[step]
            scores = _scores(q, k, plan, step, scale)
            shape = scores.shape
            weights = scores.sub_(normaliser[row].unsqueeze(-1)).exp_().flatten(1, 2)
            upstream = grad[row].flatten(1, 2)  # (m, P * W, Dh)
            grad_v.index_add_(0, block, (weights.mT.to(q.dtype) @ upstream).to(wide))
            change = (
                (upstream @ v[block].to(q.dtype).mT)
                .to(wide)
                .sub_(delta[row].view(*shape[:1], -1, 1))
            )
            change = change.mul_(weights).mul_(scale).to(q.dtype)  # d loss / d (q k)
            grad_k.index_add_(0, block, (change.mT @ q[row].flatten(1, 2)).to(wide))
            by_row = (change @ k[block].to(q.dtype)).view(-1, *q.shape[1:]).to(wide)
            grad_q.index_add_(0, row.flatten(), by_row)
        grads = (grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype))
        return (*grads, None, None, None)


def _scores(q: Tensor, k: Tensor, plan: _Plan, step: slice, scale: float) -> Tensor:
    """(m, P, W, size), -inf where a query may not attend."""
    row = plan.row[step]
    products = q[row].flatten(1, 2) @ k[plan.block[step]].to(q.dtype).mT  # (m, P * W, size)
    scores = products.view(*row.shape, -1, k.shape[1]).to(_wide(q)).mul_(scale)
    hidden = torch.arange(k.shape[1], device=q.device) > plan.reach[step].unsqueeze(-1)
    return scores.masked_fill_(hidden.unsqueeze(2), -math.inf)


def _steps(plan: _Plan, q: Tensor, k: Tensor) -> list[slice]:
    piece = plan.row.shape[1]
    elements = piece * q.shape[1] * max(k.shape[1], k.shape[2]) + k.shape[1] * k.shape[2]
    step = max(1, chunk_elements(q.device) // elements)
    return [slice(start, start + step) for start in range(0, len(plan.block), step)]


def chunk_elements(device: torch.device) -> int:
    """The number of scores computed at a time."""
    return CPU_ELEMENTS if device.type == "cpu" else GPU_ELEMENTS


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def selected_attention(
    q: Float[Tensor, "B K R W Dh"],
    k: Float[Tensor, "B K S Dh"],
    v: Float[Tensor, "B K S Dh"],
    blocks: Int[Tensor, "B K R n"],
    first: Int[Tensor, "#B R"],
    last: Int[Tensor, "#B R"],
    *,
    block_size: int,
    scale: float | None = None,
) -> Float[Tensor, "B K R W Dh"]:
    """`selected_attention_plain` with one product for each block and all queries that selected it.

    Work and memory grow with B K R W n block_size and B K S, not with R S. S is a multiple of
    block_size. First derivatives only. Tested against: `selected_attention_plain`.
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    batch, _, rows = q.shape[:3]
    num_blocks = k.shape[2] // block_size
    assert k.shape[2] == num_blocks * block_size, (k.shape, block_size)
    dtype = q.dtype
    if q.device.type == "cpu":  # half precision is slow there
        q = q.to(_wide(q))
    first, last = first.expand(batch, rows), last.expand(batch, rows)
    if rows <= FEW_ROWS:
        return _of_few_rows(q, k, v, blocks, first, last, block_size, scale).to(dtype)
    plan = _plan(blocks, first, last, num_blocks, block_size)
    with torch.autocast(q.device.type, enabled=False):
        out: Tensor = _SelectedAttention.apply(
            q.flatten(0, 2),
            k.reshape(-1, block_size, k.shape[-1]),
            v.reshape(-1, block_size, v.shape[-1]),
            blocks.shape[-1],
            scale,
            plan,
        )
    return out.view(q.shape).to(dtype)


def _of_few_rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: Tensor,
    first: Tensor,
    last: Tensor,
    block_size: int,
    scale: float,
) -> Tensor:
    batch, heads = k.shape[:2]
    num_blocks = k.shape[2] // block_size
    offset = torch.arange(0, batch * heads * num_blocks, num_blocks, device=q.device)
    place = (blocks.clamp(min=0) + offset.view(batch, heads, 1, 1)).flatten()

    def together(x: Tensor) -> Tensor:  # (B, K, R, n * size, Dh)
        found = x.reshape(-1, block_size, x.shape[-1]).index_select(0, place)
        return found.view(*blocks.shape[:3], -1, x.shape[-1]).to(q.dtype)

    slot = (blocks * block_size).unsqueeze(-1) + torch.arange(block_size, device=q.device)
    slot = slot.flatten(-2)  # negative where there is no block
    seen = (slot >= first[:, None, :, None]) & (slot <= last[:, None, :, None])
    with torch.autocast(q.device.type, enabled=False):
        scores = (q @ together(k).mT).to(_wide(q)) * scale  # (B, K, R, W, n * size)
        weights = softmax(scores.masked_fill(~seen.unsqueeze(3), -math.inf))
        return weights.to(q.dtype) @ together(v)
