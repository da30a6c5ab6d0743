"""RWKV-7's generalized delta rule: a matrix state with a decay per channel and a rank-one
correction.

With column vectors and S of (Dk, Dv):

    S_t = diag(e^{w_t}) S_{t-1} + b_t (a_t^T S_{t-1}) + k_t v_t^T        y_t = S_t^T q_t

The delta rule is the case w = 0, a = k, b = -beta k: the value retrieved by k is replaced by v.
Source: Peng et al., "RWKV-7 Goose", arXiv:2503.14456, section 4 (their state is the transpose).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.ops.chunks import from_chunks, into_chunks, is_real, wide
from glassbox.ops.scan import document_starts

CHUNK = 32
"""Tokens per chunk of the chunked form."""


def generalized_delta_plain(
    q: Float[Tensor, "B T H Dk"],
    k: Float[Tensor, "B T H Dk"],
    v: Float[Tensor, "B T H Dv"],
    log_decay: Float[Tensor, "B T H Dk"],
    a: Float[Tensor, "B T H Dk"],
    b: Float[Tensor, "B T H Dk"],
    state: Float[Tensor, "B H Dk Dv"] | None = None,
    *,
    documents: Int[Tensor, "B T"] | None = None,
    lengths: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T H Dv"], Float[Tensor, "B H Dk Dv"]]:
    """The recurrence token by token; returns y and the last state.

    S is initialized to `state` (zero if None) and reset where `documents` changes along a row.
    Tokens from `lengths` on are padding: they leave S unchanged, and their outputs are undefined.
    Computed in float32 or wider; y has v's dtype. Tested against: the paper's recurrence written
    with explicit matrices.
    """
    dtype = v.dtype
    q, k, v, log_decay, a, b, state = _begin(q, k, v, log_decay, a, b, state, lengths)
    starts = None if documents is None else document_starts(documents)
    outputs = []
    for t in range(q.shape[1]):
        if starts is not None:
            state = state.masked_fill(starts[:, t, None, None, None], 0.0)
        y, state = generalized_delta_step(
            q[:, t], k[:, t], v[:, t], log_decay[:, t], a[:, t], b[:, t], state
        )
        outputs.append(y)
    return torch.stack(outputs, 1).to(dtype), state


def _begin(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, ...]:
    """The inputs in the dtype of the sums, with a default state and padding that writes nothing."""
    q, k, v, log_decay, a, b = (wide(part) for part in (q, k, v, log_decay, a, b))
    if lengths is not None:
        padding = ~is_real(lengths, q.shape[1])[:, :, None, None]
        k, b, log_decay = (part.masked_fill(padding, 0.0) for part in (k, b, log_decay))
    if state is None:
        state = q.new_zeros(q.shape[0], *q.shape[2:], v.shape[-1])
    return q, k, v, log_decay, a, b, wide(state)


def generalized_delta_step(
    q: Float[Tensor, "B H Dk"],
    k: Float[Tensor, "B H Dk"],
    v: Float[Tensor, "B H Dv"],
    log_decay: Float[Tensor, "B H Dk"],
    a: Float[Tensor, "B H Dk"],
    b: Float[Tensor, "B H Dk"],
    state: Float[Tensor, "B H Dk Dv"],
) -> tuple[Float[Tensor, "B H Dv"], Float[Tensor, "B H Dk Dv"]]:
    """One step of the recurrence: the output, and the new state."""
    recalled = a.unsqueeze(-2) @ state  # (B, H, 1, Dv)
    faded = torch.exp(log_decay).unsqueeze(-1) * state
    state = faded + b.unsqueeze(-1) * recalled + k.unsqueeze(-1) * v.unsqueeze(-2)
    return (q.unsqueeze(-2) @ state).squeeze(-2), state


def generalized_delta(
    q: Float[Tensor, "B T H Dk"],
    k: Float[Tensor, "B T H Dk"],
    v: Float[Tensor, "B T H Dv"],
    log_decay: Float[Tensor, "B T H Dk"],
    a: Float[Tensor, "B T H Dk"],
    b: Float[Tensor, "B T H Dk"],
    state: Float[Tensor, "B H Dk Dv"] | None = None,
    *,
    documents: Int[Tensor, "B T"] | None = None,
    lengths: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T H Dv"], Float[Tensor, "B H Dk Dv"]]:
    """`generalized_delta_plain`, chunk by chunk: matrix products within a chunk, the state from one
    chunk to the next.

    With G_t the sum of log_decay from the chunk's first token to t, q'_t = q_t e^{G_t}, a'_t = a_t
    e^{G_{t-1}}, k'_s = k_s e^{-G_s}, b'_s = b_s e^{-G_s}, and u_t = S_{t-1}^T a_t the value
    retrieved at t, the rows of a chunk satisfy

        U = (I - tril(A' B'^T, -1))^{-1} (A' S_0 + tril(A' K'^T, -1) V)
        Y = Q' S_0 + tril(Q' K'^T) V + tril(Q' B'^T) U
        S = diag(e^G) (S_0 + K'^T V + B'^T U)

    so everything except S_0 is one batch of matrix products over all chunks. log_decay must not be
    below -80 / CHUNK = -2.5 (RWKV-7's is above -0.61), or e^{-G} overflows float32. A single token
    uses the step. Tested against: `generalized_delta_plain`, outputs and gradients.
    """
    dtype = v.dtype
    q, k, v, log_decay, a, b, state = _begin(q, k, v, log_decay, a, b, state, lengths)
    with torch.autocast(q.device.type, enabled=False):
        if q.shape[1] == 1:
            y, state = generalized_delta_step(
                q[:, 0], k[:, 0], v[:, 0], log_decay[:, 0], a[:, 0], b[:, 0], state
            )
            return y.unsqueeze(1).to(dtype), state
        y, state = _chunked(q, k, v, log_decay, a, b, state, documents)
    return y.to(dtype), state


def _chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    documents: Tensor | None,
) -> tuple[Tensor, Tensor]:
    length, size = q.shape[1], min(CHUNK, q.shape[1])
    q, k, v, log_decay, a, b = (into_chunks(part, size) for part in (q, k, v, log_decay, a, b))
    inclusive = torch.ones(size, size, dtype=torch.bool, device=q.device).tril()
    if documents is not None:
        starts = into_chunks(document_starts(documents)[:, :, None, None].long(), size)
        begun = starts.cumsum(-2)  # documents begun within the chunk, (B, 1, chunks, size, 1)
        inclusive = inclusive & (begun == begun.mT)
    # G, (B, H, chunks, size, Dk): summed anew from each document's start, or one's roundings would
    # reach the next
    decayed = (
        log_decay.cumsum(-2) if documents is None else inclusive.to(log_decay.dtype) @ log_decay
    )
    total, grow = decayed[..., -1:, :], torch.exp(-decayed)
    q, a = q * torch.exp(decayed), a * torch.exp(decayed - log_decay)
    k_grown, b_grown = k * grow, b * grow
    to_end = torch.exp(total - decayed)
    k_end, b_end = k * to_end, b * to_end
    kept = torch.exp(total).mT  # what the chunk leaves of S_0, (B, H, chunks, Dk, 1)

    q_first, a_first = q, a
    if documents is not None:
        first, last = begun == 0, begun == begun[..., -1:, :]
        q_first, a_first = q * first, a * first
        k_end, b_end = k_end * last, b_end * last
        kept = kept * first[..., -1:, :]
    strict = inclusive.tril(-1)

    identity = torch.eye(size, dtype=q.dtype, device=q.device)
    right = torch.cat((a_first, (a @ k_grown.mT * strict) @ v), -1)
    solved = torch.linalg.solve_triangular(
        identity - a @ b_grown.mT * strict, right, upper=False, unitriangular=True
    )
    from_state, from_values = solved.split((a.shape[-1], v.shape[-1]), -1)
    added = k_end.mT @ v
    befores, recalls = [], []
    # unbind, for its gradient is one stack; an index's is a whole array of zeros a chunk
    parts = (part.unbind(2) for part in (from_state, from_values, added, b_end, kept))
    for reading, value, new, written, share in zip(*parts, strict=True):
        befores.append(state)
        recalls.append(reading @ state + value)
        state = share * state + new + written.mT @ recalls[-1]
    y = q_first @ torch.stack(befores, 2)
    y = (
        y
        + (q @ k_grown.mT * inclusive) @ v
        + (q @ b_grown.mT * inclusive) @ torch.stack(recalls, 2)
    )
    return from_chunks(y, length), state
