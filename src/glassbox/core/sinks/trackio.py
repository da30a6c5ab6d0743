"""Trackio, whose dashboard reads a local database."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from glassbox.core.sinks.base import TrackerSink, TrackerSpec


class Trackio(TrackerSpec):
    """A database in RUN/trackio, shown by `TRACKIO_DIR=RUN/trackio trackio show`; nothing is sent."""

    kind: Literal["trackio"] = "trackio"
    project: str = "glassbox"
    name: str | None = Field(None, description="of the run; None: the run folder's")

    package: ClassVar[str] = "trackio"

    def build(self, folder: Path, recipe: Mapping[str, Any]) -> TrackioSink:
        """The sink of a run."""
        return TrackioSink(self, folder, recipe)


class TrackioSink(TrackerSink):
    """One run a run folder; a resumed one goes on."""

    def __init__(self, spec: Trackio, folder: Path, recipe: Mapping[str, Any]) -> None:
        super().__init__()
        self.spec = spec
        self.folder = folder
        self.recipe = recipe

    def open(self, step: int) -> None:
        """Begin or go on with the run."""
        # read when the client is imported; an own setting of the user's counts
        os.environ.setdefault("TRACKIO_DIR", str((self.folder / "trackio").resolve()))
        client = importlib.import_module("trackio")
        self._run = client.init(
            project=self.spec.project,
            name=self.spec.name or self.folder.resolve().name,
            config=dict(self.recipe),
            resume="allow",
            embed=False,
        )

    def send(self, step: int, scalars: Mapping[str, float], texts: Mapping[str, str]) -> None:
        """Log all values of a step."""
        self._run.log({**scalars, **texts}, step=step)

    def finish(self) -> None:
        """Wait until all is written."""
        self._run.finish()
