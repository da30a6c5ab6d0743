"""What an optimizer is to the training loop, and what all that keep parameters in groups share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from glassbox.optim.groups import ParameterGroup


class Optimizer(Protocol):
    """What the training loop asks of an optimizer. The learning rate is passed, never stored."""

    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient."""

    def zero_grad(self) -> None:
        """Forget all gradients."""

    def parameters(self) -> list[nn.Parameter]:
        """All parameters it updates."""

    def state_dict(self) -> dict[str, Tensor]:
        """Its memory, as tensors under names that do not depend on the order of parameters."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put its memory back. Raises ValueError naming what is missing or does not fit."""


class GroupedOptimizer:
    """Parameters in groups, each under one name, and a count of updates for the rules that need it.

    Raises ValueError for a parameter that stands in two groups.
    """

    def __init__(self, groups: Sequence[ParameterGroup]) -> None:
        self.groups = list(groups)
        self.steps: dict[str, int] = {}
        for group in self.groups:
            for name in group.parameters:
                if name in self.steps:
                    raise ValueError(f"parameter '{name}' stands in two groups; leave one")
                self.steps[name] = 0

    def parameters(self) -> list[nn.Parameter]:
        """All parameters, group by group."""
        return [p for group in self.groups for p in group.parameters.values()]

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Its memory: "KIND.PARAMETER" -> tensor; the kind "steps" is the count."""
        return {f"steps.{name}": torch.tensor(count) for name, count in self.steps.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put the memory back. Raises ValueError naming the first tensor that is missing or does not fit."""
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
