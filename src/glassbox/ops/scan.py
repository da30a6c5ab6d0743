"""First-order linear scans, h_t = a_t h_{t-1} + b_t for independent channels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable


def document_starts(documents: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """True at the first token of each document but the row's first.

    >>> document_starts(torch.tensor([[7, 7, 3]])).tolist()
    [[False, False, True]]
    """
    return F.pad(documents[:, 1:] != documents[:, :-1], (1, 0))


def linear_scan_plain(
    decay: Float[Tensor, "B T C"], added: Float[Tensor, "B T C"], initial: Float[Tensor, "B C"]
) -> Float[Tensor, "B T C"]:
    """All h_t of h_t = decay_t * h_{t-1} + added_t with h_{-1} = initial, one step after the other.

    >>> ones = torch.ones(1, 3, 1)
    >>> linear_scan_plain(0.5 * ones, ones, torch.zeros(1, 1)).flatten().tolist()
    [1.0, 1.5, 1.75]
    """
    state, states = initial, []
    for a, b in zip(decay.unbind(1), added.unbind(1), strict=True):
        state = a * state + b
        states.append(state)
    return torch.stack(states, 1)


class _LinearScan(torch.autograd.Function):
    """The derivative of a scan is a scan from the end: g_t = grad_t + a_{t+1} g_{t+1}."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, decay: Tensor, added: Tensor, initial: Tensor
    ) -> Tensor:
        states = _chunked(decay, added, initial)
        ctx.save_for_backward(decay, states, initial)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor):  # type: ignore[no-untyped-def]
        decay, states, initial = ctx.saved_tensors  # type: ignore[attr-defined]
        later = torch.cat((torch.zeros_like(decay[:, :1]), decay[:, 1:].flip(1)), 1)
        total = _chunked(later, grad.flip(1), torch.zeros_like(initial)).flip(1)
        before = torch.cat((initial.unsqueeze(1), states[:, :-1]), 1)
        return total * before, total, total[:, 0] * decay[:, 0]


def linear_scan(
    decay: Float[Tensor, "B T C"], added: Float[Tensor, "B T C"], initial: Float[Tensor, "B C"]
) -> Float[Tensor, "B T C"]:
    """`linear_scan_plain` in about 2 sqrt(T) steps: within all chunks at once, then from chunk to
    chunk.

    Within a chunk h_t = local_t + (a_1 ... a_t) h_0, where local_t starts from zero, so that
    nothing is divided by a vanishing decay. First derivatives only. Tested against:
    `linear_scan_plain`.
    """
    result: Tensor = _LinearScan.apply(decay, added, initial)
    return result


def _chunked(decay: Tensor, added: Tensor, initial: Tensor) -> Tensor:
    batch, length, channels = added.shape
    size = max(1, math.isqrt(length))
    number = -(-length // size)
    missing = number * size - length
    if missing:
        padding = added.new_zeros(batch, missing, channels)
        decay, added = torch.cat((decay, padding), 1), torch.cat((added, padding), 1)
    decay, added = (part.reshape(batch, number, size, channels) for part in (decay, added))
    local, product = torch.empty_like(added), torch.empty_like(decay)
    local[:, :, 0], product[:, :, 0] = added[:, :, 0], decay[:, :, 0]
    for step in range(1, size):
        here = decay[:, :, step]
        torch.addcmul(added[:, :, step], here, local[:, :, step - 1], out=local[:, :, step])
        torch.mul(here, product[:, :, step - 1], out=product[:, :, step])
    starts = torch.empty_like(local[:, :, 0])  # (B, chunks, *C)
    starts[:, 0] = initial
    for chunk in range(1, number):
        torch.addcmul(
            local[:, chunk - 1, -1],
            product[:, chunk - 1, -1],
            starts[:, chunk - 1],
            out=starts[:, chunk],
        )
    local.addcmul_(product, starts.unsqueeze(2))
    return local.reshape(batch, number * size, channels)[:, :length]
