"""Run folders: their files, and the lock that keeps other processes out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from glassbox.core.config import Spec, as_yaml, dump_yaml
from glassbox.core.environment import describe_environment
from glassbox.core.errors import UserError
from glassbox.core.files import remove_leftovers, write_json, write_text
from glassbox.core.yaml12 import load_yaml, read_yaml, write_yaml

PREPARED = "preparation.json"
Harmless = Callable[[str, Any, Any], bool]
"""(key, old value, new value) -> whether a run may go on with the new one."""
LEFT_BY_RUNS = (
    "recipe.yaml", "environment.json", "metrics.jsonl", "data.json", "models.json", "heldout.json",
    "best.json", PREPARED, "data", "tokenizer", "teacher", "teacher-heldout", "checkpoints",
)  # fmt: skip
"""Files that a training run creates in its folder before its first checkpoint."""


class RunFolder:
    """`runs/NAME`: recipe.yaml, environment.json, metrics.jsonl, checkpoints/, DONE.json.

    As a context manager it holds the folder's lock; the lock dies with the process, so a killed
    run never blocks its own resume. Files of a run that has not begun (see `has_begun`) may be
    replaced by another command; `withdraw` deletes those made by this process.
    leaves: names of the files that this kind of run creates before it has begun; begun_by: glob
        pattern of files that exist once it has begun.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        leaves: Sequence[str] = LEFT_BY_RUNS,
        begun_by: str = "checkpoints/step-*/COMPLETE",
    ) -> None:
        self.path = Path(path)
        self.leaves = tuple(leaves)
        self.begun_by = begun_by
        self.recipe = self.path / "recipe.yaml"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.done = self.path / "DONE.json"
        self.prepared = self.path / PREPARED
        self._lock: FileLock | None = None
        self._found: set[str] = set()
        self._made_folders: list[Path] = []

    def __enter__(self) -> RunFolder:
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"'{self.path}' is a file; name a folder for the run")
        try:
            missing = [one for one in (self.path, *self.path.parents) if not one.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            self._made_folders = missing
            self._found = {one.name for one in self.path.iterdir()}
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

    @property
    def has_begun(self) -> bool:
        """Whether the folder holds work that another recipe must not overwrite."""
        return self.done.exists() or any(self.path.glob(self.begun_by))

    def compare(
        self, recipe: Spec, *, harmless: Harmless | None = None
    ) -> dict[str, tuple[Any, Any]]:
        """Raise UserError if the folder's run was started with a different recipe.

        All values must be equal except the run's own path: in a copied or renamed folder, paths
        relative to the run are adapted.
        `harmless(key, old, new)` returns whether another value may change; the changes are
        returned, key -> (old, new).
        """
        if not (self.recipe.exists() and self.has_begun):
            return {}
        old, new = load_yaml(self.recipe), recipe.model_dump(mode="json")
        new = read_yaml(write_yaml(new), "recipe")
        old = _with_defaults(follow(old, old.get("out"), new.get("out")), recipe)
        for one in (old, new):
            one.pop("out", None)
        changed = differences(old, new)
        refused = [k for k, pair in changed.items() if harmless is None or not harmless(k, *pair)]
        if refused:
            key = refused[0]
            old_value, new_value = (as_yaml(value, longest=400) for value in changed[key])
            raise UserError(
                f"'{self.path}' holds a run of another recipe ({key}: {old_value} -> {new_value}); "
                "name another folder, give the old values to go on with it, or start anew with "
                "--fresh"
            )
        return changed

    def begin(
        self,
        recipe: Spec,
        *,
        preparation: Mapping[str, Any] | None = None,
        harmless: Harmless | None = None,
    ) -> None:
        """Record the resolved recipe and the environment; refuse a folder of another recipe.

        If the folder's run has not begun, its files are deleted unless it was prepared in the same
        way (`preparation`, JSON: everything that its tokenizer and shards depend on).
        """
        changed = self.compare(recipe, harmless=harmless)
        if not self.has_begun:
            wanted = json.loads(json.dumps(preparation or {}))
            old = self._read_prepared()
            if old is None or old.get("of") != wanted:
                self._clear(old)
                made = [name for name in self.leaves if not (self.path / name).exists()]
                write_json(self.prepared, {"of": wanted, "made": made})
        if not self.recipe.exists() or not self.has_begun:
            write_json(self.environment, describe_environment())
            write_text(self.recipe, dump_yaml(recipe))
        elif changed:
            write_text(self.recipe, dump_yaml(recipe))

    def _read_prepared(self) -> dict[str, Any] | None:
        try:
            content = json.loads(self.prepared.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def take_over(self) -> None:
        """Delete the files of a run of this kind that has not begun, if there is a recipe of one."""
        if not self.has_begun:
            self._clear(self._read_prepared())

    def _clear(self, old: Mapping[str, Any] | None) -> None:
        """Delete the files of a run that has not begun; files that were there before it stay."""
        if old is not None:
            names = [name for name in old.get("made", ()) if name in self.leaves]
        else:
            names = [name for name in self.leaves if self.recipe.exists()]
        for name in names:
            _remove(self.path / name)
            self._found.discard(name)

    def withdraw(self) -> None:
        """Delete what this process made, the folder too if it did; call it before the lock is left."""
        for name in self.leaves:
            if name not in self._found:
                _remove(self.path / name)
        if ".lock" not in self._found:
            with contextlib.suppress(OSError):
                (self.path / ".lock").unlink()
        with contextlib.suppress(OSError):  # a folder that is not empty stays
            for folder in self._made_folders:
                folder.rmdir()

    def set_aside(self) -> Path | None:
        """Move an existing run to NAME.old-N; returns None if there is none.

        Raises UserError for a folder that has no run.
        """
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return None
        if not (self.recipe.exists() or self.done.exists() or (self.path / ".lock").exists()):
            raise UserError(f"'{self.path}' holds no run to set aside; name another folder")
        with self:  # nobody works in it
            pass
        number = 1
        while (target := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        self.path.rename(target)
        return target

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the run finished; the last file that a run writes."""
        write_json(self.done, summary)

    @property
    def summary(self) -> dict[str, Any] | None:
        """The summary that `finish` wrote; None while the run is unfinished."""
        if not self.done.exists():
            return None
        try:
            content = json.loads(self.done.read_text(encoding="utf-8"))
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise UserError(f"'{self.done}' is damaged; delete it and run again")
        return content


def _with_defaults(old: dict[str, Any], recipe: Spec) -> dict[str, Any]:
    """A recorded recipe with the keys that did not exist when it was written at their defaults."""
    try:
        filled = type(recipe).model_validate(old).model_dump(mode="json")
    except ValueError:  # of pydantic, or of a setting that is no longer accepted
        return old
    read: dict[str, Any] = read_yaml(write_yaml(filled), "recipe")
    return read


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def stamp(paths: Sequence[str]) -> dict[str, str]:
    """A word for the state of each file or folder, by sizes and times; other names are left out."""
    words = {}
    for name in paths:
        path = Path(name)
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        digest = hashlib.blake2b(digest_size=16)
        for file in files:
            if file.is_file():
                state = file.stat()
                digest.update(f"{file} {state.st_size} {state.st_mtime_ns}\n".encode())
        if path.exists():
            words[name] = digest.hexdigest()
    return words


def follow(value: Any, old_run: Any, new_run: Any) -> Any:
    """A nested value in which paths relative to a run's old folder are replaced by those relative
    to the new one.

    >>> follow({"init": "old/sft", "data": "pairs.jsonl"}, "old/dpo", "new/dpo")
    {'init': 'new/sft', 'data': 'pairs.jsonl'}
    """
    if not (isinstance(old_run, str) and isinstance(new_run, str)):
        return value
    old, new = (Path(run).parent.as_posix() for run in (old_run, new_run))
    if old == new or old in (".", "/"):
        return value
    if isinstance(value, dict):
        return {follow(k, old_run, new_run): follow(v, old_run, new_run) for k, v in value.items()}
    if isinstance(value, list):
        return [follow(item, old_run, new_run) for item in value]
    if isinstance(value, str) and value.startswith(f"{old}/"):
        return f"{new}{value.removeprefix(old)}"
    return value


def differences(old: Any, new: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """All values in which two nested mappings differ, as {"key.path": (old, new)}.

    >>> differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": None})
    {'a.c': (2, 3)}
    """
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in [*old, *(k for k in new if k not in old)]:
            if old.get(key) != new.get(key):
                found |= differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        return found
    return {path or "recipe": (old, new)}


def first_difference(old: Any, new: Any, path: str = "") -> str:
    """The first difference between two nested values, as 'key: old -> new'.

    >>> first_difference({"a": {"b": 1}}, {"a": {"b": None}})
    'a.b: 1 -> null'
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            if old.get(key) != new.get(key):
                return first_difference(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
    return f"{path or 'recipe'}: {as_yaml(old, longest=400)} -> {as_yaml(new, longest=400)}"
