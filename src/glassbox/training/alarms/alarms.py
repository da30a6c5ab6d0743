"""All alarms of a run together."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator

from glassbox.core.config import Spec
from glassbox.training.alarms.base import Alarm, Detector
from glassbox.training.alarms.layers import DeadLayer, RouterCollapse, VanishingUpdates
from glassbox.training.alarms.loss import BelowEntropy, NotFinite, SlowDivergence, Spike
from glassbox.training.alarms.machine import (
    MemoryGrowth,
    RepeatedData,
    SlowRank,
    ThroughputLoss,
)


class AlarmsConfig(Spec):
    """Which alarms a run raises; the thresholds are those of each detector's class."""

    ignore: tuple[str, ...] = Field((), description="kinds that are not looked for")
    entropy_nats: float | None = Field(
        None, gt=0, description="the data's entropy a token, where it is known"
    )

    @model_validator(mode="after")
    def _kinds_exist(self) -> AlarmsConfig:
        self.build()
        return self

    def build(self) -> Alarms:
        """The detectors, with nothing seen yet. Raises ValueError for an unknown kind in `ignore`."""
        return Alarms(self)


class Alarms:
    """Passes a run's figures to every detector; what they keep is saved with a checkpoint."""

    def __init__(self, config: AlarmsConfig) -> None:
        every: list[Detector] = [
            NotFinite(),
            Spike(),
            SlowDivergence(),
            BelowEntropy(config.entropy_nats),
            DeadLayer(),
            VanishingUpdates(),
            RouterCollapse(),
            RepeatedData(),
            ThroughputLoss(),
            MemoryGrowth(),
            SlowRank(),
        ]
        kinds = [detector.kind for detector in every]
        if unknown := [kind for kind in config.ignore if kind not in kinds]:
            raise ValueError(f"alarms.ignore = '{unknown[0]}' is no alarm; use {', '.join(kinds)}")
        self.detectors = [one for one in every if one.kind not in config.ignore]
        self.rows = SeenRows()

    @property
    def wants_telemetry(self) -> bool:
        """Whether the next step should be measured."""
        return any(detector.wants_telemetry for detector in self.detectors)

    def step(self, record: Mapping[str, Any]) -> list[Alarm]:
        """Alarms raised by a step's figures."""
        return [a for detector in self.detectors if (a := detector.step(record)) is not None]

    def telemetry(self, record: Mapping[str, Any]) -> list[Alarm]:
        """Alarms raised by a measurement."""
        return [a for detector in self.detectors if (a := detector.telemetry(record)) is not None]

    def state_dict(self) -> dict[str, Any]:
        """What the detectors keep, as JSON; rows that were seen are not part of it."""
        return {detector.kind: detector.state_dict() for detector in self.detectors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load it; kinds that are not there begin anew."""
        for detector in self.detectors:
            if detector.kind in state:
                detector.load_state_dict(state[detector.kind])


class SeenRows:
    """Which rows were trained on a short while ago, by a checksum of their token ids.

    Kept for a quarter of an epoch of steps, at most MOST rows. Checkpoints do not hold them: a resumed
    run begins to look anew.
    """

    MOST = 1 << 20

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def share(self, batches: Sequence[Any], step: int, steps_per_epoch: float | None) -> float:
        """The share of a step's rows that were seen; those of the step itself are added.

        Only batches of token ids in ordinary memory are looked at; 0 for others.
        """
        reach = None if steps_per_epoch is None else steps_per_epoch / 4
        marks = []
        for batch in batches:
            ids = getattr(batch, "ids", None)
            if ids is None or ids.device.type != "cpu" or ids.dim() != 2:
                return 0.0
            marks += [zlib.crc32(row.tobytes()) for row in ids.numpy()]
        again = [
            mark in self._seen and (reach is None or step - self._seen[mark] <= reach)
            for mark in marks
        ]
        for mark in marks:
            self._seen.pop(mark, None)
            self._seen[mark] = step
        while len(self._seen) > self.MOST:
            del self._seen[next(iter(self._seen))]
        return sum(again) / len(again) if again else 0.0
