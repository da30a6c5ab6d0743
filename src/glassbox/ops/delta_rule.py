"""The delta rule: an associative memory that replaces the value stored under a key, with optional
decay.

S' = a_t S_{t-1};  S_t = S' + k_t (b_t (v_t - S'^T k_t))^T;  o_t = S_t^T q_t.

DeltaNet (arXiv:2102.11174, parallel over time arXiv:2406.06484) has a_t = 1; gated DeltaNet
(arXiv:2412.06464) computes a_t = exp(log_decay_t) from the data. b_t in [0, 1] is the fraction of
the old value under k_t that is replaced; keys have unit length, so that b_t = 1 replaces all of it.

Derivation: docs/theory/linear_attention.md.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.ops.chunks import chunk_decays, from_chunks, into_chunks, is_real, wide

CHUNK = 64
"""Tokens per chunk, as `linear_attention.CHUNK`."""


def l2_norm(x: Float[Tensor, "*shape D"], eps: float = 1e-6) -> Float[Tensor, "*shape D"]:
    """Normalize to unit length: x / sqrt(sum x^2 + eps), in float32 or wider."""
    full = wide(x)
    return (full * torch.rsqrt(full.pow(2).sum(-1, keepdim=True) + eps)).to(x.dtype)


def delta_rule_plain(
    q: Float[Tensor, "B T K Dk"],
    k: Float[Tensor, "B T K Dk"],
    v: Float[Tensor, "B T H Dv"],
    beta: Float[Tensor, "B T H"],
    log_decay: Float[Tensor, "B T H"] | None = None,
    state: Float[Tensor, "B H Dk Dv"] | None = None,
    *,
    documents: Int[Tensor, "B T"] | None = None,
    lengths: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T H Dv"], Float[Tensor, "B H Dk Dv"]]:
    """The delta rule token by token; returns the outputs, and the memory S after the last token.

    Value head h uses key head h // (H / K). log_decay <= 0; None: no decay. S is initialized to
    `state` (zero if None) and reset where `documents` changes along a row. Tokens from `lengths` on
    are padding: they leave S unchanged, and their outputs are undefined. q and k are neither scaled
    nor normalized. Computed in float32 or wider; the output has v's dtype, the state that of the
    sums. Tested against: transformers torch_recurrent_gated_delta_rule.
    """
    dtype, length = v.dtype, v.shape[1]
    q, k, v, beta, log_decay, memory = _begin(q, k, v, beta, log_decay, state)
    groups = v.shape[2] // k.shape[2]
    q, k = q.repeat_interleave(groups, 2), k.repeat_interleave(groups, 2)
    outputs = []
    for t in range(length):
        if documents is not None and t > 0:
            same = documents[:, t] == documents[:, t - 1]
            memory = torch.where(same[:, None, None, None], memory, 0.0)
        after = _write(memory, k[:, t], v[:, t], beta[:, t], log_decay[:, t])
        outputs.append((q[:, t].unsqueeze(-1) * after).sum(-2))
        if lengths is not None:
            after = torch.where((t < lengths)[:, None, None, None], after, memory)
        memory = after
    return torch.stack(outputs, 1).to(dtype), memory


def delta_rule_step(
    q: Float[Tensor, "B K Dk"],
    k: Float[Tensor, "B K Dk"],
    v: Float[Tensor, "B H Dv"],
    beta: Float[Tensor, "B H"],
    log_decay: Float[Tensor, "B H"] | None,
    state: Float[Tensor, "B H Dk Dv"],
) -> tuple[Float[Tensor, "B H Dv"], Float[Tensor, "B H Dk Dv"]]:
    """One token: the new state and the output. Tested against: `delta_rule_plain`."""
    dtype = v.dtype
    q, k, v, beta, log_decay, state = _begin(q, k, v, beta, log_decay, state)
    groups = v.shape[1] // k.shape[1]
    q, k = q.repeat_interleave(groups, 1), k.repeat_interleave(groups, 1)
    state = _write(state, k, v, beta, log_decay)
    return (q.unsqueeze(-1) * state).sum(-2).to(dtype), state


def delta_rule(
    q: Float[Tensor, "B T K Dk"],
    k: Float[Tensor, "B T K Dk"],
    v: Float[Tensor, "B T H Dv"],
    beta: Float[Tensor, "B T H"],
    log_decay: Float[Tensor, "B T H"] | None = None,
    state: Float[Tensor, "B H Dk Dv"] | None = None,
    *,
    documents: Int[Tensor, "B T"] | None = None,
    lengths: Int[Tensor, " B"] | None = None,
    chunk: int = CHUNK,
) -> tuple[Float[Tensor, "B T H Dv"], Float[Tensor, "B H Dk Dv"]]:
    """`delta_rule_plain` in chunks: the writes of a chunk are the solution of a triangular system.

    The write of token i, u_i = b_i (v_i - the value that S holds under k_i), depends on the earlier
    writes of its chunk. With A[i, j] = b_i pair[i, j] (k_i . k_j) for j < i:
    (1 + A) U = b V - b read * (K S), solved for b V and for b read K (the WY form) before S is
    known; then O = read * (Q S) + ((Q K^T) * pair) U and S' = carry S + K^T (write * U).
    A single token uses `delta_rule_step`. Source: arXiv:2406.06484, section 3.2; arXiv:2412.06464,
    section 3.3. Tested against: `delta_rule_plain`, transformers torch_chunk_gated_delta_rule,
    outputs and gradients.
    """
    dtype, (length, heads) = v.dtype, v.shape[1:3]
    q, k, v, beta, log_decay, memory = _begin(q, k, v, beta, log_decay, state)
    if lengths is not None:  # padding keeps everything and writes nothing
        padding = ~is_real(lengths, length).unsqueeze(-1)
        log_decay, beta = (x.masked_fill(padding, 0.0) for x in (log_decay, beta))
        k, v = (x.masked_fill(padding.unsqueeze(-1), 0.0) for x in (k, v))
    if length == 1:
        out, memory = delta_rule_step(
            q[:, 0], k[:, 0], v[:, 0], beta[:, 0], log_decay[:, 0], memory
        )
        return out.unsqueeze(1).to(dtype), memory
    chunk = min(chunk, length)
    groups = heads // k.shape[2]
    with torch.autocast(v.device.type, enabled=False):
        decays = chunk_decays(log_decay, documents, chunk)
        q, k, v = (into_chunks(x, chunk) for x in (q, k, v))  # (B, K or H, N, L, D)
        beta = into_chunks(beta.unsqueeze(-1), chunk)  # (B, H, N, L, 1)
        similar = (k @ k.transpose(-1, -2)).repeat_interleave(groups, 1)  # (B, H, N, L, L)
        scores = (q @ k.transpose(-1, -2)).repeat_interleave(groups, 1) * decays.pair
        q, k = q.repeat_interleave(groups, 1), k.repeat_interleave(groups, 1)
        known = (beta * decays.read.unsqueeze(-1)) * k  # what S is asked for
        asked = torch.cat((beta * v, known), -1)
        # the solver reads below the diagonal alone and takes the diagonal to be one
        solved = torch.linalg.solve_triangular(
            beta * similar * decays.pair, asked, upper=False, unitriangular=True
        )
        new, seen = solved.split((v.shape[-1], k.shape[-1]), -1)
        reading = q * decays.read.unsqueeze(-1)
        writing = (k * decays.write.unsqueeze(-1)).transpose(-1, -2)
        outputs = []
        # unbind, for its gradient is one stack; an index's is a whole array of zeros a chunk
        parts = (x.unbind(2) for x in (new, seen, reading, writing, scores, decays.carry))
        for fresh, held, read, write, score, carry in zip(*parts, strict=True):
            written = fresh - held @ memory  # (B, H, L, Dv)
            outputs.append(read @ memory + score @ written)
            memory = carry[..., None, None] * memory + write @ written
        return from_chunks(torch.stack(outputs, 2), length).to(dtype), memory


def _write(memory: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor) -> Tensor:
    """(B, H, Dk, Dv): apply the decay, then replace a fraction beta of the value under the key."""
    memory = log_decay.exp()[..., None, None] * memory
    held = (k.unsqueeze(-1) * memory).sum(-2)  # (B, H, Dv)
    return memory + k.unsqueeze(-1) * (beta.unsqueeze(-1) * (v - held)).unsqueeze(-2)


def _begin(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None, state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The inputs in the dtype of the sums, with defaults for decay and state."""
    q, k, v, beta = wide(q), wide(k), wide(v), wide(beta)
    log_decay = torch.zeros_like(beta) if log_decay is None else wide(log_decay)
    if state is None:
        state = v.new_zeros(v.shape[0], v.shape[-2], k.shape[-1], v.shape[-1])
    return q, k, v, beta, log_decay, wide(state)
