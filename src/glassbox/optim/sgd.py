"""Stochastic gradient descent with momentum, and the textbook variant with a 1/sqrt(t) learning rate.

Source: momentum: Polyak 1964, Sutskever et al. 2013 (Nesterov's, in torch's form); the falling rate:
Robbins and Monro 1951, as in Shalev-Shwartz and Ben-David 2014, section 14.4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from glassbox.core.config import Spec
from glassbox.optim.base import GroupedOptimizer
from glassbox.optim.groups import ParameterGroup, model_groups


class SgdConfig(Spec):
    """Settings of SGD; the learning rate is train.lr."""

    width_exponent: ClassVar[float | None] = None
    kind: Literal["sgd"] = "sgd"
    momentum: float = Field(0.0, ge=0, lt=1)
    nesterov: bool = Field(False, description="use Nesterov momentum")
    weight_decay: float = Field(0.0, ge=0, description="L2 penalty, added to the gradient")

    @model_validator(mode="after")
    def _momentum_fits(self) -> SgdConfig:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov = true needs momentum above 0")
        return self

    def build(self, model: nn.Module, companions: Mapping[str, nn.Module] | None = None) -> Sgd:
        """Return SGD over all trainable parameters of the model and its companions."""
        groups = model_groups(model, self.weight_decay, companions)
        return Sgd(groups, momentum=self.momentum, nesterov=self.nesterov)


class SgdDecayConfig(Spec):
    """SGD with learning rate train.lr / sqrt(t + 1) at update t; use it with a constant schedule."""

    width_exponent: ClassVar[float | None] = None
    kind: Literal["sgd_decay"] = "sgd_decay"

    def build(
        self, model: nn.Module, companions: Mapping[str, nn.Module] | None = None
    ) -> SgdDecay:
        """Return SGD with decay over all trainable parameters of the model and its companions."""
        return SgdDecay(model_groups(model, 0.0, companions))


class Sgd(GroupedOptimizer):
    """g <- g + decay w; B = mu B + g; w -= lr B, or with Nesterov w -= lr (g + mu B).

    Weight decay is added to the gradient, as in torch. Without momentum there is no state.
    Tested against: torch.optim.SGD.
    """

    by_parts: ClassVar[bool] = True

    def __init__(
        self, groups: Sequence[ParameterGroup], *, momentum: float = 0.0, nesterov: bool = False
    ) -> None:
        super().__init__(groups)
        self.momentum = momentum
        self.nesterov = nesterov
        self.buffers: dict[str, Tensor] = {}
        for group in self.groups if momentum else ():
            for name, parameter in group.parameters.items():
                self.buffers[name] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient."""
        for group in self.groups:
            lr = learning_rate * group.lr_scale
            for name, weight in group.parameters.items():
                if weight.grad is None:
                    continue
                update = weight.grad.add(weight, alpha=group.weight_decay)
                if self.momentum:
                    buffer = self.buffers[name].mul_(self.momentum).add_(update)
                    update = update.add(buffer, alpha=self.momentum) if self.nesterov else buffer
                weight.sub_(update, alpha=lr)

    def state_dict(self) -> dict[str, Tensor]:
        """The momentum of every parameter."""
        return {f"momentum.{name}": buffer for name, buffer in self.buffers.items()}


class SgdDecay(GroupedOptimizer):
    """w -= lr / sqrt(t + 1) g, t counted per parameter from 0. Tested against: the formula as a loop."""

    by_parts: ClassVar[bool] = True

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient."""
        for group in self.groups:
            for name, weight in group.parameters.items():
                if weight.grad is not None:
                    lr = learning_rate * group.lr_scale / math.sqrt(self.steps[name] + 1)
                    weight.sub_(weight.grad, alpha=lr)
                    self.steps[name] += 1
