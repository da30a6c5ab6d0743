"""The optimizer protocol of the training loop, and the base class of grouped optimizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from glassbox.layers.parameter_roles import FusedRows
from glassbox.optim.groups import ParameterGroup


class Optimizer(Protocol):
    """Protocol of an optimizer. The learning rate is passed to `step` and never stored."""

    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient."""

    def zero_grad(self) -> None:
        """Clear all gradients."""

    def parameters(self) -> list[nn.Parameter]:
        """All parameters that this optimizer updates."""

    def state_dict(self) -> dict[str, Tensor]:
        """The optimizer state, as tensors under names that do not depend on parameter order."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load a state. Raises ValueError naming the tensor that is missing or does not fit."""


class Flat(Protocol):
    """An optimizer's weights and state, laid out in one array a group; gradients are too."""

    def lay_out(self) -> None:
        """Move weights and state into flat arrays; what holds them sees the same values."""

    def narrow_copies(self, dtype: torch.dtype) -> Mapping[int, Tensor]:
        """For the n-th parameter the view of its narrow copy, which every update renews."""

    def gathered(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """One array a group of a gradient a parameter."""

    def parts(self, gathered: Sequence[Tensor]) -> list[Tensor]:
        """Views of gathered arrays, one a parameter."""

    def norm(self, gradients: Sequence[Tensor]) -> float:
        """Euclidean norm of all gradients together, in float32."""

    def update(self, learning_rate: float, gradients: Sequence[Tensor], scale: float) -> None:
        """The optimizer's step with gradients times `scale`."""


@runtime_checkable
class Flattens(Protocol):
    """An optimizer that can work on flat storage."""

    def flattened(self, backend: str | None = None) -> Flat | None:
        """The same optimizer over flat storage; None where its settings do not allow it.

        backend: of `torch.compile`, for its loops; None leaves them as they are.
        """


class Gathers(Protocol):
    """How a weight that lies in parts on several ranks is made whole, and divided again."""

    def gather(self, local: Tensor) -> Tensor:
        """The whole tensor; every rank calls it."""

    def own(self, whole: Tensor) -> Tensor:
        """This rank's part."""


class GroupedOptimizer:
    """Base class for optimizers over named parameter groups, with a step count per parameter.

    Raises ValueError for a parameter that is in two groups.

    by_parts: whether the update of rows of a weight needs those rows alone, so that several ranks can
        share one (or, for Muon, gathers what it needs by `see_parts`).
    """

    by_parts: ClassVar[bool] = False

    def __init__(self, groups: Sequence[ParameterGroup]) -> None:
        self.groups = list(groups)
        self.steps: dict[str, int] = {}
        for group in self.groups:
            for name in group.parameters:
                if name in self.steps:
                    raise ValueError(f"parameter '{name}' stands in two groups; leave one")
                self.steps[name] = 0

    def parameters(self) -> list[nn.Parameter]:
        """All parameters, in group order."""
        return [p for group in self.groups for p in group.parameters.values()]

    def see_parts(self, pieces: Mapping[str, Gathers], rows: Mapping[str, FusedRows]) -> None:
        """Told that parameters are parts of weights: how each is made whole, and its fused rows."""

    def zero_grad(self) -> None:
        """Clear all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """The optimizer state: "KIND.PARAMETER" -> tensor; the kind "steps" is the step count."""
        return {f"steps.{name}": torch.tensor(count) for name, count in self.steps.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load a state. Raises ValueError naming the first tensor that is missing or does not fit."""
        expected = self.state_dict()
        if missing := sorted(expected.keys() ^ state.keys()):
            raise ValueError(f"optimizer state and model differ in '{missing[0]}'")
        for key, tensor in expected.items():
            found = state[key]
            if tensor.shape != found.shape:
                raise ValueError(
                    f"optimizer state '{key}' has shape {tuple(found.shape)}, "
                    f"the model needs {tuple(tensor.shape)}"
                )
            if tensor.dtype != found.dtype:
                raise ValueError(
                    f"optimizer state '{key}' is {found.dtype}, the model needs {tensor.dtype}"
                )
        for key, tensor in expected.items():
            kind, _, name = key.partition(".")
            if kind == "steps":
                self.steps[name] = int(state[key])
            else:
                tensor.copy_(state[key])
