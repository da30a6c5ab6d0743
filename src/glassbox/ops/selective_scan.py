"""Mamba's selective scan: a diagonal state-space model whose step size, input and output depend on
the token.

Channel i of the input drives N states:

    h_t = exp(delta_t a_i) h_{t-1} + delta_t x_t b_t        y_t = c_t . h_t

Source: Gu and Dao, "Mamba", arXiv:2312.00752, section 3.2 and algorithm 2 (with their simplified
discretization of b).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from glassbox.ops.chunks import is_real, wide
from glassbox.ops.scan import document_starts

CHUNK = 16
"""Time steps whose states exist at once: (B, CHUNK, I, N)."""


def selective_scan_plain(
    x: Float[Tensor, "B T I"],
    delta: Float[Tensor, "B T I"],
    a: Float[Tensor, "I N"],
    b: Float[Tensor, "B T N"],
    c: Float[Tensor, "B T N"],
    state: Float[Tensor, "B I N"] | None = None,
    *,
    documents: Int[Tensor, "B T"] | None = None,
    lengths: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T I"], Float[Tensor, "B I N"]]:
    """The scan token by token; returns y and the last state.

    The state is initialized to `state` (zero if None) and reset where `documents` changes along a
    row. Tokens from `lengths` on are padding: delta = 0, so that they leave the state unchanged.
    Computed in float32 or wider; y has x's dtype. Tested against: transformers MambaMixer.
    """
    dtype = x.dtype
    x, delta, a, b, c, state = _begin(x, delta, a, b, c, state, lengths)
    starts = None if documents is None else document_starts(documents)
    outputs = []
    for t in range(x.shape[1]):
        if starts is not None:
            state = state.masked_fill(starts[:, t, None, None], 0.0)
        y, state = selective_scan_step(x[:, t], delta[:, t], a, b[:, t], c[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, 1).to(dtype), state


def _begin(
    x: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    state: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, ...]:
    """The inputs in the dtype of the sums, with a default state and step sizes of zero for padding."""
    x, delta, a, b, c = (wide(part) for part in (x, delta, a, b, c))
    if lengths is not None:
        delta = delta.masked_fill(~is_real(lengths, x.shape[1]).unsqueeze(-1), 0.0)
    state = x.new_zeros(x.shape[0], *a.shape) if state is None else wide(state)
    return x, delta, a, b, c, state


def selective_scan_step(
    x: Float[Tensor, "B I"],
    delta: Float[Tensor, "B I"],
    a: Float[Tensor, "I N"],
    b: Float[Tensor, "B N"],
    c: Float[Tensor, "B N"],
    state: Float[Tensor, "B I N"],
) -> tuple[Float[Tensor, "B I"], Float[Tensor, "B I N"]]:
    """One step of the recurrence: the output, and the new state."""
    decay = torch.exp(delta.unsqueeze(-1) * a)
    state = decay * state + (delta * x).unsqueeze(-1) * b.unsqueeze(1)
    return (state @ c.unsqueeze(-1)).squeeze(-1), state


def selective_scan(
    x: Float[Tensor, "B T I"],
    delta: Float[Tensor, "B T I"],
    a: Float[Tensor, "I N"],
    b: Float[Tensor, "B T N"],
    c: Float[Tensor, "B T N"],
    state: Float[Tensor, "B I N"] | None = None,
    *,
    documents: Int[Tensor, "B T"] | None = None,
    lengths: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T I"], Float[Tensor, "B I N"]]:
    """`selective_scan_plain` with the states of one chunk in memory at a time.

    The forward pass saves the state at each chunk's start; the backward pass processes the chunks
    from the end and recomputes their states. A single token uses the step. First derivatives only.
    Tested against: `selective_scan_plain`, outputs and gradients.
    """
    dtype = x.dtype
    x, delta, a, b, c, state = _begin(x, delta, a, b, c, state, lengths)
    with torch.autocast(x.device.type, enabled=False):
        if x.shape[1] == 1:
            y, state = selective_scan_step(x[:, 0], delta[:, 0], a, b[:, 0], c[:, 0], state)
            return y.unsqueeze(1).to(dtype), state
        starts = None if documents is None else document_starts(documents)
        y, state = _SelectiveScan.apply(x, delta, a, b, c, state, starts)
    return y.to(dtype), state


def _chunk_states(
    x: Tensor, delta: Tensor, a: Tensor, b: Tensor, start: Tensor, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Decays and states of one chunk, time first: (L, B, I, N) each."""
    decay = (delta.unsqueeze(-1) * a).exp_()
    if starts is not None:
        decay.masked_fill_(starts[..., None, None], 0.0)
    states = (delta * x).unsqueeze(-1) * b.unsqueeze(2)
    before = start
    for decay_t, state_t in zip(decay.unbind(0), states.unbind(0), strict=True):
        before = state_t.addcmul_(decay_t, before)
    return decay, states


class _SelectiveScan(torch.autograd.Function):
    """With g_t the gradient of h_t: g_t = grad_t c_t + decay_{t+1} g_{t+1}, from the end.

    e_t = g_t h_{t-1} decay_t is the gradient of delta_t a. Everything here has time first.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: Tensor,
        delta: Tensor,
        a: Tensor,
        b: Tensor,
        c: Tensor,
        state: Tensor,
        starts: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        x, delta, b, c = (part.transpose(0, 1) for part in (x, delta, b, c))
        starts = None if starts is None else starts.t()
        y, chunk_starts = torch.empty_like(x), []
        for begin in range(0, x.shape[0], CHUNK):
            part = slice(begin, begin + CHUNK)
            chunk_starts.append(state)
            resets = None if starts is None else starts[part]
            _, states = _chunk_states(x[part], delta[part], a, b[part], state, resets)
            torch.matmul(states, c[part].unsqueeze(-1), out=y[part].unsqueeze(-1))
            state = states[-1].clone()  # a view would keep the chunk alive
        kept = (x, delta, a, b, c, starts, torch.stack(chunk_starts))
        ctx.save_for_backward(*kept)  # type: ignore[arg-type]
        return y.transpose(0, 1), state

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad_y: Tensor, grad_state: Tensor):  # type: ignore[no-untyped-def]
        x, delta, a, b, c, starts, chunk_starts = ctx.saved_tensors  # type: ignore[attr-defined]
        grad_y = grad_y.transpose(0, 1)
        grads = [torch.empty_like(part) for part in (x, delta, b, c)]
        grad_a, carried = torch.zeros_like(a), grad_state
        for index in reversed(range(len(chunk_starts))):
            part = slice(index * CHUNK, (index + 1) * CHUNK)
            x_part, delta_part, b_part, c_part = x[part], delta[part], b[part], c[part]
            resets = None if starts is None else starts[part]
            start = chunk_starts[index]
            decay, states = _chunk_states(x_part, delta_part, a, b_part, start, resets)
            grad_part = grad_y[part].unsqueeze(-1)
            g = grad_part * c_part.unsqueeze(2)
            g[-1] += carried
            for t in range(len(g) - 2, -1, -1):
                g[t].addcmul_(decay[t + 1], g[t + 1])
            carried = decay[0] * g[0]
            scaled = (delta_part * x_part).unsqueeze(-2)
            through_b = (g @ b_part.unsqueeze(-1)).squeeze(-1)
            grads[0][part] = delta_part * through_b
            grads[2][part] = (scaled @ g).squeeze(-2)
            grads[3][part] = (grad_part.mT @ states).squeeze(-2)
            e = decay.mul_(g)
            e[0] *= start
            e[1:] *= states[:-1]
            grads[1][part] = (e * a).sum(-1).addcmul_(x_part, through_b)
            grad_a += (e * delta_part.unsqueeze(-1)).sum((0, 1))
        grad_x, grad_delta, grad_b, grad_c = (grad.transpose(0, 1) for grad in grads)
        return grad_x, grad_delta, grad_a, grad_b, grad_c, carried, None
