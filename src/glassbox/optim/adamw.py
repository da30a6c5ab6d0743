"""AdamW: a plain implementation and one on torch's foreach kernels.

Source: Kingma and Ba, arXiv:1412.6980; decoupled decay: Loshchilov and Hutter, arXiv:1711.05101.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from glassbox.core.config import Spec
from glassbox.optim.adamw8bit import AdamW8bit
from glassbox.optim.base import GroupedOptimizer
from glassbox.optim.groups import ParameterGroup, model_groups

if TYPE_CHECKING:
    from glassbox.optim.flat import FlatAdamW

Decay = Literal["decoupled", "independent", "cautious"]


class AdamWConfig(Spec):
    """Settings of AdamW; the learning rate is train.lr."""

    width_exponent: ClassVar[float | None] = 1.0
    kind: Literal["adamw"] = "adamw"
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    foreach: bool = Field(
        True, description="update many tensors per kernel call; false: the plain loop"
    )
    bits: Literal[32, 8] = Field(
        32, description="bits per number of the moments; 8 needs a quarter of the memory"
    )
    decay: Decay = Field(
        "decoupled",
        description="decoupled: times the rate; independent: not; cautious: only where the step shrinks",
    )

    @model_validator(mode="after")
    def _decay_fits(self) -> AdamWConfig:
        if self.bits == 8 and self.decay != "decoupled":
            raise ValueError(f"decay = '{self.decay}' does not go with bits = 8; use 32")
        return self

    def build(
        self, model: nn.Module, companions: Mapping[str, nn.Module] | None = None
    ) -> AdamW | AdamW8bit:
        """Return AdamW over all trainable parameters of the model and its companions."""
        return self.build_groups(model_groups(model, self.weight_decay, companions))

    def build_groups(self, groups: Sequence[ParameterGroup]) -> AdamW | AdamW8bit:
        """Return AdamW over `groups`, each with its own weight decay."""
        betas = (self.beta1, self.beta2)
        if self.bits == 8:
            return AdamW8bit(groups, betas=betas, eps=self.eps)
        return AdamW(groups, betas=betas, eps=self.eps, foreach=self.foreach, decay=self.decay)


class AdamW(GroupedOptimizer):
    """m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; w -= lr (m^ / (sqrt(v^) + eps) + decay w).

    m^ and v^ are divided by 1 - b^t, t counted a parameter, from 1. Decay is decoupled: it multiplies
    the weight by 1 - lr * decay before the step; "independent" by 1 - decay, whatever the rate; "cautious"
    does so only where the step's sign is the weight's, which both then shrink. Moments have the
    parameter's dtype. Source: independent: Wortsman et al., arXiv:2309.14322, section 3.4, with the
    schedule left out; cautious: Chen et al., arXiv:2510.12402. Tested against: torch.optim.AdamW, and
    the two others' loops.
    """

    by_parts: ClassVar[bool] = True

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        foreach: bool = True,
        decay: Decay = "decoupled",
    ) -> None:
        super().__init__(groups)
        self.betas = betas
        self.eps = eps
        self.foreach = foreach
        self.decay = decay
        self.first: dict[str, Tensor] = {}
        self.second: dict[str, Tensor] = {}
        for group in self.groups:
            for name, parameter in group.parameters.items():
                self.first[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                self.second[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient."""
        for group in self.groups:
            names = [name for name, p in group.parameters.items() if p.grad is not None]
            for name in names:
                self.steps[name] += 1
            lr = learning_rate * group.lr_scale
            if self.foreach:
                for count in sorted({self.steps[name] for name in names}):
                    same = [name for name in names if self.steps[name] == count]
                    self._step_foreach(group, same, count, lr)
            else:
                for name in names:
                    self._step_plain(group, name, lr)

    def _step_plain(self, group: ParameterGroup, name: str, lr: float) -> None:
        weight, count = group.parameters[name], self.steps[name]
        gradient, (beta1, beta2) = weight.grad, self.betas
        assert gradient is not None
        first, second = self.first[name], self.second[name]
        first.mul_(beta1).add_(gradient, alpha=1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        unbiased_first = first / (1 - beta1**count)
        unbiased_second = second / (1 - beta2**count)
        step = lr * unbiased_first / (unbiased_second.sqrt() + self.eps)
        share = self._share(group, lr)
        if self.decay == "cautious":
            weight.sub_(share * weight * (step * weight >= 0))
        else:
            weight.mul_(1 - share)
        weight.sub_(step)

    def _share(self, group: ParameterGroup, lr: float) -> float:
        """The fraction of a weight that weight decay removes in one step."""
        return group.weight_decay if self.decay == "independent" else lr * group.weight_decay

    def _step_foreach(self, group: ParameterGroup, names: list[str], count: int, lr: float) -> None:
        """The plain step on many tensors per call; all have been updated `count - 1` times before."""
        beta1, beta2 = self.betas
        weights: list[Tensor] = [group.parameters[name] for name in names]
        gradients: list[Tensor] = [w.grad for w in weights if w.grad is not None]
        first = [self.first[name] for name in names]
        second = [self.second[name] for name in names]
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        denominator = torch._foreach_sqrt(second)
        torch._foreach_div_(denominator, math.sqrt(1 - beta2**count))
        torch._foreach_add_(denominator, self.eps)
        if group.weight_decay and self.decay == "cautious":
            # the step's sign is the first moment's: its denominator is positive
            for weight, moment in zip(weights, first, strict=True):
                weight.sub_(self._share(group, lr) * weight * (moment * weight >= 0))
        elif group.weight_decay:
            torch._foreach_mul_(weights, 1 - self._share(group, lr))
        torch._foreach_addcdiv_(weights, first, denominator, -lr / (1 - beta1**count))

    def flattened(self, backend: str | None = None) -> FlatAdamW | None:
        """The same over flat storage; None unless decay is decoupled and all is in float32 on a CPU.

        Parameters that have been updated a different number of times stay apart, too.
        """
        from glassbox.optim.flat import FlatAdamW

        on_cpu = all(p.dtype == torch.float32 and p.is_cpu for p in self.parameters())
        if self.decay != "decoupled" or not on_cpu or len(set(self.steps.values())) != 1:
            return None
        return FlatAdamW(
            self.groups,
            self.steps,
            self.first,
            self.second,
            betas=self.betas,
            eps=self.eps,
            backend=backend,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Both moments and the step count of every parameter."""
        state = {f"first.{name}": tensor for name, tensor in self.first.items()}
        state |= {f"second.{name}": tensor for name, tensor in self.second.items()}
        return state | super().state_dict()
