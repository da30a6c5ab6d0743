"""What a layer keeps of the tokens so far, and the protocol of layers that keep it."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from glassbox.layers.context import Context


class State(Protocol):
    """A cache that grows with the tokens, or a running state of fixed size."""

    def reorder(self, rows: Tensor) -> None:
        """Keep only these rows of the batch, in this order (finished ones leave, beams branch)."""

    @property
    def cache_bytes(self) -> int:
        """Memory held."""


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
        """A state that has seen nothing."""

    def __call__(
        self, hidden: Float[Tensor, "B T D"], context: Context, state: State | None = None
    ) -> Float[Tensor, "B T D"]:
        """Mix each token with the earlier ones of its document."""


class TensorState:
    """A running state of named tensors, the batch first, that a layer replaces call by call."""

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        """Replace one; shape and dtype stay what they were."""
        old = self.tensors[name]
        assert value.shape == old.shape, (name, value.shape, old.shape)
        self.tensors[name] = value.to(old.dtype)

    def reorder(self, rows: Tensor) -> None:
        """Keep only these rows, in this order."""
        self.tensors = {name: tensor[rows] for name, tensor in self.tensors.items()}

    @property
    def cache_bytes(self) -> int:
        """Memory held."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())
