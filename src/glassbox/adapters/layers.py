"""Adapted linear layers: several adapters on a frozen layer, selected per row of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from glassbox.core.errors import UserError
from glassbox.layers.linear import Linear
from glassbox.layers.quantized import Nf4Linear
from glassbox.layers.quantized_linear import QuantizedLinear

Base = Linear | Nf4Linear | QuantizedLinear


class Selection:
    """The adapter used by each row of a batch; one object shared by all adapted layers of a model.

    active: the adapter of all rows unless `set_rows` was called; None for none.
    """

    def __init__(self) -> None:
        self.active: str | None = None
        self.groups: list[tuple[str, Tensor]] | None = None
        self.num_rows = 0

    def set_rows(
        self, names: Sequence[str | None] | None, device: torch.device | None = None
    ) -> None:
        """Set one adapter name per row for the following calls (None: the base layer); None: `active` for all."""
        if names is None:
            self.groups = None
            return
        self.num_rows = len(names)
        self.groups = [
            (
                name,
                torch.tensor([row for row, other in enumerate(names) if other == name]).to(device),
            )
            for name in dict.fromkeys(names)
            if name is not None
        ]


class LinearUpdate(nn.Module):
    """Base class of an adapter on one linear layer: forward(x, y, base) returns the adapted output."""

    mergeable: ClassVar[bool] = False
    dropout: float = 0.0

    def merged(self, weight: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
        """Return the weight with this update merged in, if it is `mergeable`."""
        raise NotImplementedError


class AdaptedLinear(nn.Module):
    """A linear layer and the adapters that may be added to it, by name.

    Rows of a batch that name different adapters are gathered by adapter, so that each is one
    product however many rows there are. Tested against: the layer called row by row.
    """

    def __init__(self, base: Base, selection: Selection) -> None:
        super().__init__()
        self.base = base
        self.updates = nn.ModuleDict()
        self.selection = selection
        self._unmerged: tuple[Base] | None = None  # in a tuple, or it would be a child

    @property
    def in_features(self) -> int:
        """Size of the last axis of the input."""
        return self.base.in_features

    @property
    def out_features(self) -> int:
        """Size of the last axis of the output."""
        return self.base.out_features

    @property
    def into_residual(self) -> bool:
        """Whether this is the last layer of a branch."""
        return self.base.into_residual

    @property
    def bias(self) -> Tensor | None:
        """The layer's own."""
        return self.base.bias

    @property
    def weight(self) -> Float[Tensor, "O I"]:
        """The weight with the active adapter merged in, for code that reads weights directly.

        Raises UserError if rows use different adapters.
        """
        if self._unmerged is not None:
            return self.base.weight
        if self.selection.groups is not None:
            raise UserError(
                "this layer reads its matrix itself and cannot have an adapter a row; "
                "leave it out of the adapters' targets"
            )
        update = self._update(self.selection.active)
        if update is None:
            return self.base.weight
        if not update.mergeable or (update.dropout and self.training):
            raise UserError(
                "this layer reads its matrix itself: it can have LoRA without dropout alone; "
                "leave it out of the adapters' targets"
            )
        return update.merged(self.base.weight)

    def _update(self, name: str | None) -> LinearUpdate | None:
        if name is None or name not in self.updates:
            return None
        update = self.updates[name]
        assert isinstance(update, LinearUpdate)
        return update

    def forward(self, x: Float[Tensor, "B *shape I"]) -> Float[Tensor, "B *shape O"]:
        """Project the last axis, applying each row's adapter."""
        y: Tensor = self.base(x)
        if self._unmerged is not None:
            return y
        chosen = self.selection
        if chosen.groups is None:
            update = self._update(chosen.active)
            return y if update is None else update(x, y, self.base)
        if len(x) != chosen.num_rows:
            raise UserError(
                f"adapters were chosen for {chosen.num_rows} rows, the batch has {len(x)}; "
                "call set_rows with one name a row"
            )
        for name, rows in chosen.groups:
            update = self._update(name)
            if update is not None and len(rows) == len(x):
                return update(x, y, self.base)
            if update is not None:
                y = y.index_copy(0, rows, update(x[rows], y[rows], self.base))
        return y

    def merge(self, name: str) -> None:
        """Merge the adapter into the layer's weight; the original weight is kept."""
        update = self._update(name)
        assert self._unmerged is None
        if update is None:
            return
        if not update.mergeable:
            raise UserError(f"adapter '{name}' is not a LoRA and cannot be merged into the weights")
        with torch.no_grad():
            weight = update.merged(self.base.weight)
        with torch.device("meta"):
            merged = Linear(
                self.base.in_features,
                self.base.out_features,
                into_residual=self.base.into_residual,
            )
        merged.weight = nn.Parameter(weight, requires_grad=False)
        merged.bias = self.base.bias
        self._unmerged = (self.base,)
        self.base = merged.train(self.training)

    def unmerge(self) -> None:
        """Restore the original weight bit for bit, from a copy."""
        if self._unmerged is not None:
            (self.base,) = self._unmerged
            self._unmerged = None
