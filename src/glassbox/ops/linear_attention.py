"""Linear attention with decay: S_t = a_t S_{t-1} + k_t v_t^T, o_t = S_t^T q_t.

One scalar a_t = exp(log_decay_t) per head, constant (retention, arXiv:2307.08621; Lightning
Attention, arXiv:2401.04658), computed from the data (Mamba-2's SSD, arXiv:2405.21060), or 1
(arXiv:2006.16236).
Three forms of the same function: a loop over tokens, chunks for training, one step for decoding.

Derivation: docs/theory/linear_attention.md.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.ops.chunks import chunk_decays, from_chunks, into_chunks, is_real, wide

CHUNK = 64
"""Tokens per chunk: the cost within chunks grows with it, the cost between chunks with its inverse.
"""


def decayed_attention_plain(
    q: Float[Tensor, "B T K Dk"],
    k: Float[Tensor, "B T K Dk"],
    v: Float[Tensor, "B T H Dv"],
    log_decay: Float[Tensor, "#B #T H"],
    state: Float[Tensor, "B H Dk Dv"] | None = None,
    *,
    documents: Int[Tensor, "B T"] | None = None,
    lengths: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T H Dv"], Float[Tensor, "B H Dk Dv"]]:
    """Token by token: S = exp(log_decay) S + k v^T, o = S^T q; returns the outputs, and S after the
    last token.

    Value head h uses key head h // (H / K). log_decay <= 0. S is initialized to `state` (zero if
    None) and reset where `documents` changes along a row. Tokens from `lengths` on are padding:
    they leave S unchanged, and their outputs are undefined. q is not scaled. Computed in float32 or
    wider; the output has v's dtype, the state that of the sums.
    Tested against: the sum over j of (q_i . k_j) prod a v_j written out.
    """
    dtype, length = v.dtype, v.shape[1]
    q, k, v, log_decay, memory = _begin(q, k, v, log_decay, state)
    groups = v.shape[2] // k.shape[2]
    q, k = q.repeat_interleave(groups, 2), k.repeat_interleave(groups, 2)
    decay = log_decay.exp().expand(v.shape[0], length, -1)
    outputs = []
    for t in range(length):
        if documents is not None and t > 0:
            same = documents[:, t] == documents[:, t - 1]
            memory = torch.where(same[:, None, None, None], memory, 0.0)
        written = k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)  # (B, H, Dk, Dv)
        after = decay[:, t, :, None, None] * memory + written
        outputs.append((q[:, t].unsqueeze(-1) * after).sum(-2))
        if lengths is not None:
            after = torch.where((t < lengths)[:, None, None, None], after, memory)
        memory = after
    return torch.stack(outputs, 1).to(dtype), memory


def decayed_attention_step(
    q: Float[Tensor, "B K Dk"],
    k: Float[Tensor, "B K Dk"],
    v: Float[Tensor, "B H Dv"],
    log_decay: Float[Tensor, "#B H"],
    state: Float[Tensor, "B H Dk Dv"],
) -> tuple[Float[Tensor, "B H Dv"], Float[Tensor, "B H Dk Dv"]]:
    """One token: the new state and the output. Tested against: `decayed_attention_plain`."""
    dtype = v.dtype
    q, k, v, log_decay, state = _begin(q, k, v, log_decay, state)
    groups = v.shape[1] // k.shape[1]
    q, k = q.repeat_interleave(groups, 1), k.repeat_interleave(groups, 1)
    state = torch.addcmul(
        log_decay.exp()[..., None, None] * state, k.unsqueeze(-1), v.unsqueeze(-2)
    )
    with torch.autocast(v.device.type, enabled=False):
        return (q.unsqueeze(-2) @ state).squeeze(-2).to(dtype), state


def decayed_attention(
    q: Float[Tensor, "B T K Dk"],
    k: Float[Tensor, "B T K Dk"],
    v: Float[Tensor, "B T H Dv"],
    log_decay: Float[Tensor, "#B #T H"],
    state: Float[Tensor, "B H Dk Dv"] | None = None,
    *,
    documents: Int[Tensor, "B T"] | None = None,
    lengths: Int[Tensor, " B"] | None = None,
    chunk: int = CHUNK,
) -> tuple[Float[Tensor, "B T H Dv"], Float[Tensor, "B H Dk Dv"]]:
    """`decayed_attention_plain` in chunks: three matrix products and one state per chunk.

    O = ((Q K^T) * pair) V + read * (Q S);  S' = carry * S + K^T (write * V).
    Memory grows with T (L + Dk Dv / L) instead of T Dk Dv. A single token uses the step.
    Source: arXiv:2401.04658, section 3.2; arXiv:2405.21060, section 6. Tested against:
    `decayed_attention_plain`, outputs and gradients.
    """
    dtype, (batch, length, heads, _) = v.dtype, v.shape
    constant = log_decay.shape[1] == 1
    q, k, v, log_decay, memory = _begin(q, k, v, log_decay, state)
    if lengths is not None:  # padding keeps everything and writes nothing
        padding = ~is_real(lengths, length).unsqueeze(-1)
        log_decay = log_decay.masked_fill(padding, 0.0)
        k = k.masked_fill(padding.unsqueeze(-1), 0.0)
        v = v.masked_fill(padding.unsqueeze(-1), 0.0)
        constant = False
    if length == 1:
        out, memory = decayed_attention_step(q[:, 0], k[:, 0], v[:, 0], log_decay[:, 0], memory)
        return out.unsqueeze(1).to(dtype), memory
    chunk = min(chunk, length)
    if documents is not None or length % chunk or not constant:
        log_decay = log_decay.expand(batch, length, heads)
    kv_heads, groups = k.shape[2], heads // k.shape[2]
    with torch.autocast(v.device.type, enabled=False):
        decays = chunk_decays(log_decay, documents, chunk)
        q, k, v = (into_chunks(x, chunk) for x in (q, k, v))  # (B, K or H, N, L, D)
        v = v.unflatten(1, (kv_heads, groups)).transpose(2, 3)  # (B, K, N, G, L, Dv)
        pair, read, write, carry = (
            share.unflatten(1, (kv_heads, groups)).transpose(2, 3)  # (B, K, N, G, ...)
            for share in (decays.pair, decays.read, decays.write, decays.carry)
        )
        within = ((q @ k.transpose(-1, -2)).unsqueeze(3) * pair) @ v  # (B, K, N, G, L, Dv)
        written = (write.unsqueeze(-1) * v).transpose(3, 4).flatten(4)  # (B, K, N, L, G Dv)
        written = (k.transpose(-1, -2) @ written).unflatten(
            -1, (groups, -1)
        )  # (B, K, N, Dk, G, Dv)
        memory = memory.unflatten(1, (kv_heads, groups)).transpose(2, 3)  # (B, K, Dk, G, Dv)
        before = []
        kept = carry[:, :, :, None, :, None].expand(-1, -1, written.shape[2], -1, -1, -1)
        # unbind, for its gradient is one stack; an index's is a whole array of zeros a chunk
        for new, share in zip(written.unbind(2), kept.unbind(2), strict=True):
            before.append(memory)
            memory = torch.addcmul(new, share, memory)
        across = (q @ torch.stack(before, 2).flatten(4)).unflatten(-1, (groups, -1))
        out = torch.addcmul(within, read.unsqueeze(-1), across.transpose(3, 4))
        out = from_chunks(out.transpose(2, 3).flatten(1, 2), length)
    return out.to(dtype), memory.transpose(2, 3).flatten(1, 2)


def _begin(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The inputs in the dtype of the sums, with a default state."""
    q, k, v, log_decay = wide(q), wide(k), wide(v), wide(log_decay)
    if state is None:
        state = v.new_zeros(v.shape[0], v.shape[-2], k.shape[-1], v.shape[-1])
    return q, k, v, log_decay, wide(state)
