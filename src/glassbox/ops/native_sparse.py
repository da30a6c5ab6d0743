"""Native sparse attention (NSA): compressed blocks, selected blocks and a sliding window, weighted
by gates.

Source: Yuan et al., arXiv:2502.11089, section 3. Each branch has its own keys and values.
Compression attends to one learned summary per block of `block_size` tokens, with a new block every
`stride` tokens. Selection attends to whole blocks of `selection_size` tokens: those with the
highest compression attention, summed over a group of heads, so that heads that share keys share
blocks. The window is the last `window` tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from glassbox.ops.attention import attention
from glassbox.ops.selected_blocks import Slots, chunk_elements
from glassbox.ops.softmax import softmax


@dataclass(frozen=True)
class SparseSizes:
    """l, d, l', n and w of the paper, and how many of the n blocks are the first and the latest
    ones.
    """

    block_size: int
    stride: int
    selection_size: int
    num_selected: int
    num_first: int
    num_local: int
    window: int

    def num_compressed(self, length: int) -> int:
        """Number of complete compressed blocks within a number of tokens."""
        return max(0, (length - self.block_size) // self.stride + 1)


Summary = Callable[[Float[Tensor, "l Dh"], int], Float[Tensor, " Dh"]]
"""Maps the keys or values of a block to one vector; the integer is the block's first token."""


def native_sparse_plain(
    q: Float[Tensor, "B H T Dh"],
    compression: tuple[Float[Tensor, "B K T Dh"], Float[Tensor, "B K T Dh"]],
    selection: tuple[Float[Tensor, "B K T Dh"], Float[Tensor, "B K T Dh"]],
    window: tuple[Float[Tensor, "B K T Dh"], Float[Tensor, "B K T Dh"]],
    gates: Float[Tensor, "B H T 3"],
    sizes: SparseSizes,
    summarize_keys: Summary,
    summarize_values: Summary,
) -> Float[Tensor, "B H T Dh"]:
    """One document, query by query, by the paper's equations 5 to 12.

    The pairs are keys and values; those of the compression branch are not yet summarized. A branch
    without any keys to attend to returns zeros. Ties are broken in favour of the earlier block.
    Source: arXiv:2502.11089, section 3. Tested against: plain causal attention if all blocks are
    selected or the window includes all tokens, and selections derived by hand.
    """
    result = torch.zeros_like(q)
    batch, heads, length, size = q.shape
    groups = heads // selection[0].shape[1]

    def attend(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        weights = softmax(query @ keys.t() / math.sqrt(size))
        return weights @ values, weights

    for b in range(batch):
        for group in range(heads // groups):
            own = slice(group * groups, (group + 1) * groups)
            for t in range(length):
                query = q[b, own, t]  # (G, Dh), the heads that share keys
                branches = torch.zeros(3, groups, size, dtype=q.dtype)
                starts = range(0, t + 1 - sizes.block_size + 1, sizes.stride)  # whole blocks alone
                weights = torch.zeros(groups, 0)
                if len(starts):
                    blocks = [slice(start, start + sizes.block_size) for start in starts]
                    keys, values = (x[b, group] for x in compression)
                    branches[0], weights = attend(
                        query,
                        torch.stack([summarize_keys(keys[block], block.start) for block in blocks]),
                        torch.stack(
                            [summarize_values(values[block], block.start) for block in blocks]
                        ),
                    )
                seen = [
                    place
                    for block in _select_plain(weights.sum(0).tolist(), t, sizes)
                    for place in range(
                        block * sizes.selection_size, (block + 1) * sizes.selection_size
                    )
                    if place <= t
                ]
                keys, values = (x[b, group] for x in selection)
                branches[1], _ = attend(query, keys[seen], values[seen])
                near = slice(max(0, t + 1 - sizes.window), t + 1)
                keys, values = (x[b, group] for x in window)
                branches[2], _ = attend(query, keys[near], values[near])
                result[b, own, t] = torch.einsum("cgd,gc->gd", branches, gates[b, own, t])
    return result


def _select_plain(importance: list[float], t: int, sizes: SparseSizes) -> list[int]:
    """Equations 9 to 11 for one query at token t: the indices of its blocks.

    importance: one number per compressed block, summed over the group's heads.
    """
    per_block, per_summary = (
        size // sizes.stride for size in (sizes.selection_size, sizes.block_size)
    )
    latest = t // sizes.selection_size
    scores = []
    for block in range(latest + 1):
        score = 0.0
        for m in range(per_block):
            for n in range(per_summary):  # the paper counts from 1, so its minus m is a plus here
                index = block * per_block + m - n
                if 0 <= index < len(importance):
                    score += importance[index]
        if block < sizes.num_first or block > latest - sizes.num_local:
            score = math.inf
        scores.append(score)
    order = sorted(range(latest + 1), key=lambda block: -scores[block])
    return order[: sizes.num_selected]


class _CompressedAttention(torch.autograd.Function):
    """Attention to the summaries, and the block selection from its weights; queries in chunks,
    without storing scores.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        q: Tensor,  # (B, K, G, T, Dh)
        k: Tensor,  # (B, K, C, Dh)
        v: Tensor,
        own: Tensor,  # (#B, T)
        first: Tensor,
        sizes: SparseSizes,
        steps: list[tuple[slice, int, int]],
    ) -> tuple[Tensor, Tensor]:
        out = torch.zeros_like(q)
        normaliser = q.new_zeros(q.shape[:-1], dtype=_wide(q))
        shape = (q.shape[0], q.shape[1], q.shape[3], sizes.num_selected)
        blocks = torch.full(shape, -1, device=q.device)
        for rows, summaries, num_blocks in steps:
            here = (own[:, rows], first[:, rows])
            scores = _scores(q, k, *here, sizes, rows, summaries)  # (B, K, G, t, c)
            total = scores.logsumexp(dim=-1)
            total = total.masked_fill(total.isinf(), 0.0)  # no whole block yet
            weights = scores.sub_(total.unsqueeze(-1)).exp_()
            out[:, :, :, rows] = _grouped(weights.to(q.dtype), v[:, :, :summaries].to(q.dtype))
            normaliser[:, :, :, rows] = total
            chosen = _select(weights.sum(dim=2), *here, sizes, num_blocks)
            blocks[:, :, rows, : chosen.shape[-1]] = chosen
        ctx.save_for_backward(q, k, v, own, first, normaliser, out)
        ctx.rest = (sizes, steps)  # type: ignore[attr-defined]
        ctx.mark_non_differentiable(blocks)
        return out, blocks

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor, _: Tensor):  # type: ignore[no-untyped-def]
        q, k, v, own, first, normaliser, out = ctx.saved_tensors  # type: ignore[attr-defined]
        sizes, steps = ctx.rest  # type: ignore[attr-defined]
        wide = _wide(q)
        delta = (grad.to(wide) * out).sum(-1)  # (B, K, G, T)
        grad_q = torch.zeros_like(q)
        grad_k = k.new_zeros(k.shape, dtype=wide)
        grad_v = torch.zeros_like(grad_k)
        for rows, summaries, _ in steps:
            scores = _scores(q, k, own[:, rows], first[:, rows], sizes, rows, summaries)
            weights = scores.sub_(normaliser[:, :, :, rows].unsqueeze(-1)).exp_()
            upstream = grad[:, :, :, rows]
            values = v[:, :, :summaries].to(q.dtype)
            grad_v[:, :, :summaries] += _summed(weights.to(q.dtype), upstream)
            change = _grouped(upstream, values.mT).to(wide).sub_(delta[:, :, :, rows, None])
            change = change.mul_(weights).mul_(_scale(q)).to(q.dtype)
            grad_k[:, :, :summaries] += _summed(change, q[:, :, :, rows])
            grad_q[:, :, :, rows] = _grouped(change, k[:, :, :summaries].to(q.dtype))
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), None, None, None, None


def _grouped(x: Tensor, y: Tensor) -> Tensor:
    """(B, K, G, t, i) with (B, K, i, o): the same y for a group, in one product."""
    return (x.flatten(2, 3) @ y).unflatten(2, x.shape[2:4])


def _summed(x: Tensor, y: Tensor) -> Tensor:
    """(B, K, G, t, i) with (B, K, G, t, o), summed over the group's queries."""
    return x.flatten(2, 3).mT @ y.flatten(2, 3)


def _scores(
    q: Tensor,
    k: Tensor,
    own: Tensor,
    first: Tensor,
    sizes: SparseSizes,
    rows: slice,
    summaries: int,
) -> Tensor:
    keys = k[:, :, :summaries].to(q.dtype)
    scores = _grouped(q[:, :, :, rows], keys.mT).to(_wide(q)).mul_(_scale(q))
    start = torch.arange(0, summaries * sizes.stride, sizes.stride, device=q.device)
    seen = start >= first.unsqueeze(-1)  # (#B, t, c)
    seen = seen & (start + sizes.block_size - 1 <= own.unsqueeze(-1))
    return scores.masked_fill_(~seen[:, None, None], -math.inf)


def _select(
    importance: Tensor, own: Tensor, first: Tensor, sizes: SparseSizes, num_blocks: int
) -> Tensor:
    """`_select_plain` for many queries: (B, K, t, c) to (B, K, t, n), -1 if there are no more
    blocks.
    """
    per_block, per_summary = sizes.selection_size // sizes.stride, sizes.block_size // sizes.stride
    before = per_summary - 1  # a block's first summary that reaches into it begins so much earlier
    width = before + per_block
    weights = [
        sum(m - n == offset - before for m in range(per_block) for n in range(per_summary))
        for offset in range(width)
    ]
    behind = max(0, num_blocks * per_block - importance.shape[-1])
    spread = F.pad(importance, (before, behind)).unfold(-1, width, per_block)[..., :num_blocks, :]
    score = spread @ torch.tensor(weights, dtype=spread.dtype, device=spread.device)
    number = torch.arange(num_blocks, device=score.device)
    latest, earliest = ((slot // sizes.selection_size)[:, None, :, None] for slot in (own, first))
    fixed = (number < earliest + sizes.num_first) | (number > latest - sizes.num_local)
    score = score.masked_fill(fixed, math.inf)
    score = score.masked_fill((number < earliest) | (number > latest), -math.inf)
    best, order = score.sort(dim=-1, descending=True, stable=True)
    wanted = sizes.num_selected
    return order[..., :wanted].masked_fill(best[..., :wanted] == -math.inf, -1)


def _scale(q: Tensor) -> float:
    return 1 / math.sqrt(q.shape[-1])


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def compressed_attention(
    q: Float[Tensor, "B K G T Dh"],
    k: Float[Tensor, "B K C Dh"],
    v: Float[Tensor, "B K C Dh"],
    slots: Slots,
    sizes: SparseSizes,
) -> tuple[Float[Tensor, "B K G T Dh"], Int[Tensor, "B K T n"]]:
    """Attention to the summaries of complete blocks, and the indices of the blocks selected by it.

    Summary i covers slots i * stride ... i * stride + block_size - 1. Indices are distinct, -1 if
    there are no more blocks; the selection passes no gradient. Queries are processed in chunks of
    bounded memory. First derivatives only. Tested against: `native_sparse_plain`.
    """
    dtype, length = q.dtype, q.shape[3]
    if q.device.type == "cpu":
        q = q.to(_wide(q))
    step = max(1, chunk_elements(q.device) // (q.shape[:3].numel() * max(k.shape[2], 1)))
    starts = range(0, length, step)
    latest = slots.own.amax(dim=0)
    ends = torch.stack([latest[start : start + step].max() for start in starts]).tolist()
    steps = [
        (
            slice(start, start + step),
            min(sizes.num_compressed(end + 1), k.shape[2]),
            end // sizes.selection_size + 1,
        )
        for start, end in zip(starts, ends, strict=True)
    ]
    with torch.autocast(q.device.type, enabled=False):
        out, blocks = _CompressedAttention.apply(q, k, v, slots.own, slots.first, sizes, steps)
    return out.to(dtype), blocks


def window_attention(
    q: Float[Tensor, "B H T Dh"],
    k: Float[Tensor, "B K S Dh"],
    v: Float[Tensor, "B K S Dh"],
    past: Int[Tensor, "#B T"],
    *,
    window: int,
) -> Float[Tensor, "B H T Dh"]:
    """Attention to the last `window` tokens, including the query's own; S = window - 1 + T.

    Query t is at key window - 1 + t.
    past: number of tokens of its document before each query; earlier keys are masked. Chunks of
        queries are multiplied with their own keys and the window - 1 before, so that time and
        memory grow with T window.
    Tested against: attention under a mask.
    """
    batch, length = q.shape[0], q.shape[2]
    chunk = min(length, max(32, min(window // 2, 256)))
    num_chunks = -(-length // chunk)
    extra = num_chunks * chunk - length
    span = chunk + window - 1

    def chunks(x: Tensor) -> Tensor:  # (B, K, S, Dh) -> (B * num_chunks, K, span, Dh)
        pieces = F.pad(x, (0, 0, 0, extra)).unfold(2, span, chunk)  # (B, K, num_chunks, Dh, span)
        return pieces.permute(0, 2, 1, 4, 3).flatten(0, 1)

    queries = F.pad(q, (0, 0, 0, extra)).unflatten(2, (num_chunks, chunk))
    back = torch.arange(chunk, device=q.device)[:, None] + window - 1
    back = back - torch.arange(span, device=q.device)  # how far each key stands behind each query
    most = F.pad(past, (0, extra)).clamp(max=window - 1).unflatten(1, (num_chunks, chunk, 1))
    seen = (back >= 0) & (back <= most)  # (#B, num_chunks, chunk, span)
    seen = seen.expand(batch, -1, -1, -1).flatten(0, 1).unsqueeze(1)
    out = attention(queries.transpose(1, 2).flatten(0, 1), chunks(k), chunks(v), seen)
    return out.unflatten(0, (batch, num_chunks)).transpose(1, 2).flatten(2, 3)[:, :, :length]
