"""Alarms on telemetry alone: dead layers, vanishing updates, router collapse."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from glassbox.training.alarms.base import Alarm, Detector, by_layer


class DeadLayer(Detector):
    """A branch that adds nothing, or a feed-forward most of whose units are dead or saturated.

    Thresholds: root mean square of a branch's output below 1e-5 of the residual stream's; 50% of units.
    """

    kind = "dead_layer"
    OUTPUT, UNITS = 1e-5, 0.5

    def __init__(self) -> None:
        super().__init__()
        self.raised: list[str] = []

    def telemetry(self, record: Mapping[str, Any]) -> Alarm | None:
        """The first layer of these."""
        stream = by_layer(record, "residual_rms")
        found = [
            (part.rpartition(".")[0], f"the output of {part} is nothing")
            for part, value in by_layer(record, "activation_rms").items()
            if value < self.OUTPUT * stream.get(part.rpartition(".")[0], 0.0)
        ]
        for measure in ("dead_units", "saturated_units"):
            found += [
                (layer, f"{100 * share:.0f}% {measure.replace('_', ' ')}")
                for layer, share in by_layer(record, measure).items()
                if share >= self.UNITS
            ]
        for layer, words in found:
            if alarm := self._say(record, layer, words):
                return alarm
        return None

    def _say(self, record: Mapping[str, Any], layer: str, words: str) -> Alarm | None:
        if layer in self.raised:
            return None
        self.raised.append(layer)
        return Alarm(
            self.kind,
            record["step"],
            words,
            "lower train.lr, check model.init and that the layer is trained",
            layer,
        )


class VanishingUpdates(Detector):
    """A layer whose weights hardly change while others' do.

    Threshold: |update| / |weights| below 1e-3 of the median over layers with matrices, at two
    measurements in a row. Measured again after the first.
    """

    kind = "vanishing_updates"
    SHARE, TIMES = 1e-3, 2

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.raised: list[str] = []

    def telemetry(self, record: Mapping[str, Any]) -> Alarm | None:
        """Compare layers with one another."""
        ratios = by_layer(record, "update_ratio")
        if len(ratios) < 3:
            return None
        usual = statistics.median(ratios.values())
        slow = [layer for layer, ratio in ratios.items() if ratio < self.SHARE * usual]
        self.counts = {layer: self.counts.get(layer, 0) + 1 for layer in slow}
        ready = [n for n in slow if self.counts[n] >= self.TIMES and n not in self.raised]
        self.wants_telemetry = any(n not in self.raised for n in slow) and not ready
        if not ready:
            return None
        self.raised.append(ready[0])
        return Alarm(
            self.kind,
            record["step"],
            f"update / weight {ratios[ready[0]]:.1e}, median of layers {usual:.1e}",
            "check that its gradient arrives (frozen, detached, masked out) and its learning rate",
            ready[0],
        )


class RouterCollapse(Detector):
    """Experts of which few get the tokens.

    Threshold: entropy of the load below 0.6 of the even one, or half of the experts idle, at two
    measurements in a row (the rows that are looked at are few).
    """

    kind = "router_collapse"
    ENTROPY, IDLE, TIMES = 0.6, 0.5, 2

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.raised: list[str] = []

    def telemetry(self, record: Mapping[str, Any]) -> Alarm | None:
        """Each layer with experts."""
        idle = by_layer(record, "idle_experts")
        entropies = by_layer(record, "expert_entropy")
        low = [n for n, e in entropies.items() if e < self.ENTROPY or idle.get(n, 0) >= self.IDLE]
        self.counts = {layer: self.counts.get(layer, 0) + 1 for layer in low}
        ready = [n for n in low if self.counts[n] >= self.TIMES and n not in self.raised]
        self.wants_telemetry = any(n not in self.raised for n in low) and not ready
        if not ready:
            return None
        layer = ready[0]
        self.raised.append(layer)
        return Alarm(
            self.kind,
            record["step"],
            f"load entropy {entropies[layer]:.2f} of the even one, "
            f"{100 * idle.get(layer, 0):.0f}% of experts idle",
            "raise the balance loss or use balance_bias; lower the router's learning rate",
            layer,
        )
