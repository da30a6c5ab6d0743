"""RWKV-4's WKV: an average of the values, weighted by e^key and decaying over time.

    wkv_t = (sum_{s<t} e^{(t-1-s) w + k_s} v_s + e^{u+k_t} v_t)
          / (sum_{s<t} e^{(t-1-s) w + k_s}     + e^{u+k_t}    )

for independent channels, with w < 0 the decay and u a bonus for the current token. Keys are
unbounded, so both sums are stored divided by e^m, with m the largest exponent in them.
Source: Peng et al., "RWKV", arXiv:2305.13048, section 3.1.1 and appendix D.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.ops.chunks import wide
from glassbox.ops.scan import document_starts, linear_scan


class WkvState(NamedTuple):
    """The two sums after the last token, each to be multiplied by e^largest."""

    numerator: Float[Tensor, "B C"]
    denominator: Float[Tensor, "B C"]
    largest: Float[Tensor, "B C"]


def wkv_state(like: Float[Tensor, "B C"]) -> WkvState:
    """An empty state: sums of zero with the largest exponent minus infinity."""
    return WkvState(
        torch.zeros_like(like), torch.zeros_like(like), torch.full_like(like, -math.inf)
    )


def wkv_step(
    decay: Float[Tensor, " C"],
    bonus: Float[Tensor, " C"],
    key: Float[Tensor, "B C"],
    value: Float[Tensor, "B C"],
    state: WkvState,
) -> tuple[Float[Tensor, "B C"], WkvState]:
    """One step of the recurrence: the output, and the new state."""
    numerator, denominator, largest = state
    top = torch.maximum(largest, bonus + key)
    past, now = torch.exp(largest - top), torch.exp(bonus + key - top)
    output = (past * numerator + now * value) / (past * denominator + now)
    top = torch.maximum(largest + decay, key)
    past, now = torch.exp(largest + decay - top), torch.exp(key - top)
    return output, WkvState(past * numerator + now * value, past * denominator + now, top)


def wkv_plain(
    decay: Float[Tensor, " C"],
    bonus: Float[Tensor, " C"],
    key: Float[Tensor, "B T C"],
    value: Float[Tensor, "B T C"],
    state: WkvState | None = None,
    *,
    documents: Int[Tensor, "B T"] | None = None,
    lengths: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T C"], WkvState]:
    """The recurrence token by token; returns all outputs and the last state.

    The sums are initialized to `state` (empty if None) and reset where `documents` changes along a
    row. Tokens from `lengths` on are padding: they are not part of the state, and their outputs are
    undefined. Computed in float32 or wider; the output has value's dtype. Tested against:
    transformers RwkvModel.
    """
    dtype = value.dtype
    decay, bonus, key, value = (wide(part) for part in (decay, bonus, key, value))
    empty = wkv_state(key[:, 0])
    state = empty if state is None else WkvState(*map(wide, state))
    starts = None if documents is None else document_starts(documents)
    outputs = []
    for t in range(key.shape[1]):
        if starts is not None:
            fresh = starts[:, t, None]
            state = WkvState(*(torch.where(fresh, e, s) for e, s in zip(empty, state, strict=True)))
        output, after = wkv_step(decay, bonus, key[:, t], value[:, t], state)
        outputs.append(output)
        if lengths is not None:
            real = (t < lengths).unsqueeze(-1)
            after = WkvState(*(torch.where(real, a, s) for a, s in zip(after, state, strict=True)))
        state = after
    return torch.stack(outputs, 1).to(dtype), state


def wkv(
    decay: Float[Tensor, " C"],
    bonus: Float[Tensor, " C"],
    key: Float[Tensor, "B T C"],
    value: Float[Tensor, "B T C"],
    state: WkvState | None = None,
    *,
    documents: Int[Tensor, "B T"] | None = None,
    lengths: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T C"], WkvState]:
    """`wkv_plain` as two linear scans over chunks.

    The exponents m_t = max(m_{t-1} + w, k_t) are computed first. With them the sums are linear
    scans with decays e^{m_{t-1} + w - m_t} <= 1; since m cancels in the quotient, it needs no
    gradient. A single token uses the step. First derivatives only. Tested against: `wkv_plain`,
    outputs and gradients.
    """
    dtype = value.dtype
    decay, bonus, key, value = (wide(part) for part in (decay, bonus, key, value))
    state = wkv_state(key[:, 0]) if state is None else WkvState(*map(wide, state))
    if key.shape[1] == 1:
        output, after = wkv_step(decay, bonus, key[:, 0], value[:, 0], state)
        return output.unsqueeze(1).to(dtype), _last(after, state, lengths)
    fades: Tensor = decay
    starts = None if documents is None else document_starts(documents).unsqueeze(-1)
    if starts is not None:
        fades = decay.expand_as(key).masked_fill(starts, -math.inf)
    with torch.no_grad():
        largest = _running_maximum(fades.expand_as(key), key, state.largest)
        before = torch.cat((state.largest.unsqueeze(1), largest[:, :-1]), 1)
    past, now = torch.exp(before + fades - largest), torch.exp(key - largest)
    numerators = linear_scan(past, now * value, state.numerator)
    denominators = linear_scan(past, now, state.denominator)

    if starts is not None:
        before = before.masked_fill(starts, -math.inf)
    boosted = bonus + key
    top = torch.maximum(before, boosted.detach())
    past, now = torch.exp(before - top), torch.exp(boosted - top)
    numerator = torch.cat((state.numerator.unsqueeze(1), numerators[:, :-1]), 1)
    denominator = torch.cat((state.denominator.unsqueeze(1), denominators[:, :-1]), 1)
    output = (past * numerator + now * value) / (past * denominator + now)

    if lengths is None:
        after = WkvState(numerators[:, -1], denominators[:, -1], largest[:, -1])
    else:
        rows, ends = torch.arange(len(key), device=key.device), (lengths - 1).clamp(min=0)
        after = WkvState(*(part[rows, ends] for part in (numerators, denominators, largest)))
    return output.to(dtype), _last(after, state, lengths)


def _last(after: WkvState, state: WkvState, lengths: Tensor | None) -> WkvState:
    """The state after a call; rows with only padding keep theirs."""
    if lengths is None:
        return after
    real = (lengths > 0).unsqueeze(-1)
    return WkvState(*(torch.where(real, a, s) for a, s in zip(after, state, strict=True)))


def _running_maximum(
    shift: Float[Tensor, "B T C"], key: Float[Tensor, "B T C"], initial: Float[Tensor, "B C"]
) -> Float[Tensor, "B T C"]:
    """m_t = max(m_{t-1} + shift_t, key_t): a scan over chunks, as `linear_scan` in logarithms."""
    batch, length, channels = key.shape
    size = max(1, math.isqrt(length))
    number = -(-length // size)
    missing = number * size - length
    if missing:
        shift = torch.cat((shift, shift.new_zeros(batch, missing, channels)), 1)
        key = torch.cat((key, key.new_full((batch, missing, channels), -math.inf)), 1)
    shift, key = (part.reshape(batch, number, size, channels) for part in (shift, key))
    local, total = torch.empty_like(key), shift.cumsum(2)
    local[:, :, 0] = key[:, :, 0]
    for step in range(1, size):
        faded = local[:, :, step - 1] + shift[:, :, step]
        torch.maximum(faded, key[:, :, step], out=local[:, :, step])
    starts = [initial]
    for chunk in range(number - 1):
        starts.append(torch.maximum(starts[-1] + total[:, chunk, -1], local[:, chunk, -1]))
    result = torch.maximum(local, total.add_(torch.stack(starts, 1).unsqueeze(2)))
    return result.reshape(batch, number * size, channels)[:, :length]
