"""SwanLab, offline unless asked otherwise."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from glassbox.core.sinks.base import TrackerSink, TrackerSpec


class SwanLab(TrackerSpec):
    """Files in RUN/swanlab; offline ones are sent later with `swanlab sync`."""

    kind: Literal["swanlab"] = "swanlab"
    project: str = "glassbox"
    name: str | None = Field(None, description="of the run; None: the run folder's")
    mode: Literal["offline", "local", "online"] = "offline"

    package: ClassVar[str] = "swanlab"

    def build(self, folder: Path, recipe: Mapping[str, Any]) -> SwanLabSink:
        """The sink of a run."""
        return SwanLabSink(self, folder, recipe)


class SwanLabSink(TrackerSink):
    """One experiment a start; a resumed run begins another one of the same name."""

    def __init__(self, spec: SwanLab, folder: Path, recipe: Mapping[str, Any]) -> None:
        super().__init__()
        self.spec = spec
        self.folder = folder
        self.recipe = recipe

    def open(self, step: int) -> None:
        """Begin an experiment."""
        self._client = importlib.import_module("swanlab")
        folder = self.folder / "swanlab"
        folder.mkdir(exist_ok=True)
        self._client.init(
            project=self.spec.project,
            name=self.spec.name or self.folder.resolve().name,
            log_dir=str(folder),
            mode=self.spec.mode,
            config=dict(self.recipe),
        )

    def send(self, step: int, scalars: Mapping[str, float], texts: Mapping[str, str]) -> None:
        """Log all values of a step."""
        shown = {name: self._client.Text(text) for name, text in texts.items()}
        self._client.log({**scalars, **shown}, step=step)

    def finish(self) -> None:
        """Close the experiment."""
        self._client.finish()
