"""What trackers share: how a record of metrics becomes named scalars and texts."""

from __future__ import annotations

import importlib.util
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from glassbox.core.config import Spec
from glassbox.core.errors import UserError


class TrackerSpec(Spec, ABC):
    """A tracker in a recipe; the extra of Glassbox that brings it has the name of its kind."""

    package: ClassVar[str]
    """The package that it needs."""

    def check(self) -> None:
        """Raise UserError naming the extra where the package is not installed; nothing is imported."""
        if importlib.util.find_spec(self.package) is None:
            kind = getattr(self, "kind", "")
            raise UserError(
                f"logging.kind = '{kind}' needs the extra '{kind}': pip install "
                f"'glassbox-lm[{kind}]'"
            )

    @abstractmethod
    def build(self, folder: Path, recipe: Mapping[str, Any]) -> TrackerSink:
        """The sink of a run in `folder`; nothing is written before its first record."""


class TrackerSink(ABC):
    """Sends records to a tracker: numbers as scalars under a step, texts (samples) as texts.

    What training itself logs is "train/NAME", an evaluation "evaluation/NAME", telemetry
    "MEASURE/LAYER". Numbers that are not finite are left out, as trackers have no way to draw them.
    """

    def __init__(self) -> None:
        self.is_open = False

    def log(self, record: Mapping[str, Any]) -> None:
        """Send one record of metrics.jsonl."""
        step = int(record["step"])
        scalars, texts = split_record(record)
        if not (scalars or texts):
            return
        if not self.is_open:
            self.open(step)
            self.is_open = True
        self.send(step, scalars, texts)

    def close(self) -> None:
        """Finish, where anything was sent."""
        if self.is_open:
            self.is_open = False
            self.finish()

    @abstractmethod
    def open(self, step: int) -> None:
        """Begin, or go on, with a first record of `step`."""

    @abstractmethod
    def send(self, step: int, scalars: Mapping[str, float], texts: Mapping[str, str]) -> None:
        """Send values of a step."""

    @abstractmethod
    def finish(self) -> None:
        """Write out what is buffered and end."""


def split_record(record: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """The numbers and the texts of a record of metrics, by the names that trackers show.

    >>> split_record({"step": 3, "loss": 2.5, "lr": float("nan")})
    ({'train/loss': 2.5}, {})
    >>> split_record({"step": 3, "event": "evaluation", "heldout_loss": 2, "sample_0": "Once"})
    ({'evaluation/heldout_loss': 2.0}, {'evaluation/sample_0': 'Once'})
    """
    event = record.get("event", "train")
    scalars: dict[str, float] = {}
    texts: dict[str, str] = {}
    for key, value in record.items():
        if key in ("step", "event"):
            continue
        name = key if event == "telemetry" and "/" in key else f"{event}/{key}"
        if isinstance(value, str):
            texts[name] = value
        elif isinstance(value, (int, float)) and math.isfinite(value):
            scalars[name] = float(value)
    return scalars, texts
