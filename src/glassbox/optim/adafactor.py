"""Adafactor: factored second moments, one number per row and one per column of a matrix.

Source: Shazeer and Stern, arXiv:1804.04235, algorithms 4 and 5, without their first moment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from glassbox.core.config import Spec
from glassbox.optim.base import GroupedOptimizer
from glassbox.optim.groups import ParameterGroup, model_groups


class AdafactorConfig(Spec):
    """Settings of Adafactor; train.lr is the largest step relative to a weight's root mean square."""

    width_exponent: ClassVar[float | None] = 0.5
    kind: Literal["adafactor"] = "adafactor"
    beta2_power: float = Field(0.8, gt=0, le=1, description="beta2 at step t is 1 - t^-power")
    clip: float = Field(1.0, gt=0, description="d, upper bound on the update's root mean square")
    smallest: float = Field(1e-3, gt=0, description="lower bound on a weight's root mean square")
    weight_decay: float = Field(0.0, ge=0)

    def build(
        self, model: nn.Module, companions: Mapping[str, nn.Module] | None = None
    ) -> Adafactor:
        """Return Adafactor over all trainable parameters of the model and its companions."""
        return Adafactor(
            model_groups(model, self.weight_decay, companions),
            beta2_power=self.beta2_power,
            clip=self.clip,
            smallest=self.smallest,
        )


class Adafactor(GroupedOptimizer):
    """V = R C / mean(R), R and C moving means of g^2 over rows and columns; U = g / sqrt(V);
    w -= max(smallest, rms(w)) min(lr, 1/sqrt(t)) U / max(1, rms(U) / clip).

    The newest g^2 has weight t^-power, where t counts a parameter's updates from 1. Vectors keep V whole.
    Decay is decoupled: it multiplies the weight by 1 - lr * decay first. Stacks of matrices have
    rows and columns each. Tested against: torch.optim.Adafactor.
    """

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        *,
        beta2_power: float = 0.8,
        clip: float = 1.0,
        smallest: float = 1e-3,
    ) -> None:
        super().__init__(groups)
        self.beta2_power = beta2_power
        self.clip = clip
        self.smallest = smallest
        self.rows: dict[str, Tensor] = {}
        self.columns: dict[str, Tensor] = {}
        self.whole: dict[str, Tensor] = {}
        for group in self.groups:
            for name, parameter in group.parameters.items():
                if parameter.dim() > 1:
                    self.rows[name] = torch.zeros_like(parameter[..., :1])
                    self.columns[name] = torch.zeros_like(parameter[..., :1, :])
                else:
                    self.whole[name] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient."""
        for group in self.groups:
            lr = learning_rate * group.lr_scale
            for name, weight in group.parameters.items():
                if weight.grad is not None:
                    self.steps[name] += 1
                    self._step(name, weight, weight.grad, lr, group.weight_decay)

    def _step(self, name: str, weight: Tensor, gradient: Tensor, lr: float, decay: float) -> None:
        count = self.steps[name]
        tiny = torch.finfo(weight.dtype).eps
        newest = count**-self.beta2_power
        size = math.sqrt(weight.numel())
        rate = max(self.smallest, float(weight.norm()) / size) * min(lr, 1 / math.sqrt(count))
        weight.mul_(1 - lr * decay)
        squares = gradient.square()
        if name in self.rows:
            rows = self.rows[name].lerp_(squares.mean(-1, keepdim=True), newest)
            columns = self.columns[name].lerp_(squares.mean(-2, keepdim=True), newest)
            second = rows @ columns / rows.mean(-2, keepdim=True).clamp(min=tiny)
        else:
            second = self.whole[name].lerp_(squares, newest)
        update = gradient * second.clamp(min=tiny * tiny).rsqrt()
        too_long = max(1.0, float(update.norm()) / (size * self.clip))
        weight.sub_(update, alpha=rate / too_long)

    def state_dict(self) -> dict[str, Tensor]:
        """The factored (or, for vectors, full) second moments and the step count of every parameter."""
        state = super().state_dict()
        for kind, tensors in (("row", self.rows), ("column", self.columns), ("whole", self.whole)):
            state |= {f"{kind}.{name}": tensor for name, tensor in tensors.items()}
        return state
