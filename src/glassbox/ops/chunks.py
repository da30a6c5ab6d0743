"""Chunks of a decaying recurrence: how much of each token is left at each other one.

A recurrence S_t = a_t S_{t-1} + ... with a_t = exp(log_decay_t) <= 1 runs fast when it is cut into
chunks of L tokens: within a chunk all pairs at once, between chunks one state after another. What
is left of token j at token i is exp(c_i - c_j), c the running sum of log-decays: a difference, so
that no exponential of a positive number is ever taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """In float32, or float64 where it is that already: a recurrence adds up thousands of roundings."""
    return x if x.dtype == torch.float64 else x.float()


def is_real(lengths: Int[Tensor, " B"], length: int) -> Bool[Tensor, "B T"]:
    """True for each row's first `lengths` of `length` tokens; the rest is padding.

    >>> is_real(torch.tensor([2, 0]), 3).tolist()
    [[True, True, False], [False, False, False]]
    """
    return torch.arange(length, device=lengths.device) < lengths.unsqueeze(-1)


def segments(documents: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """How many documents began before each token, the row's first not counted.

    >>> segments(torch.tensor([[7, 7, 3, 3, 7]])).tolist()
    [[0, 0, 1, 1, 2]]
    """
    changed = documents[:, 1:] != documents[:, :-1]
    return F.pad(changed.long().cumsum(1), (1, 0))


def into_chunks(x: Float[Tensor, "B T H D"], chunk: int) -> Float[Tensor, "B H N L D"]:
    """Cut the time axis into chunks, zeros behind the end."""
    batch, length, heads, size = x.shape
    x = F.pad(x, (0, 0, 0, 0, 0, -length % chunk))
    return x.view(batch, -1, chunk, heads, size).permute(0, 3, 1, 2, 4)


def from_chunks(x: Float[Tensor, "B H N L D"], length: int) -> Float[Tensor, "B T H D"]:
    """The inverse of `into_chunks`."""
    batch, heads, num_chunks, chunk, size = x.shape
    return x.permute(0, 2, 3, 1, 4).reshape(batch, num_chunks * chunk, heads, size)[:, :length]


def restarted_sum(
    steps: Float[Tensor, "B H N L"], counted: Bool[Tensor, "B 1 N L L"]
) -> Float[Tensor, "B H N L"]:
    """The sum at token i over the tokens j of its chunk where counted[i, j]: its document's, up to it.

    A running sum over the whole chunk would carry the roundings of one document into the next.
    """
    by_token = steps.permute(0, 2, 3, 1)  # (B, N, L, H)
    with torch.autocast(steps.device.type, enabled=False):
        return (counted.squeeze(1).to(steps.dtype) @ by_token).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class ChunkDecays:
    """Shares between 0 and 1 that are left, zero across documents; axes of size 1 stand for all.

    pair: of token j at token i of the same chunk, zero for j > i. read: of the state before the
    chunk at token i. write: of token j in the state behind the chunk. carry: of the state before
    the chunk in the state behind it.
    """

    pair: Float[Tensor, "#B H #N L L"]
    read: Float[Tensor, "#B H #N L"]
    write: Float[Tensor, "#B H #N L"]
    carry: Float[Tensor, "#B H #N"]


def chunk_decays(
    log_decay: Float[Tensor, "#B #T H"], documents: Int[Tensor, "B T"] | None, chunk: int
) -> ChunkDecays:
    """The shares of every chunk, of log-decays (<= 0) a token and head.

    A token's own decay acts before it is written: pair[i, i] = 1, read[i] holds the decays up to
    and with i. Behind the end decays are 1. With constant decays T is 1 and stands for any number
    of whole chunks; documents must be None then. The shares' relative error is the rounding of a
    chunk's sum: at worst 4e-4 in float32, where 64 tokens forget nearly everything each.
    """
    heads, length = log_decay.shape[2], log_decay.shape[1]
    # as exp gives zero there, and minus infinity has no differences
    log_decay = log_decay.clamp(min=-746.0 if log_decay.dtype == torch.float64 else -104.0)
    if length == 1 and chunk > 1:
        assert documents is None
        log_decay = log_decay.expand(-1, chunk, -1)
    steps = into_chunks(log_decay.unsqueeze(-1), chunk).squeeze(-1)  # (B, H, N, L)
    order = torch.arange(chunk, device=log_decay.device)
    hidden = order[:, None] < order
    segment = None
    if documents is not None:
        segment = segments(documents)
        segment = torch.cat((segment, segment[:, -1:].expand(-1, -length % chunk)), 1)
        segment = segment.view(segment.shape[0], 1, -1, chunk)  # (B, 1, N, L)
        hidden = hidden | (segment.unsqueeze(-1) != segment.unsqueeze(-2))
    total = steps.cumsum(-1) if segment is None else restarted_sum(steps, ~hidden)
    end = total[..., -1:]
    reads, writes = total, end - total
    carry = end.squeeze(-1)
    if segment is not None:
        last = segment[..., -1:]
        before = F.pad(last[:, :, :-1], (0, 0, 1, 0))  # the segment of the state that comes in
        reads = reads.masked_fill(segment != before, -math.inf)
        writes = writes.masked_fill(segment != last, -math.inf)
        carry = carry.masked_fill((before != last).squeeze(-1), -math.inf)
    pair = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(hidden, -math.inf).exp()
    assert pair.shape[1] == heads
    return ChunkDecays(pair=pair, read=reads.exp(), write=writes.exp(), carry=carry.exp())
