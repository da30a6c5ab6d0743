"""Metrics: one JSON object a line, appended; a resumed run takes back what it will do again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from glassbox.core.files import write_text


class MetricsSink(Protocol):
    """Anything that takes records: a file, a dashboard, a list in a test."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Take one record."""


class JsonlSink:
    """Appends records to a file, each flushed, so that a kill loses at most the line being written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("a", encoding="utf-8")

    def log(self, record: Mapping[str, Any]) -> None:
        """Write one line. NaN and infinities become null, since JSON has none."""
        clean = {key: _finite(value) for key, value in record.items()}
        self._stream.write(json.dumps(clean, ensure_ascii=False, allow_nan=False) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole records of a metrics file; a half-written last line (a kill's trace) is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def truncate_metrics(path: Path, step: int) -> None:
    """Keep only records of steps up to `step`: those after it will be written again on resume."""
    if not path.exists():
        return
    kept = [record for record in read_metrics(path) if record.get("step", 0) <= step]
    write_text(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept))
