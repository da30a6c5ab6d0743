"""Sums of metrics over the micro-batches of a step and over the steps of a logging interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from glassbox.training.protocols import Number, ObjectiveOutput


def add_up(outputs: Iterable[ObjectiveOutput]) -> dict[str, list[float]]:
    """name -> [sum, weight] over micro-batches, including the loss; synchronizes with the device once."""
    names: list[str] = []
    numbers: list[Number] = []
    for output in outputs:
        pairs = {**output.metrics, "loss": (output.loss_sum, output.weight)}
        names.extend(pairs)
        numbers.extend(number for pair in pairs.values() for number in pair)
    totals = {"loss": [0.0, 0.0]}
    values = _to_floats(numbers)
    for name, value, weight in zip(names, values[::2], values[1::2], strict=True):
        pair = totals.setdefault(name, [0.0, 0.0])
        pair[0] += value
        pair[1] += weight
    return totals


def _to_floats(numbers: Sequence[Number]) -> list[float]:
    tensors = [number.detach() for number in numbers if isinstance(number, Tensor)]
    if not tensors:
        return [float(number) for number in numbers]
    device = tensors[0].device
    dtype = torch.float32 if device.type == "mps" else torch.float64  # mps has no float64
    fetched = iter(torch.stack([t.to(device=device, dtype=dtype) for t in tensors]).tolist())
    return [next(fetched) if isinstance(number, Tensor) else float(number) for number in numbers]


class MetricsWindow:
    """Accumulates metrics over the steps since the last line of metrics."""

    def __init__(self) -> None:
        self.last_loss = 0.0
        self.reason: str | None = None
        self.clear()

    def clear(self) -> None:
        """Reset all sums."""
        self.totals: dict[str, list[float]] = {}
        self.tokens = 0
        self.norm = 0.0
        self.lr = 0.0
        self.seconds = 0.0
        self.phases: dict[str, float] = {}
        self.steps = 0

    def add(
        self,
        totals: dict[str, list[float]],
        tokens: int,
        norm: float,
        lr: float,
        seconds: float,
        phases: Mapping[str, float],
        reason: str | None,
    ) -> None:
        """Add one step's sums; `phases` are the seconds of its parts: data, forward, ..."""
        total, weight = totals["loss"]
        self.last_loss = total / weight if weight else 0.0
        self.reason = reason
        for name, (value, share) in {} if reason else totals.items():
            pair = self.totals.setdefault(name, [0.0, 0.0])
            pair[0] += value
            pair[1] += share
        self.tokens += tokens
        self.norm, self.lr = norm, lr
        self.seconds += seconds
        for name, part in phases.items():
            self.phases[name] = self.phases.get(name, 0.0) + part
        self.steps += 1

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second since the last line."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def means(self) -> dict[str, float]:
        """One line of metrics: weighted means over the window; gradient norm and rate of its last step."""
        means = {name: total / weight for name, (total, weight) in self.totals.items() if weight}
        return {
            **means,
            "grad_norm": self.norm,
            "lr": self.lr,
            "step_seconds": self.seconds / max(1, self.steps),
            **{f"{name}_seconds": s / max(1, self.steps) for name, s in self.phases.items()},
            "tokens_per_second": self.tokens_per_second,
        }

    def state_dict(self) -> dict[str, Any]:
        """The sums, as JSON, so that a resumed run logs the same line as an uninterrupted one."""
        return vars(self).copy()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the sums."""
        vars(self).update({"phases": {}, **state})
