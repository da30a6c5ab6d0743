"""Lion: updates by the sign of the momentum. Source: Chen et al., arXiv:2302.06675, algorithm 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from glassbox.core.config import Spec
from glassbox.optim.base import GroupedOptimizer
from glassbox.optim.groups import ParameterGroup, model_groups


class LionConfig(Spec):
    """Settings of Lion; set the learning rate, train.lr, three to ten times smaller than for AdamW."""

    width_exponent: ClassVar[float | None] = 1.0
    kind: Literal["lion"] = "lion"
    beta1: float = Field(
        0.9, ge=0, lt=1, description="decay rate of the momentum used in the update"
    )
    beta2: float = Field(0.99, ge=0, lt=1, description="decay rate of the stored momentum")
    weight_decay: float = Field(0.3, ge=0, description="larger than AdamW's as lr is smaller")

    def build(self, model: nn.Module, companions: Mapping[str, nn.Module] | None = None) -> Lion:
        """Return Lion over all trainable parameters of the model and its companions."""
        groups = model_groups(model, self.weight_decay, companions)
        return Lion(groups, betas=(self.beta1, self.beta2))


class Lion(GroupedOptimizer):
    """w -= lr (sign(b1 m + (1-b1) g) + decay w); then m = b2 m + (1-b2) g.

    The state is one number per weight, half of AdamW's. Tested against: the paper's loop.
    """

    by_parts: ClassVar[bool] = True

    def __init__(
        self, groups: Sequence[ParameterGroup], *, betas: tuple[float, float] = (0.9, 0.99)
    ) -> None:
        super().__init__(groups)
        self.betas = betas
        self.momenta: dict[str, Tensor] = {
            name: torch.zeros_like(parameter)
            for group in self.groups
            for name, parameter in group.parameters.items()
        }

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient."""
        beta1, beta2 = self.betas
        for group in self.groups:
            lr = learning_rate * group.lr_scale
            for name, weight in group.parameters.items():
                if weight.grad is None:
                    continue
                momentum = self.momenta[name]
                direction = (momentum * beta1).add_(weight.grad, alpha=1 - beta1).sign_()
                weight.mul_(1 - lr * group.weight_decay).sub_(direction, alpha=lr)
                momentum.mul_(beta2).add_(weight.grad, alpha=1 - beta2)

    def state_dict(self) -> dict[str, Tensor]:
        """The momentum of every parameter."""
        return {f"momentum.{name}": tensor for name, tensor in self.momenta.items()}
