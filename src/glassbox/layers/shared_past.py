"""KV cache of prefixes that are shared by several rows."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glassbox.layers.context import Context
from glassbox.layers.key_value_state import AttendedKeys, KeyValueView


class SharedPast(KeyValueView):
    """The state of an attention layer whose rows continue U shared prefixes, each computed once.

    keys, values: of the prefixes, padded on the right.
    owners: index of each row's prefix.
    mask: the positions that each token may attend to: its row's prefix, then its row.
    Gradients are propagated.
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
        """The keys and values of each row's prefix, followed by the call's own."""
        return AttendedKeys(
            torch.cat((self.keys.to(keys.dtype).index_select(0, self.owners), keys), dim=2),
            torch.cat((self.values.to(keys.dtype).index_select(0, self.owners), values), dim=2),
            self.mask,
            False,
            None,
        )

    def reorder(self, rows: Tensor) -> None:
        """Not supported: the rows are never reordered."""
        raise NotImplementedError

    @property
    def cache_bytes(self) -> int:
        """Memory used, in bytes."""
        return 2 * self.keys.numel() * self.keys.element_size()
