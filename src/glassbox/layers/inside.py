"""Inspection of a mixer's `attend`: its inputs, attention weights and output; used by `inspection`.

A mixer computes queries, keys and values and passes them to `attend`, in which tokens attend to
earlier ones. Given queries and keys the output is linear in the values,

    output[t] = sum over s of weights[t, s] value[s]   (plus a term of the cached past),

so the weights can be computed by applying `attend` to one-hot values. They are recomputed this way
from the same queries and keys, since fused kernels do not store them, and recurrences never compute
them.
Source: for linear attention Katharopoulos et al., arXiv:2006.16236, section 3.2; for Mamba Ali et
al., arXiv:2403.01590, section 3.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from glassbox.layers.key_value_state import AttendedKeys
from glassbox.ops.attention import attention_plain
from glassbox.ops.indexer import choose, chosen_mask
from glassbox.ops.latent import expand
from glassbox.ops.wkv import WkvState

Arguments = dict[str, Any]


class Tap(Protocol):
    """A callback that receives each named value and returns the value to continue with."""

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """Record a value or replace it."""

    def wants(self, name: str) -> bool:
        """Whether this value is requested."""

    def edits(self, name: str) -> bool:
        """Whether this value may be replaced."""

    def changes(self, name: str) -> bool:
        """Whether this value may be replaced or its gradient is requested."""


class Inside:
    """How to inspect the `attend` of one kind of mixer; parts are presented as (B, T, heads, Dh).

    reads: name -> parameter of `attend`. has_state: whether results after the first are a state.
    """

    has_state = True

    def __init__(self, **reads: str) -> None:
        self.reads: Mapping[str, str] = reads

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all values that can be recorded and changed."""
        return (*self.reads, "attention", *(("state",) if self.has_state else ()))

    def around(self, layer: Any, attend: Callable[..., Any], arguments: Arguments, tap: Tap) -> Any:
        """Call `attend`, passing all its inputs and results through the tap."""
        for name, parameter in self.reads.items():
            if tap.wants(name):
                shown = tap(name, self.show(arguments[parameter], arguments))
                if tap.changes(name):
                    arguments[parameter] = self.hide(shown, arguments[parameter], arguments)
        weights = None
        if tap.wants("attention"):
            weights = self.weights(layer, attend, arguments)
        result = attend(**arguments)
        if weights is not None:
            new = tap("attention", weights)
            if tap.changes("attention"):
                long = self.reweighed(layer, result, weights, new, arguments)
                result = long if tap.edits("attention") else _same_bits(result, long)
        if self.has_state and tap.wants("state"):
            result = self.stated(result, tap)
        return result

    def show(self, part: Tensor, arguments: Arguments) -> Float[Tensor, "B T heads Dh"]:
        """Convert an argument of `attend` to the presented layout."""
        return part

    def hide(self, shown: Tensor, part: Tensor, arguments: Arguments) -> Tensor:
        """The inverse of `show`."""
        return shown

    def weights(
        self, layer: Any, attend: Callable[..., Any], arguments: Arguments
    ) -> Float[Tensor, "B H T S"]:
        """The weight of each value in each output."""
        raise NotImplementedError

    def reweighed(
        self, layer: Any, result: Any, old: Tensor, new: Tensor, arguments: Arguments
    ) -> Any:
        """The result with other weights: output + (new - old) values; the contribution of the past
        is unchanged.
        """
        value = self.show(arguments[self.reads["value"]], arguments)
        change = torch.einsum("bhts,bshd->bthd", (new - old).to(value.dtype), value)
        if not isinstance(result, tuple):
            return result + self.hide(change, result, arguments)
        mixed = result[0] + self.hide(change, result[0], arguments).to(result[0].dtype)
        return (mixed, *result[1:])

    def stated(self, result: Any, tap: Tap) -> Any:
        """The result with the state that the tap returns."""
        return (*result[:-1], tap("state", result[-1]))


def _same_bits(result: Any, long: Any) -> Any:
    """The values of `result` with the gradients of `long`, an equal expression computed
    differently.
    """
    if isinstance(result, tuple):
        return (_same_bits(result[0], long[0]), *long[1:])
    return result.detach() + (long - long.detach())


class LinearHeads(Inside):
    """Linear attention and the delta rules: q, k, v (B, T, H, D), and a state (B, H, Dk, Dv)."""

    def __init__(self) -> None:
        super().__init__(query="q", key="k", value="v")

    def weights(
        self, layer: Any, attend: Callable[..., Any], arguments: Arguments
    ) -> Float[Tensor, "B H T T"]:
        """Weights between this call's own tokens."""
        value = arguments["v"]
        length = value.shape[1]
        one_hot = torch.eye(length, device=value.device, dtype=value.dtype)[None, :, None]
        one_hot = one_hot.expand(value.shape[0], -1, value.shape[2], -1)
        read = attend(**{**arguments, "v": one_hot.contiguous(), "state": None})[0]
        return read.transpose(1, 2)


class Channels(Inside):
    """Recurrences of independent channels, values (B, T, C); weights have one head per channel."""

    def show(self, part: Tensor, arguments: Arguments) -> Float[Tensor, "B T 1 C"]:
        """Present the channels as a single head."""
        return part.unsqueeze(2)

    def hide(self, shown: Tensor, part: Tensor, arguments: Arguments) -> Tensor:
        """The inverse of `show`."""
        return shown.squeeze(2)

    def weights(
        self, layer: Any, attend: Callable[..., Any], arguments: Arguments
    ) -> Float[Tensor, "B C T T"]:
        """Weights between this call's own tokens: the contribution of one token's value beyond that
        of the past.
        """
        name = self.reads["value"]
        nothing = torch.zeros_like(arguments[name])
        past = attend(**{**arguments, name: nothing})[0]
        columns = []
        for token in range(nothing.shape[1]):
            one_hot = nothing.index_fill(1, torch.tensor(token, device=nothing.device), 1.0)
            columns.append(attend(**{**arguments, name: one_hot})[0] - past)
        return torch.stack(columns, -1).transpose(1, 2)

    def reweighed(
        self, layer: Any, result: Any, old: Tensor, new: Tensor, arguments: Arguments
    ) -> Any:
        """The result with other weights, for each channel."""
        value = arguments[self.reads["value"]]
        change = torch.einsum("bcts,bsc->btc", (new - old).to(value.dtype), value)
        return (result[0] + change.to(result[0].dtype), *result[1:])

    def stated(self, result: Any, tap: Tap) -> Any:
        """The result with another state; RWKV's sums are presented as one tensor, (B, 3, C)."""
        if not isinstance(result[1], WkvState):
            return super().stated(result, tap)
        new = tap("state", torch.stack(tuple(result[1]), 1))
        return (result[0], WkvState(*new.unbind(1)))


class OneHead(Inside):
    """A single head, q, k (B, T, S) and v (B, T, E); the last result is the state."""

    def show(self, part: Tensor, arguments: Arguments) -> Float[Tensor, "B T 1 C"]:
        """Add a head axis."""
        return part.unsqueeze(2)

    def hide(self, shown: Tensor, part: Tensor, arguments: Arguments) -> Tensor:
        """Remove the head axis."""
        return shown.squeeze(2)

    def weights(
        self, layer: Any, attend: Callable[..., Any], arguments: Arguments
    ) -> Float[Tensor, "B 1 T T"]:
        """Weights between this call's own tokens."""
        value = arguments["v"]
        one_hot = torch.eye(value.shape[1], device=value.device, dtype=value.dtype)
        own = {**arguments, "v": one_hot.expand(value.shape[0], -1, -1).contiguous()}
        return attend(**{**own, "recent": None, "memory": None})[0].unsqueeze(1)


class SoftmaxHeads(Inside):
    """Softmax attention, (B, heads, T, Dh), over the slots that the state presents.

    Keys and values are the call's own; weights are over all slots attended to.
    """

    has_state = False

    def __init__(self) -> None:
        super().__init__(query="q", key="k", value="v")

    def show(self, part: Tensor, arguments: Arguments) -> Float[Tensor, "B T heads Dh"]:
        """Move the token axis before the head axis."""
        return part.transpose(1, 2)

    def hide(self, shown: Tensor, part: Tensor, arguments: Arguments) -> Tensor:
        """Move the head axis before the token axis."""
        return shown.transpose(1, 2)

    def weights(
        self, layer: Any, attend: Callable[..., Any], arguments: Arguments
    ) -> Float[Tensor, "B H T S"]:
        """softmax(scores); with sinks the rows sum to less than 1."""
        q, seen = arguments["q"], self.seen(arguments)
        scoring = layer.scoring(arguments["context"])
        if not seen.in_order:
            scoring["window"] = None
        slots = seen.keys.shape[2]
        one_hot = torch.eye(slots, device=q.device, dtype=q.dtype).expand(
            *seen.keys.shape[:2], -1, -1
        )
        keys = seen.keys.to(q.dtype)
        return attention_plain(q, keys, one_hot, seen.mask, positions=seen.positions, **scoring)

    def seen(self, arguments: Arguments) -> AttendedKeys:
        """The keys attended to. They are written to a copy of the state, since writing twice would
        change a ring buffer.
        """
        view = copy.copy(arguments["view"])
        seen: AttendedKeys = view.attended(arguments["k"], arguments["v"], arguments["context"])
        return seen

    def reweighed(
        self, layer: Any, result: Any, old: Tensor, new: Tensor, arguments: Arguments
    ) -> Any:
        """The product of the weights and the values."""
        values = self.seen(arguments).values.to(result.dtype)
        return new.to(result.dtype) @ values.repeat_interleave(new.shape[1] // values.shape[1], 1)


class SlotHeads(SoftmaxHeads):
    """Attention to selected blocks: keys and values in slots of whole blocks, (B, K, S, Dh)."""

    def show(self, part: Tensor, arguments: Arguments) -> Float[Tensor, "B T heads Dh"]:
        """The call's own tokens, taken from their slots."""
        if part is not arguments["q"]:
            part = part.gather(2, self._own(part, arguments))
        return part.transpose(1, 2)

    def hide(self, shown: Tensor, part: Tensor, arguments: Arguments) -> Tensor:
        """Place tokens back in their slots."""
        shown = shown.transpose(1, 2)
        if part is arguments["q"]:
            return shown
        return part.scatter(2, self._own(part, arguments), shown)

    def _own(self, part: Tensor, arguments: Arguments) -> Tensor:
        own = arguments["slots"].own
        shape = (part.shape[0], part.shape[1], own.shape[1], part.shape[3])
        return own[:, None, :, None].expand(shape)

    def weights(
        self, layer: Any, attend: Callable[..., Any], arguments: Arguments
    ) -> Float[Tensor, "B H T S"]:
        """Weights over slots, which equal the token positions if a row is one document."""
        value = arguments["v"]
        slots, width = value.shape[
            2:
        ]  # the kernel wants values as wide as keys: some slots at a time
        one_hot = torch.eye(slots, -(-slots // width) * width, device=value.device).to(value.dtype)
        parts = [
            attend(**{**arguments, "v": part.expand_as(value).contiguous()})
            for part in one_hot.split(width, -1)
        ]
        weights = torch.cat(parts, -1)
        return weights[..., : int(arguments["slots"].own.max()) + 1]

    def reweighed(
        self, layer: Any, result: Any, old: Tensor, new: Tensor, arguments: Arguments
    ) -> Any:
        """The product of the weights and the values."""
        values = arguments["v"][:, :, : new.shape[-1]].to(result.dtype)
        return new.to(result.dtype) @ values.repeat_interleave(new.shape[1] // values.shape[1], 1)


class LatentHeads(Inside):
    """Latent attention: keys and values (B, S, H, Dh) are computed from the cache entries attended
    to.
    """

    has_state = False

    def __init__(self) -> None:
        super().__init__(query="q")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all values, including keys and values."""
        return ("query", "key", "value", "attention")

    def around(self, layer: Any, attend: Callable[..., Any], arguments: Arguments, tap: Tap) -> Any:
        """Call `attend`; if keys, values or weights are changed, attention is computed from
        explicit keys and values.
        """
        if tap.wants("query"):
            arguments["q"] = tap("query", arguments["q"])
        result = attend(**arguments)
        q, entries = arguments["q"], arguments["entries"]
        if not any(map(tap.wants, ("key", "value", "attention"))):
            return result
        up = layer.kv_up.weight.unflatten(0, (q.shape[2], -1))
        keys, values = expand(q, entries, up)
        keys = tap("key", keys) if tap.wants("key") else keys
        values = tap("value", values) if tap.wants("value") else values
        mask, index = arguments["mask"], arguments["index"]
        if index is not None and layer.spec.indexer.top_k < entries.shape[1]:
            chosen = choose(index.q, index.weights, index.keys, mask, layer.spec.indexer.top_k)
            mask = chosen_mask(chosen, entries.shape[1])
        one_hot = torch.eye(entries.shape[1], device=q.device, dtype=q.dtype)
        one_hot = one_hot.expand(*keys.shape[:1], keys.shape[2], -1, -1)
        weights = attention_plain(
            q.transpose(1, 2), keys.transpose(1, 2), one_hot, mask, scale=layer.spec.scale
        )
        weights = tap("attention", weights) if tap.wants("attention") else weights
        if any(map(tap.changes, ("key", "value", "attention"))):
            long = (weights @ values.transpose(1, 2)).transpose(1, 2)
            edited = any(map(tap.edits, ("key", "value", "attention")))
            return long if edited else _same_bits(result, long)
        return result
