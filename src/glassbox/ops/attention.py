"""Scaled dot-product attention with grouped key/value heads, plain and fast, and its masks.

Source: Vaswani et al., arXiv:1706.03762, section 3.2.1; grouped queries: Ainslie et al., arXiv:2305.13245.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from glassbox.ops.softmax import softmax

CPU_BLOCK = 64
"""Queries a block on the CPU: below this the calls cost more than the skipped keys save."""


def causal_mask(
    query_positions: Int[Tensor, "B T"], key_positions: Int[Tensor, "#B S"]
) -> Bool[Tensor, "B T S"]:
    """True where a query may look: at keys of its own position or an earlier one."""
    return key_positions.unsqueeze(-2) <= query_positions.unsqueeze(-1)


def document_mask(
    query_documents: Int[Tensor, "B T"], key_documents: Int[Tensor, "B S"]
) -> Bool[Tensor, "B T S"]:
    """True where query and key belong to the same packed document."""
    return query_documents.unsqueeze(-1) == key_documents.unsqueeze(-2)


def attention_plain(
    q: Float[Tensor, "B H T Dh"],
    k: Float[Tensor, "B K S Dh"],
    v: Float[Tensor, "B K S Dh"],
    mask: Bool[Tensor, "#B #H T S"] | None = None,
    *,
    scale: float | None = None,
) -> Float[Tensor, "B H T Dh"]:
    """softmax(scale * q k^T, masked) v; query head h reads key/value head h // (H / K).

    `mask` is True where a query may look; None means causal, the last query at the last key.
    A query that may look nowhere returns zeros. `scale` is 1/sqrt(Dh) unless given.
    Tested against: torch.nn.functional.scaled_dot_product_attention.
    """
    groups = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(groups, dim=1)
    v = v.repeat_interleave(groups, dim=1)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = scale * (q @ k.transpose(-1, -2))  # (B, H, T, S)
    if mask is None:
        mask = _offset_causal(scores.shape[-2], scores.shape[-1], q.device)
    return softmax(scores.masked_fill(~mask, -math.inf)) @ v


class _Prefixes(torch.autograd.Function):
    """x[..., :end, :] for each end; the gradients meet in one buffer, not one a slice."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: Tensor, ends: tuple[int, ...]
    ) -> tuple[Tensor, ...]:
        assert ends[-1] == x.shape[-2]
        ctx.ends = ends  # type: ignore[attr-defined]
        return tuple(x[..., :end, :] for end in ends)

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor):  # type: ignore[no-untyped-def]
        total = grads[-1].clone()
        ends = ctx.ends[:-1]  # type: ignore[attr-defined]
        for end, grad in zip(ends, grads[:-1], strict=True):
            total[..., :end, :] += grad
        return total, None


def attention(
    q: Float[Tensor, "B H T Dh"],
    k: Float[Tensor, "B K S Dh"],
    v: Float[Tensor, "B K S Dh"],
    mask: Bool[Tensor, "#B #H T S"] | None = None,
    *,
    scale: float | None = None,
    hides_future: bool = False,
) -> Float[Tensor, "B H T Dh"]:
    """`attention_plain` by torch's fused kernel, which never keeps the (T, S) scores.

    `hides_future` promises that the mask shows query i no key beyond i; those are then never
    multiplied (torch's CPU kernel computes them all, even under its own `is_causal`).
    Tested against: `attention_plain`.
    """
    length, keys = q.shape[-2], k.shape[-2]
    grouped = q.shape[1] != k.shape[1]
    square_causal = length == keys and (mask is None or hides_future)
    if q.device.type == "cpu":
        return _attention_cpu(q, k, v, mask, scale=scale, square_causal=square_causal)
    causal = mask is None and length > 1
    if causal and length != keys:
        mask, causal = _offset_causal(length, keys, q.device), False
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
    square_causal: bool,
) -> Tensor:
    """In float32 (bf16's backward kernel is slower), and with a causal mask block by block of queries.

    A block multiplies only the keys up to its own end: for T = 256 that is 5/8 of the work.
    """
    dtype, length, keys = q.dtype, q.shape[-2], k.shape[-2]
    wide = dtype if dtype == torch.float64 else torch.float32
    q, k, v = q.to(wide), k.to(wide), v.to(wide)
    grouped = q.shape[1] != k.shape[1]
    with torch.autocast("cpu", enabled=False):
        whole = not square_causal or length < 2 * CPU_BLOCK or torch.compiler.is_compiling()
        if whole:
            if mask is None and length > 1:
                mask = _offset_causal(length, keys, q.device)
            mixed = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped
            )
            return mixed.to(dtype)
        ends = (*range(CPU_BLOCK, length, CPU_BLOCK), length)
        blocks = []
        for rows, key, value in zip(
            q.split(CPU_BLOCK, dim=-2),
            _Prefixes.apply(k, ends),
            _Prefixes.apply(v, ends),
            strict=True,
        ):
            start, end = key.shape[-2] - rows.shape[-2], key.shape[-2]
            if mask is None:
                seen = _offset_causal(end - start, end, q.device)
            else:
                seen = mask[..., start:end, :end]
            blocks.append(
                F.scaled_dot_product_attention(
                    rows, key, value, attn_mask=seen, scale=scale, enable_gqa=grouped
                )
            )
        return torch.cat(blocks, dim=-2).to(dtype)


def _offset_causal(length: int, keys: int, device: torch.device) -> Tensor:
    """Causal mask of the last `length` of `keys` positions."""
    return torch.ones(length, keys, dtype=torch.bool, device=device).tril(keys - length)
