"""Attention of one query per row over a cache with the head axis first, as in decoding."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassbox.ops.activations import soft_cap


def single_query_attention(
    q: Float[Tensor, "B H Dh"],
    k: Float[Tensor, "K B S Dh"],
    v: Float[Tensor, "K B S Dh"],
    hidden: Bool[Tensor, "B S"] | None = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float[Tensor, " H"] | None = None,
    slopes: Float[Tensor, " H"] | None = None,
    positions: Int[Tensor, " B"] | None = None,
) -> Float[Tensor, "B H Dh"]:
    """`attention_plain` with T = 1, as two products of a batch of K B; key/value heads are not
    copied for their groups.

    hidden: True where a row may not attend, whatever the value of the key, even NaN; every row must
        have at least one visible key.
    positions: of the queries, needed for `slopes`; key s is at position s.
    Computed in float32, or wider if the query is. If all keys are visible and scores are not
    modified, the queries that share keys are passed to torch's kernel as if they were a sequence,
    which takes half as long.
    Tested against: `attention_plain`.
    """
    batch, heads, size = q.shape
    kv_heads, groups, dtype = k.shape[0], heads // k.shape[0], q.dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    k, v = k.to(wide), v.to(wide)
    if hidden is None and softcap is None and sinks is None and slopes is None:
        queries = q.to(wide).view(batch, kv_heads, groups, size)
        mixed = F.scaled_dot_product_attention(
            queries, k.transpose(0, 1), v.transpose(0, 1), scale=scale
        )
        return mixed.reshape(batch, heads, size).to(dtype)
    k, v = k.flatten(0, 1), v.flatten(0, 1)  # (K B, S, Dh)
    scale = 1 / math.sqrt(size) if scale is None else scale
    grouped = (q.to(wide) * scale).view(batch, kv_heads, groups, size).transpose(0, 1)
    scores = torch.bmm(grouped.reshape(-1, groups, size), k.mT)
    if softcap is not None:
        scores = soft_cap(scores, softcap)
    by_head = scores.view(kv_heads, batch, groups, -1)
    if slopes is not None:
        assert positions is not None
        order = torch.arange(k.shape[1], device=q.device)
        distance = (positions.unsqueeze(1) - order).to(wide)  # (B, S)
        by_head -= slopes.to(wide).view(kv_heads, 1, groups, 1) * distance.unsqueeze(1)
    if hidden is not None:
        by_head.masked_fill_(hidden.unsqueeze(1), -math.inf)
    if sinks is None:
        weights = torch.softmax(scores, dim=-1)
    else:
        sink = sinks.to(wide).view(kv_heads, 1, groups, 1).expand(-1, batch, -1, -1)
        weights = torch.softmax(torch.cat((by_head, sink), dim=-1), dim=-1)
        weights = weights[..., :-1].flatten(0, 1)
    mixed = torch.bmm(weights, v).view(kv_heads, batch, groups, size)
    return mixed.transpose(0, 1).reshape(batch, heads, size).to(dtype)
