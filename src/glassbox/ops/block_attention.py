"""Attention in blocks of queries, with options that torch's kernel lacks: soft caps, sinks, slopes.

Only one block of scores exists at a time in either pass: the forward pass saves one number per
query, the logarithm of the softmax denominator, and the backward pass recomputes the scores.
Source: Rabe and Staats, arXiv:2112.05682; the derivative: Dao et al., arXiv:2205.14135, section
3.1.

Derivation: docs/theory/attention.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from glassbox.ops.activations import soft_cap

QueryKeyPositions = tuple[Int[Tensor, "#B T"], Int[Tensor, "#B S"]]
"""Positions of the queries and of the keys."""


@dataclass(frozen=True)
class QueryBlock:
    """Queries rows[0] to rows[1], and the keys cols[0] to cols[1] that they may attend to.

    place: the key at the position of the first query, with the last query at the last key.
    """

    rows: tuple[int, int]
    cols: tuple[int, int]
    place: int


def query_blocks(
    length: int, keys: int, size: int, *, in_order: bool, window: int | None = None
) -> Iterator[QueryBlock]:
    """Divide queries into blocks of `size`, each with only the keys that it needs.

    in_order: query i is at the position of key i + S - T and attends to no later key; required for
        a `window`.

    >>> [block.cols for block in query_blocks(6, 6, 2, in_order=True, window=2)]
    [(0, 2), (1, 4), (3, 6)]
    """
    assert in_order or window is None
    offset = keys - length
    for start in range(0, length, size):
        end = min(start + size, length)
        first = 0 if window is None else max(0, start + offset - window + 1)
        yield QueryBlock(
            (start, end), (first, end + offset) if in_order else (0, keys), start + offset
        )


def band(
    length: int, keys: int, window: int | None = None, *, device: torch.device | None = None
) -> Bool[Tensor, "T S"]:
    """Causal sliding-window mask for the last `length` of `keys` positions: each attends to itself
    and the `window` - 1 before it.

    >>> band(2, 4, 2).long().tolist()
    [[0, 1, 1, 0], [0, 0, 1, 1]]
    """
    seen = torch.ones(length, keys, dtype=torch.bool, device=device).tril(keys - length)
    return seen if window is None else seen.triu(keys - length - window + 1)


def block_mask(
    block: QueryBlock, mask: Tensor | None, window: int | None, device: torch.device
) -> Tensor:
    """The mask between a block's queries and keys, from the window and `mask`."""
    (start, end), (first, last) = block.rows, block.cols
    if mask is not None:
        mask = mask[..., start:end, first:last]
    if mask is not None and window is None:
        return mask
    seen = band(end - start, last - first, window, device=device)  # the block is in order too
    return seen if mask is None else seen & mask


@dataclass(frozen=True)
class Extras:
    """Options of the scores, and the keys attended to.

    scale: factor on q k. softcap: c tanh(scores / c). slopes: (H,), times the distance, subtracted.
    positions: positions of queries and keys for the distance; None: the last query is at the last
        key.
    """

    scale: float
    softcap: float | None
    window: int | None
    in_order: bool
    block: int
    mask: Bool[Tensor, "#B #H T S"] | None
    slopes: Float[Tensor, " H"] | None
    positions: QueryKeyPositions | None


class _BlockAttention(torch.autograd.Function):
    """Softmax attention with these options, one block of queries at a time."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        extras: Extras,
    ) -> Tensor:
        q_heads = _grouped(q, k.shape[1])  # (B, K, G, T, Dh)
        mixed = torch.empty_like(q_heads)
        shape = q_heads.shape[:-1]
        log_total = torch.empty(shape, dtype=_wide(q), device=q.device)  # (B, K, G, T)
        sink = None if sinks is None else sinks.view(shape[1], shape[2], 1, 1).to(log_total.dtype)
        for block in _blocks(q, k, extras):
            rows, cols = slice(*block.rows), slice(*block.cols)
            scores, _ = _scores(q_heads[..., rows, :], k[..., cols, :], block, extras)
            highest = scores.amax(dim=-1, keepdim=True)
            if sink is not None:
                highest = torch.maximum(highest, sink)
            highest = highest.masked_fill_(highest == -math.inf, 0)  # a query that sees nothing
            scores = scores.sub_(highest).exp_()
            total = scores.sum(dim=-1, keepdim=True)
            if sink is not None:
                total = total + (sink - highest).exp_()
            some = torch.where(total == 0, math.inf, total)  # nothing seen: zeros, here and behind
            mixed[..., rows, :] = _product(scores.div_(some), v[..., cols, :])
            log_total[..., rows] = (highest + some.log()).squeeze(-1)
        result = mixed.flatten(1, 2)
        ctx.save_for_backward(q, k, v, sinks, result, log_total)  # type: ignore[arg-type]
        ctx.extras = extras  # type: ignore[attr-defined]
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor):  # type: ignore[no-untyped-def]
        q, k, v, sinks, result, log_total = ctx.saved_tensors  # type: ignore[attr-defined]
        extras: Extras = ctx.extras  # type: ignore[attr-defined]
        kv_heads, groups = k.shape[1], q.shape[1] // k.shape[1]
        q_heads, grad_heads = _grouped(q, kv_heads), _grouped(grad, kv_heads)
        # sum_j p_j dp_j of each query, which the softmax's derivative takes off every dp
        mean = (grad_heads * _grouped(result, kv_heads)).sum(-1, dtype=log_total.dtype)
        grad_q = torch.empty_like(q_heads)
        grad_k, grad_v = torch.zeros_like(k), torch.zeros_like(v)
        for block in _blocks(q, k, extras):
            rows, cols = slice(*block.rows), slice(*block.cols)
            queries, keys = q_heads[..., rows, :], k[..., cols, :]
            scores, capped = _scores(queries, keys, block, extras)
            weights = scores.sub_(log_total[..., rows].unsqueeze(-1)).exp_()
            upstream = grad_heads[..., rows, :]
            flat = weights.flatten(2, 3).transpose(-1, -2).to(v.dtype)  # (B, K, S, G T)
            grad_v[..., cols, :] += flat @ upstream.flatten(2, 3)
            slope = _product(upstream, v[..., cols, :].transpose(-1, -2)).to(weights.dtype)
            slope = slope.sub_(mean[..., rows].unsqueeze(-1)).mul_(weights)
            if extras.softcap is not None:
                slope.mul_(1 - (capped / extras.softcap).square_())
            slope = slope.mul_(extras.scale).to(q.dtype)
            grad_q[..., rows, :] = _product(slope, keys)
            grad_k[..., cols, :] += slope.flatten(2, 3).transpose(-1, -2) @ queries.flatten(2, 3)
        grad_sinks = None
        if sinks is not None:  # a key of value zero: its dp is nothing but -mean
            sink = sinks.view(kv_heads, groups, 1).to(log_total.dtype)
            grad_sinks = -((sink - log_total).exp_() * mean).sum((0, 3)).flatten().to(sinks.dtype)
        return grad_q.flatten(1, 2), grad_k, grad_v, grad_sinks, None


def block_attention(
    q: Float[Tensor, "B H T Dh"],
    k: Float[Tensor, "B K S Dh"],
    v: Float[Tensor, "B K S Dh"],
    sinks: Float[Tensor, " H"] | None,
    extras: Extras,
) -> Float[Tensor, "B H T Dh"]:
    """`attention_plain` with these options, block by block; the slopes receive no gradient.

    First derivatives only. Tested against: `attention_plain`.
    """
    mixed: Tensor = _BlockAttention.apply(q, k, v, sinks, extras)
    return mixed


def _blocks(q: Tensor, k: Tensor, extras: Extras) -> Iterator[QueryBlock]:
    return query_blocks(
        q.shape[2], k.shape[2], extras.block, in_order=extras.in_order, window=extras.window
    )


def _scores(q: Tensor, k: Tensor, block: QueryBlock, extras: Extras) -> tuple[Tensor, Tensor]:
    """The block's scores, -inf where masked; and the capped scores before distances are subtracted."""
    scores = _product(q, k.transpose(-1, -2)).to(_wide(q))  # (B, K, G, T, S)
    scores = capped = scores.mul_(extras.scale)
    if extras.softcap is not None:
        capped = soft_cap(scores, extras.softcap)
        scores = capped.clone()
    if extras.slopes is not None:
        slopes = extras.slopes.to(scores.dtype).view(k.shape[1], -1, 1, 1)
        scores.addcmul_(slopes, _distance(block, extras.positions, scores), value=-1)
    seen = block_mask(block, extras.mask, extras.window, q.device)
    if seen.dim() == 4:  # (B, H, T, S) -> (B, K, G, T, S), where H may be 1
        seen = _grouped(seen, k.shape[1]) if seen.shape[1] > 1 else seen.unsqueeze(1)
    return scores.masked_fill_(~seen, -math.inf), capped


def _distance(block: QueryBlock, positions: QueryKeyPositions | None, like: Tensor) -> Tensor:
    """Position of the query minus that of the key, (T, S) or (B, 1, 1, T, S)."""
    (start, end), (first, last) = block.rows, block.cols
    if positions is None:
        query = torch.arange(block.place, block.place + end - start, device=like.device)
        key = torch.arange(first, last, device=like.device)
    else:
        query, key = positions[0][:, None, None, start:end], positions[1][:, None, None, first:last]
    return (query.unsqueeze(-1) - key.unsqueeze(-2)).to(like.dtype)


def _product(x: Tensor, y: Tensor) -> Tensor:
    """(B, K, G, T, I) times (B, K, I, J): one product per key/value head, whatever the size of its
    group.
    """
    return (x.flatten(2, 3).to(y.dtype) @ y).unflatten(2, x.shape[2:4])


def _grouped(x: Tensor, kv_heads: int) -> Tensor:
    """(B, H, ...) as (B, K, G, ...)."""
    return x.unflatten(1, (kv_heads, -1))


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
