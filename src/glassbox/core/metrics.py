"""Metrics as JSON lines; a resumed run truncates the records that it will write again."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from glassbox.core.errors import UserError
from glassbox.core.files import write_bytes


class MetricsSink(Protocol):
    """Protocol of a destination for metrics records: a file, a dashboard, a list in a test."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Log one record."""


class JsonlSink:
    """Appends records to a file, each flushed, so that a kill loses at most the line being written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("ab")

    def log(self, record: Mapping[str, Any]) -> None:
        """Write one line. NaN and infinities become null, since JSON has none.

        Raises UserError where the disk is full.
        """
        try:
            self._stream.write(_line(record))
            self._stream.flush()
        except OSError as error:
            raise UserError(
                f"cannot write '{self.path}': {error.strerror}; mend that and run again: "
                "what was finished before is whole"
            ) from error

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # a full disk has been reported by `log`
            self._stream.close()


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(_finite(record), ensure_ascii=False, allow_nan=False) + "\n").encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return all records of a metrics file; a truncated last line, left by a killed run, is skipped.

    Raises UserError naming any other damaged line.
    """
    if not path.exists():
        return []
    *lines, _half_written = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise UserError(f"'{path}' line {number} is damaged; delete that line")
        records.append(record)
    return records


def truncate_metrics(path: Path, step: int) -> None:
    """Keep only records of steps up to `step`; later ones are written again on resume."""
    if not path.exists():
        return
    kept = [record for record in read_metrics(path) if record.get("step", 0) <= step]
    write_bytes(path, b"".join(_line(record) for record in kept))
