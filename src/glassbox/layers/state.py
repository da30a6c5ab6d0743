"""Caches and recurrent states of layers, and the protocol of stateful layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import ClassVar, Protocol, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from glassbox.layers.context import Context

Rows = slice | Tensor
"""Rows of a batch: a slice (a view, no copy) or indices (a copy)."""

RowStateT = TypeVar("RowStateT", bound="RowState")


class State(Protocol):
    """A cache that grows with the tokens, or a recurrent state of fixed size."""

    def reorder(self, rows: Tensor) -> None:
        """Select rows of the batch, in this order; a row may be dropped or repeated, as in beam
        search.
        """

    @property
    def cache_bytes(self) -> int:
        """Memory used, in bytes."""


class Stateful(Protocol):
    """A layer that depends on earlier tokens: every mixer, and feed-forwards with a token shift.

    `forward(hidden, context, state)` with a state continues after the tokens that the state has
    seen and updates it to the last token of this call. `context.lengths` has the number of tokens
    of each row before its padding; padding must not affect the state. Without a state,
    `context.documents` marks packed documents, which must be independent of each other.
    """

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> State:
        """Return an empty state."""

    def __call__(
        self, hidden: Float[Tensor, "B T D"], context: Context, state: State | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix each token with the earlier tokens of its document."""


class RowState:
    """A state whose tensors have the batch axis first, so that rows can be taken and written back.

    `kept` names the attributes that are such tensors, None, or states of this kind.
    """

    kept: ClassVar[tuple[str, ...]] = ()

    def held(self) -> dict[str, Tensor]:
        """All tensors by name."""
        found: dict[str, Tensor] = {}
        for name in self.kept:
            value = getattr(self, name)
            if isinstance(value, RowState):
                found |= {f"{name}.{inner}": x for inner, x in value.held().items()}
            elif value is not None:
                found[name] = value
        return found

    def map(self: RowStateT, function: Callable[[Tensor], Tensor]) -> RowStateT:
        """A state of the same kind with a function applied to its tensors."""
        new = copy.copy(self)
        for name in self.kept:
            value = getattr(self, name)
            if isinstance(value, RowState):
                setattr(new, name, value.map(function))
            elif value is not None:
                setattr(new, name, function(value))
        return new

    def take(self: RowStateT, rows: Rows) -> RowStateT:
        """A state of a subset of rows; those of a slice share memory, so that in-place changes
        affect both.
        """
        return self.map(lambda x: x[rows])

    def put(self: RowStateT, rows: Rows, part: RowStateT) -> None:
        """Write back the result of a call on `take(rows)`."""
        theirs = part.held()
        for name, mine in self.held().items():
            if isinstance(rows, slice) and mine[rows].data_ptr() == theirs[name].data_ptr():
                continue  # changed in place
            mine[rows] = theirs[name]

    def reorder(self, rows: Tensor) -> None:
        """Select rows of the batch, in this order; a row may be dropped or repeated, as in beam
        search.
        """
        vars(self).update(vars(self.take(rows)))

    @property
    def cache_bytes(self) -> int:
        """Memory used, in bytes."""
        return sum(x.numel() * x.element_size() for x in self.held().values())


class TensorState(RowState):
    """A recurrent state of named tensors, batch axis first, which a layer replaces in each call."""

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors

    def held(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return self.tensors

    def map(self, function: Callable[[Tensor], Tensor]) -> TensorState:
        """A state with a function applied to its tensors."""
        return TensorState(**{name: function(x) for name, x in self.tensors.items()})

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        """Replace a tensor; shape and dtype must not change."""
        old = self.tensors[name]
        assert value.shape == old.shape, (name, value.shape, old.shape)
        self.tensors[name] = value.to(old.dtype)
