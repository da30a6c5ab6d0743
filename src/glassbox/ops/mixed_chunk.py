"""Mixed chunk attention of FLASH: quadratic within a chunk, linear across chunks, causal.

o_i = sum of relu(q_i . k_j / C + w_{i-j})^2 v_j over j <= i in i's own chunk of C tokens
    + sum of (q'_i . k'_j / C) v_j over all earlier chunks.

Chunks are counted from each document's start, so a token's output depends on nothing but its own
document. Source: Hua et al., arXiv:2202.10447, section 3.2 and its appendix's code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.ops.chunks import is_real, segments, wide
from glassbox.ops.linear_attention import decayed_attention


def mixed_chunk_plain(
    quad_q: Float[Tensor, "B T S"],
    quad_k: Float[Tensor, "B T S"],
    lin_q: Float[Tensor, "B T S"],
    lin_k: Float[Tensor, "B T S"],
    v: Float[Tensor, "B T E"],
    bias: Float[Tensor, " C"],
    positions: Int[Tensor, "#B T"],
    *,
    documents: Int[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B T E"]:
    """The two sums token by token, in float32 or wider; `positions` are counted from a document's
    start.

    bias[d] is added to the score of the token d positions before. Tested against: the definition of
    the sums.
    """
    dtype, chunk, (batch, length) = v.dtype, bias.shape[0], v.shape[:2]
    quad_q, quad_k, lin_q, lin_k, v, bias = map(wide, (quad_q, quad_k, lin_q, lin_k, v, bias))
    numbers = (positions // chunk).expand(batch, length)
    document = torch.zeros_like(numbers) if documents is None else segments(documents)
    outputs = []
    for i in range(length):
        earlier = slice(0, i + 1)
        known = document[:, earlier] == document[:, i : i + 1]
        own = known & (numbers[:, earlier] == numbers[:, i : i + 1])
        distance = torch.arange(i, -1, -1, device=v.device).clamp(max=chunk - 1)
        scores = (quad_k[:, earlier] @ quad_q[:, i].unsqueeze(-1)).squeeze(-1) / chunk
        quadratic = (scores + bias[distance]).relu().square() * own
        linear = (lin_k[:, earlier] @ lin_q[:, i].unsqueeze(-1)).squeeze(-1) / chunk
        weights = quadratic + linear * (known & ~own)
        outputs.append((weights.unsqueeze(1) @ v[:, earlier]).squeeze(1))
    return torch.stack(outputs, 1).to(dtype)


def mixed_chunk(
    quad_q: Float[Tensor, "B T S"],
    quad_k: Float[Tensor, "B T S"],
    lin_q: Float[Tensor, "B T S"],
    lin_k: Float[Tensor, "B T S"],
    v: Float[Tensor, "B T E"],
    bias: Float[Tensor, " C"],
    positions: Int[Tensor, "#B T"],
    recent: Float[Tensor, "B C R"] | None = None,
    memory: Float[Tensor, "B S E"] | None = None,
    *,
    documents: Int[Tensor, "B T"] | None = None,
    lengths: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T E"], Float[Tensor, "B C R"], Float[Tensor, "B S E"]]:
    """`mixed_chunk_plain` in blocks of C queries by 2 C keys; also returns the state.

    A document's chunks are not aligned with the blocks, so linear attention runs over all tokens,
    and each token's own chunk is subtracted again in the block that adds its quadratic part.
    recent: quad_k, lin_k and v concatenated (R = 2 S + E) for the last C tokens; memory: the sum of
        lin_k v^T over all tokens. Tokens from `lengths` on are padding. Tested against:
        `mixed_chunk_plain`.
    """
    dtype, chunk, (batch, length) = v.dtype, bias.shape[0], v.shape[:2]
    quad_q, quad_k, lin_q, lin_k, v, bias = map(wide, (quad_q, quad_k, lin_q, lin_k, v, bias))
    if lengths is not None:
        v = v.masked_fill(~is_real(lengths, length).unsqueeze(-1), 0.0)
    with torch.autocast(v.device.type, enabled=False):
        total, sums = decayed_attention(
            lin_q.unsqueeze(2),
            lin_k.unsqueeze(2),
            v.unsqueeze(2),
            v.new_zeros(1, 1, 1),
            None if memory is None else memory.unsqueeze(1),
            documents=documents,
            lengths=lengths,
        )
        numbers = (positions // chunk).expand(batch, length)
        if documents is not None:  # no two documents share a number
            numbers = numbers + segments(documents) * (length // chunk + 1)
        rows = torch.cat((quad_k, lin_k, v), -1)  # (B, T, R)
        if recent is None:
            before = torch.full_like(numbers[:, :1], -1).expand(-1, chunk)
            rows = F.pad(rows, (0, 0, chunk, 0))
        else:
            back = torch.arange(chunk, 0, -1, device=v.device)
            before = ((positions[:, :1] - back) // chunk).expand(batch, -1)
            rows = torch.cat((wide(recent), rows), 1)
        ends = positions.new_full((batch,), length) if lengths is None else lengths
        places = ends[:, None, None] + torch.arange(chunk, device=v.device)[:, None]
        kept = rows.gather(1, places.expand(-1, -1, rows.shape[-1]))

        queries = torch.cat((quad_q, lin_q), -1)
        numbers = torch.cat((before, numbers), 1)
        if length > chunk:  # block n sees the keys of block n - 1 and its own
            short = -length % chunk
            queries = F.pad(queries, (0, 0, 0, short)).unflatten(1, (-1, chunk))
            rows = _pairs(F.pad(rows, (0, 0, 0, short)).unflatten(1, (-1, chunk)))
            asking = F.pad(numbers, (0, short)).unflatten(1, (-1, chunk))
            keyed, asking = _pairs(asking), asking[:, 1:]
        else:
            queries, rows, keyed = queries.unsqueeze(1), rows.unsqueeze(1), numbers.unsqueeze(1)
            asking = keyed[:, :, chunk:]
        size = queries.shape[2]
        order = torch.arange(chunk + size, device=v.device)
        distance = order[chunk:, None] - order  # (L, C + L)
        own = (asking.unsqueeze(-1) == keyed.unsqueeze(-2)) & (distance >= 0)  # (B, N, L, C + L)
        key_dim = quad_k.shape[-1]
        quad_k, lin_k, v = rows.split((key_dim, key_dim, v.shape[-1]), -1)
        quad_q, lin_q = queries.split(key_dim, -1)
        scores = quad_q @ quad_k.transpose(-1, -2) / chunk + bias[distance.clamp(0, chunk - 1)]
        linear = lin_q @ lin_k.transpose(-1, -2) / chunk
        weights = (scores.relu().square() - linear).masked_fill(~own, 0.0)
        within = (weights @ v).flatten(1, 2)[:, :length]
        return (total.squeeze(2) / chunk + within).to(dtype), kept, sums.squeeze(1)


def _pairs(blocks: Tensor) -> Tensor:
    """(B, N + 1, C, ...) to (B, N, 2 C, ...): each block concatenated with the one before it."""
    return torch.cat((blocks[:, :-1], blocks[:, 1:]), 2)
