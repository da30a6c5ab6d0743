"""Answers that a model has given, on disk: appended group by group, so that a kill loses none.

A line holds all answers of one group and is written and synced at once. What a kill cuts off is no
whole line and is dropped: the same groups are then asked as without the kill, to the same bits.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from glassbox.core.errors import UserError
from glassbox.evaluation.tasks.requests import Answer


def model_key(description: Mapping[str, Any]) -> str:
    """Short hash of all of a model's description that decides its answers."""
    content = {name: value for name, value in description.items() if name != "name"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class Cache:
    """Answers by request key, for one model; shared by all tasks and runs that write to its folder.

    folder: None keeps them in memory alone. Use as a context manager.
    Raises UserError where another process writes to the same file.
    """

    def __init__(self, folder: Path | None, description: Mapping[str, Any]) -> None:
        self.answers: dict[str, Answer] = {}
        self._stream: BinaryIO | None = None
        self.path = None if folder is None else folder / f"requests-{model_key(description)}.jsonl"
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self.path.open("a+b")
            self._lock()
            self._load()

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._stream is not None:
            self._stream.close()

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        assert self._stream is not None
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"another evaluation writes to '{self.path}'; wait for it, or give another --out"
            ) from None

    def _load(self) -> None:
        stream = self._stream
        assert stream is not None
        stream.seek(0)
        whole = 0
        for number, line in enumerate(stream, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                pairs = json.loads(line)
                self.answers.update({str(key): answer for key, answer in pairs})
            except (ValueError, TypeError):
                raise UserError(
                    f"'{self.path}' line {number} is damaged; remove the file"
                ) from None
            whole += len(line)
        stream.truncate(whole)
        stream.seek(0, os.SEEK_END)

    def add(self, pairs: Sequence[tuple[str, Answer]]) -> None:
        """Keep a group's answers; they are on the disk when this returns."""
        if self._stream is not None:
            line = json.dumps([[key, answer] for key, answer in pairs], ensure_ascii=False)
            self._stream.write(line.encode("utf-8", "replace") + b"\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())
        self.answers.update(pairs)
