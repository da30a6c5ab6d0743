"""The folder that a run leaves behind, and the lock that keeps a second process out of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from glassbox.core.config import Spec, dump_yaml
from glassbox.core.environment import describe_environment
from glassbox.core.errors import UserError
from glassbox.core.files import remove_leftovers, write_json, write_text
from glassbox.core.yaml12 import load_yaml, read_yaml


class RunFolder:
    """`runs/NAME`: recipe.yaml, environment.json, metrics.jsonl, checkpoints/, DONE.json.

    As a context manager it holds the folder's lock; the lock dies with the process, so a killed
    run never blocks its own resume.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.yaml"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.done = self.path / "DONE.json"
        self._lock: FileLock | None = None

    def __enter__(self) -> RunFolder:
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"'{self.path}' is a file; name a folder for the run")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(str(self.path / ".lock"), timeout=0)
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"another process is working in '{self.path}'; wait for it or name another folder"
            ) from None
        except OSError as error:
            raise UserError(f"cannot write to '{self.path}': {error.strerror}") from None
        remove_leftovers(self.path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            self._lock.release()

    def begin(self, recipe: Spec) -> None:
        """Record the resolved recipe and the environment; refuse a folder of another recipe.

        Every value must be the same; what may differ between a run and its resume (where it is
        kept, say) is no part of `recipe`.
        """
        text = dump_yaml(recipe)
        if self.recipe.exists() and (old := load_yaml(self.recipe)) != read_yaml(text, "recipe"):
            change = first_difference(old, recipe.model_dump(mode="json"))
            raise UserError(
                f"'{self.path}' holds a run of another recipe ({change}); "
                "name another folder, or give the old values to go on with it"
            )
        if not self.recipe.exists():
            write_json(self.environment, describe_environment())
            write_text(self.recipe, text)

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the run finished; the last file that a run writes."""
        write_json(self.done, summary)

    @property
    def summary(self) -> dict[str, Any] | None:
        """What `finish` wrote; None while the run is unfinished."""
        if not self.done.exists():
            return None
        try:
            content = json.loads(self.done.read_text(encoding="utf-8"))
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise UserError(f"'{self.done}' is damaged; delete it and run again")
        return content


def first_difference(old: Any, new: Any, path: str = "") -> str:
    """Where two nested values part, as 'key: old -> new'.

    >>> first_difference({"a": {"b": 1}}, {"a": {"b": 2}})
    'a.b: 1 -> 2'
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            if old.get(key) != new.get(key):
                return first_difference(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    return f"{path or 'recipe'}: {old!r} -> {new!r}"
