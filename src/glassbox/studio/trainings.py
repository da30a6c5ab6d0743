"""Training runs in folders: state, progress, and metrics while they are written."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from glassbox.core.errors import UserError
from glassbox.formats.checkpoints import checkpoint_step, list_checkpoints
from glassbox.reports.run_data import RunReader
from glassbox.studio.models import find_runs

_LIVE_SECONDS = 60.0
_MOST_BYTES = 8 << 20
_SHORT = 65_536


class Trainings:
    """The runs that lie in `folders`, looked for anew each time, since runs begin and end."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = list(folders)
        self._more: Callable[[], Sequence[Path]] = tuple

    def also(self, more: Callable[[], Sequence[Path]]) -> None:
        """Add a function that returns further folders to look in."""
        self._more = more

    def paths(self) -> dict[str, Path]:
        """Name, as on the command line, -> folder."""
        return {
            str(run): run for folder in (*self._folders, *self._more()) for run in find_runs(folder)
        }

    def find(self, name: str) -> Path:
        """A run's folder. Raises UserError for what is not among `paths`."""
        found = self.paths().get(name)
        if found is None:
            raise UserError(f"there is no run {name[:100]!r} in the folders of this studio")
        return found

    def cards(self) -> list[dict[str, Any]]:
        """What a list of runs shows of each."""
        return [_card(name, path) for name, path in self.paths().items()]

    def details(self, name: str) -> dict[str, Any]:
        """A run's card, with its recipe, environment, checkpoints and samples."""
        path = self.find(name)
        reader = RunReader(path)
        group = RunReader(path.parent)
        samples = group.mapping(path.parent / "samples.json").get(path.name)
        return {
            **_card(name, path),
            "recipe": reader.text(path / "recipe.yaml"),
            "environment": reader.mapping(path / "environment.json"),
            "summary": reader.mapping(path / "DONE.json"),
            "facts": reader.mapping(path / "data.json"),
            "samples": samples if isinstance(samples, list) else [],
            "evaluations": group.mapping(path.parent / "evaluations.json").get(path.name),
            "notes": reader.notes,
        }

    def metrics(self, name: str, offset: int = 0) -> dict[str, Any]:
        """Whole lines of metrics.jsonl from this byte on, and where the next begin.

        A file shorter than `offset` was begun anew: it is read from its start, and `restarted` says so.
        """
        path = self.find(name) / "metrics.jsonl"
        try:
            size = path.stat().st_size
            restarted = offset > size
            with path.open("rb") as stream:
                stream.seek(0 if restarted else offset)
                content = stream.read(_MOST_BYTES)
        except OSError as error:
            raise UserError(f"'{path}' cannot be read: {error.strerror}") from None
        whole = content.rpartition(b"\n")[0] + b"\n" if b"\n" in content else b""
        begun = 0 if restarted else offset
        records = [record for line in whole.splitlines() if (record := _record(line)) is not None]
        return {"records": records, "offset": begun + len(whole), "restarted": restarted}


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("step"), int) else None


def _card(name: str, path: Path) -> dict[str, Any]:
    metrics = path / "metrics.jsonl"
    changed, last = 0.0, []
    try:
        state = metrics.stat()
        changed = state.st_mtime
        with metrics.open("rb") as stream:
            stream.seek(max(0, state.st_size - _SHORT))
            lines = stream.read(_SHORT).split(b"\n")
        last = [record for line in lines if (record := _record(line)) is not None]
    except OSError:
        pass
    losses = [record["loss"] for record in last if isinstance(record.get("loss"), float)]
    status = "stopped"
    if (path / "DONE.json").exists():
        status = "finished"
    elif time.time() - changed < _LIVE_SECONDS:
        status = "running"
    return {
        "name": name,
        "stage": path.name,
        "status": status,
        "changed": changed,
        "step": max((record["step"] for record in last), default=0),
        "loss": losses[-1] if losses else None,
        "checkpoints": [checkpoint_step(one) for one in list_checkpoints(path / "checkpoints")],
    }
