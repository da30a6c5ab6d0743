"""Weights & Biases, offline unless asked otherwise."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from glassbox.core.sinks.base import TrackerSink, TrackerSpec


class WeightsAndBiases(TrackerSpec):
    """Files in RUN/wandb; offline ones are sent later with `wandb sync RUN/wandb/offline-run-*`."""

    kind: Literal["wandb"] = "wandb"
    project: str = "glassbox"
    name: str | None = Field(None, description="of the run; None: the run folder's")
    mode: Literal["offline", "online"] = "offline"

    package: ClassVar[str] = "wandb"

    def build(self, folder: Path, recipe: Mapping[str, Any]) -> WeightsAndBiasesSink:
        """The sink of a run."""
        return WeightsAndBiasesSink(self, folder, recipe)


class WeightsAndBiasesSink(TrackerSink):
    """One run a run folder: a resumed one has the same id and goes on."""

    def __init__(self, spec: WeightsAndBiases, folder: Path, recipe: Mapping[str, Any]) -> None:
        super().__init__()
        self.spec = spec
        self.folder = folder
        self.recipe = recipe

    def open(self, step: int) -> None:
        """Begin or go on with the run of this folder."""
        self._run = importlib.import_module("wandb").init(
            project=self.spec.project,
            name=self.spec.name or self.folder.resolve().name,
            id=run_id(self.folder),
            resume="allow",
            dir=str(self.folder),
            mode=self.spec.mode,
            config=dict(self.recipe),
        )

    def send(self, step: int, scalars: Mapping[str, float], texts: Mapping[str, str]) -> None:
        """Log all values of a step."""
        self._run.log({**scalars, **texts}, step=step)

    def finish(self) -> None:
        """Wait until all is written (online: sent)."""
        self._run.finish()


def run_id(folder: Path) -> str:
    """A name for the run in a folder that is the same each time.

    >>> run_id(Path("runs/a")) == run_id(Path("runs/a")) != run_id(Path("runs/b"))
    True
    """
    return hashlib.blake2b(str(folder.resolve()).encode(), digest_size=8).hexdigest()
