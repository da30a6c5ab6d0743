"""An optimizer that updates this rank's part of each weight, behind the interface of one that updates all."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from glassbox.core.errors import UserError
from glassbox.layers.parameter_roles import FusedRows
from glassbox.optim.base import Optimizer
from glassbox.optim.torch_interface import members
from glassbox.training.parallel.pieces import Piece, gather_state, own_state


class LocalOptimizer:
    """Steps on the parts; saves and loads states that are whole, so that they fit any layout.

    inner: built over the parts. real: the model's parameter of each part, by the part's id.
    gradient: a parameter's gradient as its part sees it. updated: called after each step.
    Raises UserError for an optimizer whose update of a number depends on others of its tensor, except
    for Muon, for which the matrices are gathered.
    """

    def __init__(
        self,
        inner: Optimizer,
        *,
        real: Mapping[int, nn.Parameter],
        pieces: Mapping[str, Piece],
        rows: Mapping[str, FusedRows],
        gradient: Callable[[nn.Parameter, nn.Parameter], Tensor | None],
        updated: Callable[[], None],
        key: str,
    ) -> None:
        self.inner = inner
        self.real = real
        self.pieces = dict(pieces)
        self.gradient = gradient
        self.updated = updated
        for member in members(inner):
            if not member.by_parts:
                raise UserError(
                    f"{key} divides weights by rows, and {type(member).__name__} needs whole tensors; "
                    "use optim.kind adamw (bits 32), sgd, lion or muon, or parallel.data = ddp"
                )
            member.see_parts(self.pieces, rows)

    def parameters(self) -> list[nn.Parameter]:
        """The model's parameters."""
        return [self.real.get(id(part), part) for part in self.inner.parameters()]

    def zero_grad(self) -> None:
        """Clear the gradients of parts and parameters."""
        self.inner.zero_grad()
        for parameter in self.parameters():
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update this rank's parts."""
        for part in self.inner.parameters():
            parameter = self.real.get(id(part))
            if parameter is not None:
                part.grad = self.gradient(parameter, part)
        self.inner.step(learning_rate)
        for part in self.inner.parameters():
            if id(part) in self.real:
                part.grad = None
        self.updated()

    def state_dict(self) -> dict[str, Tensor]:
        """The whole state; every rank calls it."""
        return gather_state(self.inner.state_dict(), self.pieces)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Keep this rank's part of a whole state. Raises ValueError naming what does not fit."""
        self.inner.load_state_dict(own_state(state, self.pieces))
