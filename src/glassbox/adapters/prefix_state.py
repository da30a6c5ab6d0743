"""Attention states with prepended virtual keys and values, for prefix and prompt tuning."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from glassbox.layers.context import Context
from glassbox.layers.key_value_state import NO_PAST, AttendedKeys, KeyValueView
from glassbox.layers.state import State


class Prefixed(KeyValueView):
    """Wraps the state of an attention layer (or none) and prepends keys and values to it.

    All queries attend to them, in every document. They take no cache slots and do not change token
    positions, so that caches, packing and the engine are unaffected.
    """

    def __init__(
        self,
        keys: Float[Tensor, "1 K V Dh"],
        values: Float[Tensor, "1 K V Dh"],
        inner: State | None,
    ) -> None:
        self.keys = keys
        self.values = values
        self.inner = inner

    def attended(
        self, keys: Float[Tensor, "B K T Dh"], values: Float[Tensor, "B K T Dh"], context: Context
    ) -> AttendedKeys:
        """Return the prefix followed by the keys and values attended to without it."""
        view: KeyValueView = NO_PAST if self.inner is None else self.inner  # type: ignore[assignment]
        seen = view.attended(keys, values, context)
        batch, length = keys.shape[0], self.keys.shape[2]
        # queries stand at the last keys, so without a mask the prefix is seen as all that is earlier
        mask = None if seen.mask is None else F.pad(seen.mask, (length, 0), value=True)
        return AttendedKeys(
            torch.cat((self.keys.to(seen.keys.dtype).expand(batch, -1, -1, -1), seen.keys), 2),
            torch.cat((self.values.to(seen.keys.dtype).expand(batch, -1, -1, -1), seen.values), 2),
            mask,
            seen.in_order,
            None,
        )

    def reorder(self, rows: Tensor) -> None:
        """Keep only these rows; the prefix is the same for all."""
        if self.inner is not None:
            self.inner.reorder(rows)

    @property
    def cache_bytes(self) -> int:
        """Memory of the wrapped state, without the prefix."""
        return 0 if self.inner is None else self.inner.cache_bytes


class Recorder(KeyValueView):
    """A state that records the keys and values of a single forward pass."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def attended(
        self, keys: Float[Tensor, "B K T Dh"], values: Float[Tensor, "B K T Dh"], context: Context
    ) -> AttendedKeys:
        """Return the call's own tokens, with causal attention."""
        self.keys, self.values = keys, values
        return AttendedKeys(keys, values, None, True, None)

    def reorder(self, rows: Tensor) -> None:
        """It is never reordered."""
        raise NotImplementedError

    @property
    def cache_bytes(self) -> int:
        """Zero: it has no cache of its own."""
        return 0
