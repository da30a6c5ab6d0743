"""Scaled dot-product attention with grouped key/value heads, plain and fast, and its masks.

Source: Vaswani et al., arXiv:1706.03762, section 3.2.1; grouped queries: Ainslie et al., arXiv:2305.13245.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassbox.ops.softmax import softmax


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
        length, keys = scores.shape[-2:]
        mask = torch.ones(length, keys, dtype=torch.bool, device=q.device).tril(keys - length)
    return softmax(scores.masked_fill(~mask, -math.inf)) @ v


def attention(
    q: Float[Tensor, "B H T Dh"],
    k: Float[Tensor, "B K S Dh"],
    v: Float[Tensor, "B K S Dh"],
    mask: Bool[Tensor, "#B #H T S"] | None = None,
    *,
    scale: float | None = None,
) -> Float[Tensor, "B H T Dh"]:
    """`attention_plain` by torch's fused kernel, which never keeps the (T, S) scores.

    One row of difference: a query that may look nowhere is undefined here.
    """
    causal = mask is None and q.shape[-2] > 1
    if causal and q.shape[-2] != k.shape[-2]:
        ones = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device)
        mask, causal = ones.tril(k.shape[-2] - q.shape[-2]), False
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
    )
