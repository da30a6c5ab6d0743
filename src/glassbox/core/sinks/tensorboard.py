"""TensorBoard: event files in the run folder."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from glassbox.core.sinks.base import TrackerSink, TrackerSpec
from glassbox.core.yaml12 import write_yaml


class TensorBoard(TrackerSpec):
    """Event files for `tensorboard --logdir RUN/tensorboard`."""

    kind: Literal["tensorboard"] = "tensorboard"

    package: ClassVar[str] = "tensorboard"

    def build(self, folder: Path, recipe: Mapping[str, Any]) -> TensorBoardSink:
        """The sink of a run."""
        return TensorBoardSink(self, folder / "tensorboard", recipe)


class TensorBoardSink(TrackerSink):
    """Scalars and texts as events. A resumed run purges what a killed one wrote after its checkpoint."""

    def __init__(self, spec: TensorBoard, folder: Path, recipe: Mapping[str, Any]) -> None:
        super().__init__()
        self.spec = spec
        self.folder = folder
        self.recipe = recipe

    def open(self, step: int) -> None:
        """Open an event file; events of `step` and later in older files count no longer."""
        purge = step if self.folder.exists() else None
        self._writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(
            str(self.folder), purge_step=purge
        )
        if purge is None:
            self._writer.add_text("recipe", f"```yaml\n{write_yaml(dict(self.recipe))}```", step)

    def send(self, step: int, scalars: Mapping[str, float], texts: Mapping[str, str]) -> None:
        """Add each value under its name."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        for name, text in texts.items():
            self._writer.add_text(name, text, step)

    def finish(self) -> None:
        """Close the file."""
        self._writer.close()
