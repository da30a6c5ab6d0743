"""Scaled dot-product attention with grouped key/value heads, and its masks.

Source: Vaswani et al., arXiv:1706.03762, section 3.2.1; grouped queries: Ainslie et al.,
arXiv:2305.13245.

Derivation: docs/theory/attention.md.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from glassbox.ops import for_compiler
from glassbox.ops.activations import soft_cap
from glassbox.ops.block_attention import (
    Extras,
    QueryBlock,
    QueryKeyPositions,
    band,
    block_attention,
    block_mask,
    query_blocks,
)
from glassbox.ops.for_compiler import compiles_training
from glassbox.ops.softmax import softmax

CPU_BLOCK = 64
"""Queries per block on the CPU; with smaller blocks the overhead of calls exceeds the savings from
skipped keys.
"""
GPU_BLOCK = 1024
"""Queries per block on other devices, where blocks only bound the memory or skip keys outside a
window.
"""


def causal_mask(
    query_positions: Int[Tensor, "B T"], key_positions: Int[Tensor, "#B S"]
) -> Bool[Tensor, "B T S"]:
    """True where a query may attend: to keys at its own or an earlier position."""
    return key_positions.unsqueeze(-2) <= query_positions.unsqueeze(-1)


def document_mask(
    query_documents: Int[Tensor, "B T"], key_documents: Int[Tensor, "B S"]
) -> Bool[Tensor, "B T S"]:
    """True where query and key belong to the same packed document."""
    return query_documents.unsqueeze(-1) == key_documents.unsqueeze(-2)


def alibi_slopes(num_heads: int, device: torch.device | None = None) -> Float[Tensor, " H"]:
    """ALiBi's slope of each head: 2^(-8h/n), h = 1 .. n, for n heads where n is a power of two.

    Otherwise the slopes of the next lower power of two, followed by every other slope of the next
    higher one, as in BLOOM.
    Source: Press et al., arXiv:2108.12409, section 3, and its code. Tested against: transformers
    BLOOM.

    >>> alibi_slopes(8).tolist()[:3]
    [0.5, 0.25, 0.125]
    """
    power = 2 ** (num_heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * head / power) for head in range(1, power + 1)]
    between = [2.0 ** (-4 * head / power) for head in range(1, 2 * power + 1, 2)]
    return torch.tensor((slopes + between)[:num_heads], device=device)


def attention_plain(
    q: Float[Tensor, "B H T Dh"],
    k: Float[Tensor, "B K S Dh"],
    v: Float[Tensor, "B K S Dh"],
    mask: Bool[Tensor, "#B #H T S"] | None = None,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Float[Tensor, " H"] | None = None,
    slopes: Float[Tensor, " H"] | None = None,
    positions: QueryKeyPositions | None = None,
) -> Float[Tensor, "B H T Dh"]:
    """Grouped-query attention: softmax(scale * q k^T, masked) v; query head h uses key/value head h
    // (H / K).

    mask: True where a query may attend; None means causal, with the last query at the last key. A
        query that may attend to no key returns zeros.
    scale: 1/sqrt(Dh) by default.
    window: in addition to the mask, query i attends only to keys i + S - T - window + 1 to i + S -
        T (Beltagy et al., arXiv:2004.05150, section 3.1).
    softcap: scores become c tanh(scores / c) (Gemma 2, arXiv:2408.00118, section 2).
    slopes: per head; the slope times the distance from query to key is subtracted from the scores
        (ALiBi, arXiv:2108.12409). `positions` are the positions of queries and keys; None: the last
        query is at the last key.
    sinks: per head, the score of an additional key whose value is zero (Xiao et al.,
        arXiv:2309.17453, section 3.2; gpt-oss).
    Tested against: torch.nn.functional.scaled_dot_product_attention; transformers Gemma 2, gpt-oss,
    BLOOM.
    """
    groups = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(groups, dim=1)
    v = v.repeat_interleave(groups, dim=1)
    length, keys = q.shape[-2], k.shape[-2]
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = scale * (q @ k.transpose(-1, -2))  # (B, H, T, S)
    if softcap is not None:
        scores = soft_cap(scores, softcap)
    if slopes is not None:
        if positions is None:
            order = torch.arange(keys, device=q.device).unsqueeze(0)
            positions = (order[:, keys - length :], order)
        distance = positions[0].unsqueeze(-1) - positions[1].unsqueeze(-2)  # (B, T, S)
        scores = scores - slopes[:, None, None] * distance.unsqueeze(1)
    if mask is None or window is not None:
        seen = band(length, keys, window, device=q.device)
        mask = seen if mask is None else mask & seen
    scores = scores.masked_fill(~mask, -math.inf)
    if sinks is None:
        return softmax(scores) @ v
    sink = sinks.view(1, -1, 1, 1).to(scores.dtype).expand(*scores.shape[:-1], 1)
    return softmax(torch.cat((scores, sink), dim=-1))[..., :-1] @ v


def dot_product_attention(
    q: Float[Tensor, "*batch T Dh"],
    k: Float[Tensor, "*batch S Dh"],
    v: Float[Tensor, "*batch S Dv"],
    mask: Bool[Tensor, "*#batch T S"] | Float[Tensor, "*#batch T S"] | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
) -> Float[Tensor, "*batch T Dv"]:
    """Scaled dot-product attention: softmax(scale * q k^T + mask) v, for inputs (..., T, Dh) with
    any leading axes.

    mask: boolean, True where a query may attend; or floating-point, added to the scores, -inf where
        it may not. None: every query attends to every key, unless `is_causal`.
    is_causal: query i attends to keys 0 to i, counted from the first key as in torch; combined with
        a mask if both are given.
    scale: 1/sqrt(Dh) by default.
    A query that may attend to no key returns zeros. Models use `attention` instead, which is
    faster, allows fewer key/value heads, and treats a mask of None as causal with the last query at
    the last key.
    Raises ValueError for an integer mask, which is ambiguous.
    Source: Vaswani et al., arXiv:1706.03762, section 3.2.1.
    Tested against: torch.nn.functional.scaled_dot_product_attention.
    """
    if mask is not None and mask.dtype != torch.bool and not mask.dtype.is_floating_point:
        raise ValueError(
            f"mask is {mask.dtype}; give bool (True: may look) or numbers to add to the scores"
        )
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = scale * (q @ k.transpose(-1, -2))  # (*batch, T, S)
    if is_causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -math.inf)
    elif mask is not None:
        scores = scores + mask
    return softmax(scores) @ v


class _Span(torch.autograd.Function):
    """x[..., first:last, :], and x itself, from which the next block takes its slice.

    The gradients of all blocks are thus added to one buffer as they are computed. With a common
    node, autograd would keep all of them until the last, and memory would grow with the square of
    the length.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: Tensor, first: int, last: int
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.span, ctx.shape = (first, last), x.shape  # type: ignore[attr-defined]
        return x[..., first:last, :], x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor, total: Tensor | None):  # type: ignore[no-untyped-def]
        if total is None:  # the last block, whose gradient is the first to come
            total = grad.new_zeros(ctx.shape)  # type: ignore[attr-defined]
        total[..., slice(*ctx.span), :] += grad  # type: ignore[attr-defined]
        return total, None, None  # in place: nobody but this chain has seen it


def attention(
    q: Float[Tensor, "B H T Dh"],
    k: Float[Tensor, "B K S Dh"],
    v: Float[Tensor, "B K S Dh"],
    mask: Bool[Tensor, "#B #H T S"] | None = None,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Float[Tensor, " H"] | None = None,
    slopes: Float[Tensor, " H"] | None = None,
    positions: QueryKeyPositions | None = None,
    hides_future: bool = False,
) -> Float[Tensor, "B H T Dh"]:
    """`attention_plain` without storing the (T, S) scores, using torch's kernel where it supports
    the options.

    hides_future: promises that the mask hides all keys after i + S - T from query i; these keys are
        then skipped (torch's CPU kernel computes them even with `is_causal`). Keys before a
        `window` are skipped too, so that the cost grows with T * window. First derivatives only.
    Tested against: `attention_plain`.
    """
    length, keys = q.shape[-2], k.shape[-2]
    if window is not None and window >= keys:
        mask = mask if mask is None or hides_future else mask & band(length, keys, device=q.device)
        window, hides_future = None, True
    in_order = mask is None or hides_future or window is not None
    on_cpu = q.device.type == "cpu"
    if softcap is not None or sinks is not None or slopes is not None:
        if torch.compiler.is_compiling():  # the compiler fuses the plain version itself
            return attention_plain(
                q, k, v, mask, scale=scale, window=window, softcap=softcap, sinks=sinks,
                slopes=slopes, positions=positions,
            )  # fmt: skip
        extras = Extras(
            scale=1 / math.sqrt(q.shape[-1]) if scale is None else scale,
            softcap=softcap,
            window=window,
            in_order=in_order,
            block=CPU_BLOCK if on_cpu else GPU_BLOCK,
            mask=mask,
            slopes=slopes,
            positions=positions,
        )
        dtype = q.dtype
        if on_cpu:
            q, k, v = _widened(q, k, v)
        with torch.autocast(q.device.type, enabled=False):
            return block_attention(q, k, v, sinks, extras).to(dtype)
    if compiles_training(q):
        if mask is None or window is not None:
            seen = band(length, keys, window, device=q.device)[None, None]
            mask = seen if mask is None else mask & seen
        scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
        return for_compiler.attention(q, k, v, mask, scale)
    if on_cpu:
        return _attention_cpu(q, k, v, mask, scale=scale, window=window, in_order=in_order)
    if window is not None:
        return _attention_in_blocks(q, k, v, mask, scale, window, GPU_BLOCK)
    causal = mask is None and length > 1
    if causal and length != keys:
        mask, causal = band(length, keys, device=q.device), False
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def _attention_cpu(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    *,
    scale: float | None,
    window: int | None,
    in_order: bool,
) -> Tensor:
    """Attention in float32 (the backward kernel for bf16 is slower), and for a causal mask in
    blocks of queries.

    A block uses only the keys up to its own end: for T = 256 that is 5/8 of the work.
    """
    dtype, length, keys = q.dtype, q.shape[-2], k.shape[-2]
    q, k, v = _widened(q, k, v)
    with torch.autocast("cpu", enabled=False):
        if in_order and length >= 2 * CPU_BLOCK and not torch.compiler.is_compiling():
            width, widest = v.shape[-1], max(v.shape[-1], q.shape[-1])
            if (
                v.shape[-1] != q.shape[-1]
            ):  # zeros change nothing, and torch's kernel wants one width
                scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
                q, k, v = (F.pad(x, (0, widest - x.shape[-1])) for x in (q, k, v))
            mixed = _attention_in_blocks(q, k, v, mask, scale, window, CPU_BLOCK)
            return mixed[..., :width].to(dtype)
        if window is not None or (mask is None and length > 1):
            mask = block_mask(
                QueryBlock((0, length), (0, keys), keys - length), mask, window, q.device
            )
        grouped = q.shape[1] != k.shape[1]
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped
        )
        return mixed.to(dtype)


def _attention_in_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float | None,
    window: int | None,
    size: int,
) -> Tensor:
    """Attention in blocks of queries, each with the keys that it may attend to."""
    grouped = q.shape[1] != k.shape[1]
    keys = k.shape[-2]
    blocks = query_blocks(q.shape[-2], keys, size, in_order=True, window=window)
    shared = None
    if mask is None and q.device.type == "cpu":
        # every block's mask is the end of this one: the kernel would keep one of its own for each
        columns = keys if window is None else min(keys, size + window - 1)
        hidden = ~band(size, columns, window, device=q.device)
        shared = q.new_zeros(size, columns).masked_fill_(hidden, -math.inf)
    results = []
    for block, rows in zip(blocks, q.split(size, dim=-2), strict=True):
        # taken here and not before the loop: autograd goes back through what came last first
        key, k = _Span.apply(k, *block.cols)
        value, v = _Span.apply(v, *block.cols)
        if shared is None:
            seen = block_mask(block, mask, window, q.device)
        else:
            seen = shared[size - rows.shape[-2] :, shared.shape[1] - key.shape[-2] :]
        results.append(
            F.scaled_dot_product_attention(
                rows, key, value, attn_mask=seen, scale=scale, enable_gqa=grouped
            )
        )
    return torch.cat(results, dim=-2)


def _widened(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The inputs in float32, or in float64 if they are that already."""
    return tuple(t if t.dtype == torch.float64 else t.to(torch.float32) for t in tensors)
