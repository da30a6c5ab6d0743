"""What an alarm says, and what a detector is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Alarm:
    """What was found, where, and what can be done. layer is None where it is no layer's."""

    kind: str
    step: int
    message: str
    remedy: str
    layer: str | None = None

    def record(self) -> dict[str, Any]:
        """As an event of metrics.jsonl."""
        return {"event": "alarm", **asdict(self)}

    def __str__(self) -> str:
        where = f" in {self.layer}" if self.layer else ""
        return f"{self.kind.replace('_', ' ')}{where}: {self.message}; {self.remedy}"


class Detector:
    """Looks at a run's figures in order and says when something is wrong. No tensors, no clock of its own.

    `step` gets one record a step: step, loss, main_loss, grad_norm, lr, reason (why it was skipped, or
    None), tokens_per_second, memory_bytes, rank_seconds (a list), repeated_share. `telemetry` gets
    a record of telemetry. What a detector keeps is JSON: numbers, strings, lists and mappings of them.
    `wants_telemetry`: the next step should be measured.
    """

    kind = ""

    def __init__(self) -> None:
        self.wants_telemetry = False

    def step(self, record: Mapping[str, Any]) -> Alarm | None:
        """The figures of one step."""
        return None

    def telemetry(self, record: Mapping[str, Any]) -> Alarm | None:
        """What telemetry measured at a step."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What it keeps, as JSON."""
        return vars(self).copy()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load it."""
        vars(self).update(state)


def push(values: list[float], value: float, longest: int) -> None:
    """Append, and drop the oldest beyond `longest`."""
    values.append(value)
    del values[: max(0, len(values) - longest)]


def deviation(values: Sequence[float]) -> float:
    """A robust standard deviation: 1.4826 times the median distance from the median."""
    middle = statistics.median(values)
    return 1.4826 * statistics.median(abs(value - middle) for value in values)


def by_layer(record: Mapping[str, Any], measure: str) -> dict[str, float]:
    """Telemetry's values of a measure by layer, those that are no number (null in JSON) as NaN.

    >>> by_layer({"grad_norm/blocks.0": 2.0, "lr": 1}, "grad_norm")
    {'blocks.0': 2.0}
    """
    start = f"{measure}/"
    return {
        key.removeprefix(start): math.nan if value is None else float(value)
        for key, value in record.items()
        if key.startswith(start)
    }


def most_grown(
    now: Mapping[str, float], before: Mapping[str, float], *, least: float = 0.0
) -> str | None:
    """The layer whose value grew by the largest factor, if that is `least` or more.

    One that is not finite has grown most.

    >>> most_grown({"a": 4.0, "b": 9.0}, {"a": 1.0, "b": 3.0}), most_grown({"a": 1}, {"a": 1}, least=2)
    ('a', None)
    """
    factors = {}
    for layer, value in now.items():
        if layer in before and before[layer] > 0:
            factors[layer] = value / before[layer] if math.isfinite(value) else math.inf
    first = max(factors, key=lambda layer: factors[layer], default=None)
    return first if first is not None and factors[first] >= least else None
