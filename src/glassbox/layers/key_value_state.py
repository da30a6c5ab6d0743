"""KV caches: of all tokens so far, or of a sliding window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassbox.layers.context import Context
from glassbox.layers.state import RowState
from glassbox.ops.attention import attention
from glassbox.ops.block_attention import QueryKeyPositions


@dataclass(frozen=True)
class AttendedKeys:
    """The keys and values that the queries of one call attend to.

    in_order: query i stands at key i + S - T, as `ops.attention` has it; a window needs that.
    positions: positions of queries and keys where they do not.
    """

    keys: Float[Tensor, "B K S Dh"]
    values: Float[Tensor, "B K S Dh"]
    mask: Bool[Tensor, "#B 1 T S"] | None
    in_order: bool
    positions: QueryKeyPositions | None


class Scoring(TypedDict):
    """How attention scores are computed from queries and keys: arguments of `KeyValueView.attend`."""

    scale: float | None
    window: int | None
    softcap: float | None
    sinks: Float[Tensor, " H"] | None
    slopes: Float[Tensor, " H"] | None


class KeyValueView:
    """What queries attend to: the call's own keys and values, and whatever a state has before them."""

    def attended(
        self, keys: Float[Tensor, "B K T Dh"], values: Float[Tensor, "B K T Dh"], context: Context
    ) -> AttendedKeys:
        """Without a past: the call's own, each query those up to itself in its document."""
        return AttendedKeys(keys, values, context.mask(), True, None)

    def attend(
        self,
        q: Float[Tensor, "B H T Dh"],
        keys: Float[Tensor, "B K T Dh"],
        values: Float[Tensor, "B K T Dh"],
        context: Context,
        *,
        scale: float | None = None,
        window: int | None = None,
        softcap: float | None = None,
        sinks: Float[Tensor, " H"] | None = None,
        slopes: Float[Tensor, " H"] | None = None,
    ) -> Float[Tensor, "B H T Dh"]:
        """`ops.attention.attention` of these queries over the keys that they may attend to."""
        seen = self.attended(keys, values, context)
        return attention(
            q,
            seen.keys.to(q.dtype),
            seen.values.to(q.dtype),
            seen.mask,
            scale=scale,
            window=window if seen.in_order else None,
            softcap=softcap,
            sinks=sinks,
            slopes=slopes,
            positions=seen.positions,
            hides_future=seen.in_order,
        )


NO_PAST = KeyValueView()


class KeyValueState(RowState, KeyValueView):
    """Keys and values of the tokens so far, one slot a position, preallocated and written in place.

    Slot = position, so rows of unequal length need no padding on the left: a row's padding is
    written behind its end, where no query looks, and overwritten as the row grows.
    """

    kept = ("keys", "values")

    def __init__(
        self,
        batch_size: int,
        num_kv_heads: int,
        max_length: int,
        head_dim: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (batch_size, num_kv_heads, max_length, head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)

    def update(
        self, keys: Float[Tensor, "B K T Dh"], values: Float[Tensor, "B K T Dh"], context: Context
    ) -> tuple[Float[Tensor, "B K S Dh"], Float[Tensor, "B K S Dh"]]:
        """Write this call's keys and values at their positions; return all slots up to key_length."""
        assert context.key_length is not None
        assert context.key_length <= self.keys.shape[2], "the state is shorter than the sequence"
        keys, values = keys.to(self.keys.dtype), values.to(self.values.dtype)
        if context.positions.shape[0] == 1:  # all rows at the same positions
            self.keys.index_copy_(2, context.positions[0], keys)
            self.values.index_copy_(2, context.positions[0], values)
        else:
            index = context.positions[:, None, :, None].expand_as(keys)
            self.keys.scatter_(2, index, keys)
            self.values.scatter_(2, index, values)
        return self.keys[:, :, : context.key_length], self.values[:, :, : context.key_length]

    def attended(
        self, keys: Float[Tensor, "B K T Dh"], values: Float[Tensor, "B K T Dh"], context: Context
    ) -> AttendedKeys:
        """`update`, and what this call's queries may look at: the slots up to their own."""
        keys, values = self.update(keys, values, context)
        if context.in_order:
            return AttendedKeys(keys, values, None, True, None)
        slots = torch.arange(keys.shape[2], device=keys.device).unsqueeze(0)
        return AttendedKeys(keys, values, context.mask(), False, (context.positions, slots))


class WindowState(RowState, KeyValueView):
    """Keys and values of the last `window` tokens of each row, in a ring: slot = position % window.

    Its size does not grow with the length. What a slot holds follows from the row's position alone,
    so nothing else is kept: before a call at position p, slot s holds the last position before p
    that leaves the rest s, where there is one.
    """

    kept = ("keys", "values")

    def __init__(
        self,
        batch_size: int,
        num_kv_heads: int,
        window: int,
        head_dim: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (batch_size, num_kv_heads, window, head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)

    def attended(
        self, keys: Float[Tensor, "B K T Dh"], values: Float[Tensor, "B K T Dh"], context: Context
    ) -> AttendedKeys:
        """Take in this call's real tokens; return what they may look at.

        One token looks at the ring, in the ring's order. Several look at the ring unrolled, oldest
        first, and themselves behind it; where nothing came before, at themselves alone.
        """
        keys, values = keys.to(self.keys.dtype), values.to(self.values.dtype)
        length, window = keys.shape[2], self.keys.shape[2]
        first = context.positions[:, :1]  # (B or 1, 1)
        if length > 1 and context.in_order:
            seen = AttendedKeys(keys, values, None, True, None)
        elif length > 1:
            order = (first + torch.arange(window, device=first.device)) % window
            past_keys, past_values = _gather(self.keys, order), _gather(self.values, order)
            place = torch.arange(-window, length, device=first.device)
            mask = (first + place >= 0)[:, None, None].expand(-1, 1, length, -1)
            seen = AttendedKeys(
                torch.cat((past_keys, keys), dim=2),
                torch.cat((past_values, values), dim=2),
                mask,
                True,
                None,
            )
        self._write(keys, values, first, context.lengths)
        if length > 1:
            return seen
        slots = torch.arange(window, device=first.device)
        held = first - (first - slots) % window  # the position in each slot, now
        mask = (held >= 0)[:, None, None]
        return AttendedKeys(self.keys, self.values, mask, False, (first, held))

    def _write(
        self, keys: Tensor, values: Tensor, first: Tensor, lengths: Int[Tensor, " B"] | None
    ) -> None:
        """Into each slot the last real token of this call that belongs there; the rest stays."""
        length, window = keys.shape[2], self.keys.shape[2]
        if length == 1:
            slot = first % window
            for ring, new in ((self.keys, keys), (self.values, values)):
                if lengths is not None:
                    rests = (lengths == 0)[:, None, None, None]
                    new = torch.where(rests, _gather(ring, slot), new)
                ring.scatter_(2, slot[:, None, :, None].expand_as(new), new)
            return
        real = torch.full_like(first, length) if lengths is None else lengths
        last = real.view(-1, 1) - 1  # the last real token's number in the call
        slots = torch.arange(window, device=first.device)
        token = last - (first + last - slots) % window  # (B or 1, W), negative where none is new
        is_new, token = (token >= 0)[:, None, :, None], token.clamp(min=0)
        self.keys = torch.where(is_new, _gather(keys, token), self.keys)
        self.values = torch.where(is_new, _gather(values, token), self.values)


def _gather(x: Float[Tensor, "B K T Dh"], index: Int[Tensor, "#B W"]) -> Float[Tensor, "B K W Dh"]:
    """Of each row the tokens of these numbers, in their order."""
    if index.shape[0] == 1:
        return x.index_select(2, index[0])
    wide = index[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])
    return x.gather(2, wide)
