"""User-defined and torch optimizers: `kind: python, path: my.py:Thing`.

`path` names a class (or function) that is called with (groups, **options), where groups is a list of
`ParameterGroup`, and gives an `optim.base.Optimizer`: `step(learning_rate)`, `zero_grad`,
`parameters`, `state_dict`, `load_state_dict`. Deriving from `GroupedOptimizer` leaves `step` and
`state_dict` to write. A subclass of torch.optim.Optimizer is taken as it is: `path: torch.optim:Adagrad`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from glassbox.core.errors import UserError
from glassbox.core.plugins import PythonSpec, load_object, require_methods
from glassbox.optim.base import GroupedOptimizer, Optimizer
from glassbox.optim.groups import ParameterGroup, model_groups

_METHODS = ("step", "zero_grad", "parameters", "state_dict", "load_state_dict")


class PythonOptimizer(PythonSpec):
    """A user-defined optimizer, or one of torch's."""

    width_exponent: ClassVar[float | None] = None
    weight_decay: float = Field(0.0, ge=0, description="applied to matrices only")

    def build(
        self, model: nn.Module, companions: Mapping[str, nn.Module] | None = None
    ) -> Optimizer:
        """Return the optimizer over all trainable parameters. Raises UserError if it lacks a method."""
        groups = model_groups(model, self.weight_decay, companions)
        thing = load_object(self.path)
        if inspect.isclass(thing) and issubclass(thing, torch.optim.Optimizer):
            return TorchOptimizer(groups, thing, self.options, path=self.path)
        optimizer: Optimizer = self.make("optimizer", groups)
        require_methods(
            optimizer, _METHODS, what="optimizer", path=self.path, help="see docs/extending.md"
        )
        return optimizer


class TorchOptimizer(GroupedOptimizer):
    """Adapts a torch optimizer: the loop passes the learning rate, and states are tensors by name.

    Tested against: the same optimizer driven by hand; a resumed run equals an unbroken one.
    """

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        kind: type[torch.optim.Optimizer],
        options: Mapping[str, Any],
        *,
        path: str,
    ) -> None:
        super().__init__(groups)
        accepted = inspect.signature(kind).parameters
        if "lr" in options:
            raise UserError(f"optimizer '{path}': options.lr is train.lr's business; leave it out")
        decays = "weight_decay" in accepted
        if not decays and any(group.weight_decay for group in groups):
            raise UserError(f"optimizer '{path}' knows no weight decay; set optim.weight_decay: 0")
        own = [
            {"params": list(group.parameters.values())}
            | ({"weight_decay": group.weight_decay} if decays else {})
            for group in groups
        ]
        try:
            self.inner = kind(own, lr=1.0, **options)  # type: ignore[call-arg]
        except (TypeError, ValueError) as error:
            raise UserError(f"optimizer '{path}': {error}") from None

    def step(self, learning_rate: float) -> None:
        """Update the parameters at this learning rate."""
        for group, settings in zip(self.groups, self.inner.param_groups, strict=True):
            settings["lr"] = learning_rate * group.lr_scale
        self.inner.step()

    def state_dict(self) -> dict[str, Tensor]:
        """Torch's state of each parameter: "KEY.PARAMETER" -> tensor."""
        return {
            f"{key}.{name}": torch.as_tensor(value)
            for group in self.groups
            for name, parameter in group.parameters.items()
            for key, value in self.inner.state.get(parameter, {}).items()
            if value is not None
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load a state. Raises ValueError naming a parameter that the model does not have."""
        parameters = {n: p for group in self.groups for n, p in group.parameters.items()}
        self.inner.state.clear()
        for key, tensor in state.items():
            kind, _, name = key.partition(".")
            if name not in parameters:
                raise ValueError(f"optimizer state and model differ in '{key}'")
            self.inner.state[parameters[name]][kind] = tensor.clone()
