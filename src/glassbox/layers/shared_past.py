"""KV cache of prefixes shared by several rows."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassbox.layers.context import Context
from glassbox.layers.key_value_state import AttendedKeys, KeyValueView


class SharedPast(KeyValueView):
    """The state of one attention layer whose rows continue U shared prefixes, each computed once.

    keys, values: of the beginnings, padded on the right; owners: each row's beginning; mask: where
    a row's tokens may look, at its beginning and then at themselves. Gradients pass through.
    """

    def __init__(
        self,
        keys: Float[Tensor, "U K P Dh"],
        values: Float[Tensor, "U K P Dh"],
        owners: Int[Tensor, " B"],
        mask: Bool[Tensor, "B 1 T S"],
    ) -> None:
        self.keys = keys
        self.values = values
        self.owners = owners
        self.mask = mask

    def attended(
        self, keys: Float[Tensor, "B K T Dh"], values: Float[Tensor, "B K T Dh"], context: Context
    ) -> AttendedKeys:
        """The row's beginning, and the call's own tokens behind it."""
        return AttendedKeys(
            torch.cat((self.keys.to(keys.dtype).index_select(0, self.owners), keys), dim=2),
            torch.cat((self.values.to(keys.dtype).index_select(0, self.owners), values), dim=2),
            self.mask,
            False,
            None,
        )

    def reorder(self, rows: Tensor) -> None:
        """It is never reordered."""
        raise NotImplementedError

    @property
    def cache_bytes(self) -> int:
        """Memory held."""
        return 2 * self.keys.numel() * self.keys.element_size()
