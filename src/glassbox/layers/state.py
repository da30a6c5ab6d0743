"""Cache and recurrent state of layers, and the protocol of stateful layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import ClassVar, Protocol, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from glassbox.layers.context import Context

Rows = slice | Tensor
"""Rows of a batch: a range of them (a view, no copy) or their numbers (a copy)."""

RowStateT = TypeVar("RowStateT", bound="RowState")


class State(Protocol):
    """A cache that grows with the tokens, or a running state of fixed size."""

    def reorder(self, rows: Tensor) -> None:
        """Keep only these rows of the batch, in this order (finished ones leave, beams branch)."""

    @property
    def cache_bytes(self) -> int:
        """Memory used, in bytes."""


class Stateful(Protocol):
    """A layer that looks at earlier tokens: every mixer, and the feed-forwards that shift tokens.

    `forward(hidden, context, state)` with a state goes on from the tokens that the state has seen
    and leaves the state behind the last token of this call. `context.lengths` says how many tokens
    of each row are real: the rest is padding and must leave no trace in the state. Without a state,
    `context.documents` says where packed documents begin, and nothing passes from one to the next.
    """

    def init_state(
        self, batch_size: int, max_length: int, *, device: torch.device, dtype: torch.dtype
    ) -> State:
        """Return an empty state."""

    def __call__(
        self, hidden: Float[Tensor, "B T D"], context: Context, state: State | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix each token with the earlier ones of its document."""


class RowState:
    """A state whose tensors have the batch first, so that its rows can be taken out and put back.

    `kept` names the attributes that are such tensors, or None, or states of this kind themselves.
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
        """A state of the same kind whose tensors are the function's values."""
        new = copy.copy(self)
        for name in self.kept:
            value = getattr(self, name)
            if isinstance(value, RowState):
                setattr(new, name, value.map(function))
            elif value is not None:
                setattr(new, name, function(value))
        return new

    def take(self: RowStateT, rows: Rows) -> RowStateT:
        """A state of these rows alone; those of a slice are shared, in place changes reach both."""
        return self.map(lambda x: x[rows])

    def put(self: RowStateT, rows: Rows, part: RowStateT) -> None:
        """Write back what `take(rows)` gave, as a call has left it."""
        theirs = part.held()
        for name, mine in self.held().items():
            if isinstance(rows, slice) and mine[rows].data_ptr() == theirs[name].data_ptr():
                continue  # changed in place
            mine[rows] = theirs[name]

    def reorder(self, rows: Tensor) -> None:
        """Keep only these rows of the batch, in this order (finished ones leave, beams branch)."""
        vars(self).update(vars(self.take(rows)))

    @property
    def cache_bytes(self) -> int:
        """Memory used, in bytes."""
        return sum(x.numel() * x.element_size() for x in self.held().values())


class TensorState(RowState):
    """A running state of named tensors, the batch first, that a layer replaces call by call."""

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors

    def held(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return self.tensors

    def map(self, function: Callable[[Tensor], Tensor]) -> TensorState:
        """A state whose tensors are the function's values."""
        return TensorState(**{name: function(x) for name, x in self.tensors.items()})

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        """Replace one; shape and dtype stay what they were."""
        old = self.tensors[name]
        assert value.shape == old.shape, (name, value.shape, old.shape)
        self.tensors[name] = value.to(old.dtype)
