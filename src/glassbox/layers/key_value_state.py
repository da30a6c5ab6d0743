"""KV caches: for all tokens so far, or for a sliding window."""

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

    in_order: query i has the position of key i + S - T, as in `ops.attention`; required for a
        window.
    positions: positions of queries and keys, if they are not in order.
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
    """The keys and values that queries attend to: the call's own, and those cached by a state."""

    def attended(
        self, keys: Float[Tensor, "B K T Dh"], values: Float[Tensor, "B K T Dh"], context: Context
    ) -> AttendedKeys:
        """Without a past: the call's own keys; each query attends to those up to itself in its
        document.
        """
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
        """Apply `ops.attention.attention` to these queries and the keys that they may attend to."""
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
    """Keys and values of the tokens so far, one slot per position, preallocated and written in
    place.

    Since slots equal positions, rows of unequal length need no left padding: a row's padding is
    written after its end, where no query attends, and is overwritten as the row grows.
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
        """`update`, and return what this call's queries may attend to: the slots up to their own."""
        keys, values = self.update(keys, values, context)
        if context.in_order:
            return AttendedKeys(keys, values, None, True, None)
        slots = torch.arange(keys.shape[2], device=keys.device).unsqueeze(0)
        return AttendedKeys(keys, values, context.mask(), False, (context.positions, slots))


class WindowState(RowState, KeyValueView):
    """Keys and values of the last `window` tokens of each row, in a ring buffer: slot = position %
    window.

    Its size does not depend on the length. The content of a slot follows from the row's position:
    before a call at position p, slot s holds the last position before p that is congruent to s, if
    there is one.
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
        """Store this call's tokens, without padding; return what they may attend to.

        A single token attends to the ring, in the order of its slots. Several attend to the ring
        unrolled, oldest first, followed by themselves; or to themselves only if there is no past.
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
        """Write to each slot the last token of this call that belongs there; other slots are
        unchanged.
        """
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
    """Select tokens of each row by index, in order."""
    if index.shape[0] == 1:
        return x.index_select(2, index[0])
    wide = index[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])
    return x.gather(2, wide)
