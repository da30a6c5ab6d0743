"""Chunked evaluation of recurrences with decay: the decay between each pair of tokens of a chunk.

A recurrence S_t = a_t S_{t-1} + ... with a_t = exp(log_decay_t) <= 1 is evaluated in chunks of L
tokens: all pairs within a chunk at once, and from chunk to chunk one state after another. The decay
from token j to token i is exp(c_i - c_j), with c the running sum of log-decays; as a difference it
never needs the exponential of a positive number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """Cast to float32, or keep float64, since a recurrence accumulates thousands of rounding
    errors.
    """
    return x if x.dtype == torch.float64 else x.float()


def is_real(lengths: Int[Tensor, " B"], length: int) -> Bool[Tensor, "B T"]:
    """True for the first `lengths` of `length` tokens of each row; the rest is padding.

    >>> is_real(torch.tensor([2, 0]), 3).tolist()
    [[True, True, False], [False, False, False]]
    """
    return torch.arange(length, device=lengths.device) < lengths.unsqueeze(-1)


def segments(documents: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Number of document boundaries before each token of a row.

    >>> segments(torch.tensor([[7, 7, 3, 3, 7]])).tolist()
    [[0, 0, 1, 1, 2]]
    """
    changed = documents[:, 1:] != documents[:, :-1]
    return F.pad(changed.long().cumsum(1), (1, 0))


def into_chunks(x: Float[Tensor, "B T H D"], chunk: int) -> Float[Tensor, "B H N L D"]:
    """Split the time axis into chunks, padded with zeros at the end."""
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
    """The sum at token i over the tokens j of its chunk where counted[i, j]: those of its document,
    up to i.

    A running sum over the whole chunk would carry rounding errors from one document to the next.
    """
    by_token = steps.permute(0, 2, 3, 1)  # (B, N, L, H)
    with torch.autocast(steps.device.type, enabled=False):
        return (counted.squeeze(1).to(steps.dtype) @ by_token).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class ChunkDecays:
    """Decay factors between 0 and 1, zero across documents; axes of size 1 are broadcast.

    pair: from token j to token i of the same chunk, zero for j > i.
    read: from the state before the chunk to token i.
    write: from token j to the state after the chunk.
    carry: from the state before the chunk to the state after it.
    """

    pair: Float[Tensor, "#B H #N L L"]
    read: Float[Tensor, "#B H #N L"]
    write: Float[Tensor, "#B H #N L"]
    carry: Float[Tensor, "#B H #N"]


def chunk_decays(
    log_decay: Float[Tensor, "#B #T H"], documents: Int[Tensor, "B T"] | None, chunk: int
) -> ChunkDecays:
    """The decay factors of every chunk, from log-decays (<= 0) per token and head.

    A token's own decay acts before it is written: pair[i, i] = 1, and read[i] includes the decay of
    i. Beyond the end decays are 1. For constant decays T is 1, representing any number of complete
    chunks; documents must then be None. The relative error is the rounding error of a chunk's sum:
    at most 4e-4 in float32, if 64 tokens each decay nearly completely.
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
