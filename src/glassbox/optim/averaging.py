"""Exponential moving average of weights (`train.ema`), for evaluation and for what is saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from glassbox.core.config import Spec


class WeightAverageConfig(Spec):
    """Settings of the moving average of all trained weights."""

    decay: float = Field(0.999, ge=0, lt=1, description="share of the average kept at each step")
    warmup: bool = Field(
        True, description="decay at update t is at most (1 + t) / (10 + t), so that it starts fast"
    )
    evaluate: bool = Field(True, description="evaluate and sample with the average")
    save: Literal["average", "trained"] = Field(
        "average", description="weights in each checkpoint's model; the other is in training/"
    )

    def build(self, model: nn.Module) -> WeightAverage:
        """Return the average over the model's trainable parameters, equal to them as they are."""
        named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        return WeightAverage(named, decay=self.decay, warmup=self.warmup)


class WeightAverage:
    """a <- d a + (1 - d) w after every update, with d = min(decay, (1 + t) / (10 + t)) at update t = 1, 2, ...

    Without `warmup` d is `decay`. The average is kept in float32 or wider: in bfloat16 a step of
    (1 - d) would be lost. A skipped step changes nothing. Source: Polyak and Juditsky 1992; the
    warm-up is TensorFlow's `ExponentialMovingAverage(num_updates=...)`.
    Tested against: the formula as a loop, and torch.optim.swa_utils.get_ema_multi_avg_fn.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], *, decay: float, warmup: bool = True
    ) -> None:
        self.parameters = dict(parameters)
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self.average: dict[str, Tensor] = {}
        self.reset()

    def reset(self) -> None:
        """Start again from the weights as they are."""
        self.updates = 0
        self.average = {
            name: p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True)
            for name, p in self.parameters.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights; call it after each optimizer step that was taken."""
        self.updates += 1
        decay = self.decay
        if self.warmup:
            decay = min(decay, (1 + self.updates) / (10 + self.updates))
        averages = list(self.average.values())
        weights = [
            p.detach().to(a.dtype) for p, a in zip(self.parameters.values(), averages, strict=True)
        ]
        torch._foreach_lerp_(averages, weights, 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[dict[str, Tensor]]:
        """The model holds the average inside; yields copies of the trained weights, put back to the bit."""
        trained = {name: p.detach().clone() for name, p in self.parameters.items()}
        try:
            self._fill(self.average)
            yield trained
        finally:
            self._fill(trained)

    @torch.no_grad()
    def _fill(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    def state_dict(self, trained: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The average and the count of updates; `trained`: the weights, where the model has the average."""
        state = {f"average.{name}": tensor for name, tensor in self.average.items()}
        state |= {f"trained.{name}": tensor for name, tensor in (trained or {}).items()}
        return {**state, "updates": torch.tensor(self.updates)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the average, and the trained weights into the model where the state has them.

        Raises ValueError naming the first weight that is missing or has another shape.
        """
        trained = any(key.startswith("trained.") for key in state)
        for name, tensor in self.average.items():
            for key in (f"average.{name}", *((f"trained.{name}",) if trained else ())):
                if key not in state or state[key].shape != tensor.shape:
                    raise ValueError(f"the saved weight average and the model differ in '{key}'")
        self.updates = int(state["updates"])
        for name, tensor in self.average.items():
            tensor.copy_(state[f"average.{name}"])
        if trained:
            self._fill({name: state[f"trained.{name}"] for name in self.average})
