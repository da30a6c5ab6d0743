"""Alarms on the loss: not finite, spikes, slow divergence, below the known entropy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from glassbox.training.alarms.base import Alarm, Detector, by_layer, deviation, most_grown, push


class NotFinite(Detector):
    """A loss or gradient norm that is no number, or telemetry that holds one.

    Threshold: any. The layer is the first (from the embedding on) whose activations are not finite; where
    all are, the last whose gradients are not, since NaN runs backward from there.
    """

    kind = "not_finite"

    def __init__(self) -> None:
        super().__init__()
        self.at = 0
        self.quiet_until = 0

    def step(self, record: Mapping[str, Any]) -> Alarm | None:
        """Wait for the measurement that the loop makes of such a step; overflows of float16 are usual."""
        bad = not (math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"]))
        overflow = str(record.get("reason") or "").startswith("float16 overflow")
        self.at = record["step"] if bad and not overflow else 0
        return None

    def telemetry(self, record: Mapping[str, Any]) -> Alarm | None:
        """The figures of such a step by layer."""
        activations = {**by_layer(record, "residual_rms"), **by_layer(record, "logit_rms")}
        gradients = by_layer(record, "grad_norm")
        forward = [layer for layer, value in activations.items() if not math.isfinite(value)]
        backward = [layer for layer, value in gradients.items() if not math.isfinite(value)]
        if not (self.at or forward or backward) or record["step"] < self.quiet_until:
            return None
        self.quiet_until = record["step"] + 50
        layer = None
        if forward:
            layer = min(forward, key=_place)
        elif backward:
            layer = max(backward, key=_place)
        return Alarm(
            self.kind,
            record["step"],
            "activations are not finite" if forward else "gradients are not finite",
            "look at the batch with `glassbox replay`; lower train.lr, lengthen the warm-up, or use "
            "bfloat16 or float32 where this is float16",
            layer,
        )


def _place(layer: str) -> tuple[int, int]:
    """Order from input to output."""
    first, _, number = layer.partition(".")
    order = {"embedding": 0, "position_embedding": 0, "embedding_norm": 1, "blocks": 2}
    return order.get(first, 3), int(number) if number.isdigit() else 0


class Spike(Detector):
    """A loss far above the last ones, or a gradient norm of many times the usual.

    Thresholds: loss above the median of the last 50 by 8 robust deviations and by 8%, or gradient norm
    above 8 times the median of the last 50. The layer is that of the branch whose output grew most since
    the last measurement, if it doubled, else the one whose gradient did: the step after is measured.
    """

    kind = "spike"
    WINDOW, DEVIATIONS, SHARE, TIMES, FROM = 50, 8.0, 0.08, 8.0, 20

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.usual: dict[str, float] = {}
        self.outputs: dict[str, float] = {}
        self.said = ""
        self.quiet_until = 0

    def step(self, record: Mapping[str, Any]) -> Alarm | None:
        """Compare with the steps before."""
        loss, norm, step = record["loss"], record["grad_norm"], record["step"]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return None
        if len(self.losses) >= self.FROM and step >= self.quiet_until:
            middle = statistics.median(self.losses)
            over = max(self.DEVIATIONS * deviation(self.losses), self.SHARE * abs(middle))
            usual = statistics.median(self.norms)
            if loss > middle + over:
                self.said = f"loss {loss:.4g}, usual {middle:.4g}"
            elif norm > self.TIMES * usual:
                self.said = f"gradient norm {norm:.3g}, usual {usual:.3g}"
            if self.said:
                self.wants_telemetry = True
                self.quiet_until = step + self.WINDOW
        push(self.losses, loss, self.WINDOW)
        push(self.norms, norm, self.WINDOW)
        return None

    def telemetry(self, record: Mapping[str, Any]) -> Alarm | None:
        """Name the layer, or remember what is usual."""
        now = by_layer(record, "grad_norm")
        outputs: dict[str, float] = {}
        for part, value in by_layer(record, "activation_rms").items():
            layer = part.rpartition(".")[0]
            outputs[layer] = max(outputs.get(layer, 0.0), value)
        if not self.said:
            self.usual, self.outputs = now, outputs
            return None
        grown = most_grown(outputs, self.outputs, least=2.0)
        said, self.said, self.wants_telemetry = self.said, "", False
        return Alarm(
            self.kind,
            record["step"],
            said,
            "`glassbox replay` names the documents that weigh most; set train.guard.spike_factor to skip "
            "such steps",
            grown or most_grown(now, self.usual),
        )


class SlowDivergence(Detector):
    """A loss that goes up and stays up.

    Threshold: the median of the last 20 losses above the lowest such median by 6 standard errors of
    a median and by 3%, for 10 steps in a row. The layer is the one whose residual stream grew most
    since the lowest, measured again.
    """

    kind = "slow_divergence"
    WINDOW, ERRORS, SHARE, PATIENCE = 20, 6.0, 0.03, 10

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.lowest = math.inf
        self.over = 0
        self.usual: dict[str, float] = {}
        self.pending = ""
        self.raised = False

    def step(self, record: Mapping[str, Any]) -> Alarm | None:
        """Compare the median with the lowest."""
        if not math.isfinite(record["loss"]):
            return None
        push(self.losses, record["loss"], self.WINDOW)
        if len(self.losses) < self.WINDOW:
            return None
        middle = statistics.median(self.losses)
        error = 1.2533 * deviation(self.losses) / math.sqrt(self.WINDOW)
        limit = self.lowest + max(self.ERRORS * error, self.SHARE * abs(self.lowest))
        self.over = self.over + 1 if middle > limit else 0
        if middle < self.lowest:
            self.lowest, self.raised = middle, False
        if self.over >= self.PATIENCE and not self.raised:
            self.raised = self.wants_telemetry = True
            self.pending = f"median loss {middle:.4g}, lowest {self.lowest:.4g}"
        return None

    def telemetry(self, record: Mapping[str, Any]) -> Alarm | None:
        """Name the layer, or remember what was usual while all was well."""
        now = {**by_layer(record, "residual_rms"), **by_layer(record, "logit_rms")}
        if not self.pending:
            if self.over == 0:
                self.usual = now
            return None
        said, self.pending, self.wants_telemetry = self.pending, "", False
        steps = {}
        last, last_before = 1.0, 1.0
        for layer in sorted(now, key=_place):  # what each layer itself adds to the growth
            if layer in self.usual and last > 0 and self.usual[layer] > 0:
                steps[layer] = (now[layer] / last) / (self.usual[layer] / last_before)
                last, last_before = now[layer], self.usual[layer]
        return Alarm(
            self.kind,
            record["step"],
            said,
            "go back to the best checkpoint with a lower train.lr; check that the data did not change",
            max(steps, key=lambda layer: steps[layer]) if steps else None,
        )


class BelowEntropy(Detector):
    """A loss below what the data's entropy allows: targets leak into the input.

    Threshold: the mean of the last 20 losses (main_loss where there is one) below `entropy_nats` by
    5 standard errors and by 2%. Only where the entropy is known.
    """

    kind = "below_entropy"
    WINDOW, ERRORS, SHARE = 20, 5.0, 0.02

    def __init__(self, entropy_nats: float | None) -> None:
        super().__init__()
        self.entropy = entropy_nats
        self.losses: list[float] = []
        self.raised = False

    def step(self, record: Mapping[str, Any]) -> Alarm | None:
        """Compare the mean with the entropy."""
        loss = record.get("main_loss") or record["loss"]
        if self.entropy is None or self.raised or not math.isfinite(loss):
            return None
        push(self.losses, loss, self.WINDOW)
        if len(self.losses) < self.WINDOW:
            return None
        mean = statistics.fmean(self.losses)
        error = statistics.stdev(self.losses) / math.sqrt(self.WINDOW)
        if mean > self.entropy - max(self.ERRORS * error, self.SHARE * self.entropy):
            return None
        self.raised = True
        return Alarm(
            self.kind,
            record["step"],
            f"mean loss {mean:.4f} is below the data's entropy of {self.entropy:.4f} nats",
            "the model sees what it is to predict, or the same text again and again: check masks, the shift "
            "of targets, and repeated documents",
        )
