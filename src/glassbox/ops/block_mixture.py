"""Mixture of block attention (MoBA): each query head attends within its top-k blocks of keys.

Source: Lu et al., arXiv:2502.13189, section 2.2. A block's score is q . mean(its keys); the query's
own block is always selected and causal within, later blocks never. There are no parameters, and the
selection passes no gradient, as in the paper.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.ops.selected_blocks import Slots, chunk_elements, selected_attention
from glassbox.ops.softmax import softmax


def block_mixture_plain(
    q: Float[Tensor, "B H T Dh"],
    k: Float[Tensor, "B K T Dh"],
    v: Float[Tensor, "B K T Dh"],
    *,
    block_size: int,
    top_k: int,
) -> Float[Tensor, "B H T Dh"]:
    """One document, query by query: score the earlier blocks, select the best, attend to their
    keys.

    Source: arXiv:2502.13189, equations 2 to 6. Tested against: plain causal attention if top_k
    covers all blocks, and a mask derived by hand.
    """
    result = torch.zeros_like(q)
    groups = q.shape[1] // k.shape[1]
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            keys, values = k[b, h // groups], v[b, h // groups]
            for t in range(q.shape[2]):
                query, own = q[b, h, t], t // block_size
                gates = [
                    float(query.detach() @ keys[start : start + block_size].detach().mean(0))
                    for start in range(0, own * block_size, block_size)
                ]
                best = sorted(range(own), key=lambda block: -gates[block])[: top_k - 1]
                seen = [
                    place
                    for block in [*best, own]
                    for place in range(block * block_size, (block + 1) * block_size)
                    if place <= t
                ]
                weights = softmax(keys[seen] @ query / math.sqrt(q.shape[-1]))
                result[b, h, t] = weights @ values[seen]
    return result


@torch.no_grad()
def choose_blocks(
    q: Float[Tensor, "B K G T Dh"],
    means: Float[Tensor, "B K J Dh"],
    slots: Slots,
    *,
    block_size: int,
    top_k: int,
) -> Int[Tensor, "B K G T n"]:
    """The indices of each query's blocks: its own, then those of the highest scores; -1 if there
    are no more.

    Means of incomplete blocks are not used. Ties are broken in favour of the earlier block.
    """
    batch, heads, groups, length = q.shape[:4]
    blocks = q.new_full((batch, heads, groups, length, top_k), -1, dtype=torch.long)
    number = torch.arange(means.shape[2], device=q.device)
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    step = max(1, chunk_elements(q.device) // (batch * heads * groups * len(number)))
    for start in range(0, length, step):
        rows = slice(start, start + step)
        own = (slots.own[:, rows] // block_size)[:, None, None, :, None]
        past = number < own
        past = past & (number >= (slots.first[:, rows] // block_size)[:, None, None, :, None])
        gates = (q[:, :, :, rows] @ means.to(q.dtype).unsqueeze(2).mT).to(wide)
        gates = gates.masked_fill(~past, -math.inf).masked_fill(number == own, math.inf)
        best, order = gates.sort(dim=-1, descending=True, stable=True)
        chosen = order[..., :top_k].masked_fill(best[..., :top_k] == -math.inf, -1)
        blocks[:, :, :, rows, : chosen.shape[-1]] = chosen
    return blocks


def block_mixture(
    q: Float[Tensor, "B H T Dh"],
    k: Float[Tensor, "B K S Dh"],
    v: Float[Tensor, "B K S Dh"],
    means: Float[Tensor, "B K J Dh"],
    slots: Slots,
    *,
    block_size: int,
    top_k: int,
) -> Float[Tensor, "B H T Dh"]:
    """`block_mixture_plain` for queries at any slot among keys in slots; `means` are those of the
    blocks.

    All queries that select a block are multiplied with it in one product, so that time and memory
    grow with T top_k block_size, and only the scores (one per query and block) with T S /
    block_size.
    Tested against: `block_mixture_plain`.
    """
    batch, heads, length, size = q.shape
    kv_heads = k.shape[1]
    groups = heads // kv_heads
    grouped = q.view(batch, kv_heads, groups, length, size)
    blocks = choose_blocks(grouped, means, slots, block_size=block_size, top_k=top_k)
    out = selected_attention(
        grouped.reshape(batch, kv_heads, groups * length, 1, size),
        k,
        v,
        blocks.flatten(2, 3),
        slots.first.repeat(1, groups),
        slots.own.repeat(1, groups),
        block_size=block_size,
    )
    return out.view(q.shape)


def block_means(k: Float[Tensor, "B K S Dh"], block_size: int) -> Float[Tensor, "B K J Dh"]:
    """The mean key of each block; S is a multiple of block_size."""
    return k.unflatten(2, (-1, block_size)).mean(dim=3)
