"""Training runs that the page starts and stops: each is `glassbox train` in a process of its own."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic_core import PydanticUndefined

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.runs.recipe import list_recipes, read_recipe

_MOST = 4
_LOG_BYTES = 16_384
_KILL_SECONDS = 60.0


@functools.cache
def recipes() -> list[dict[str, str]]:
    """Name and purpose of each recipe that trains and comes with Glassbox."""
    found = []
    for name, about in list_recipes():
        try:
            read_recipe(name)
        except UserError:  # of another kind, or one that asks for a file of the user's own
            continue
        found.append({"name": name, "about": about})
    return found


def form(name: str) -> list[dict[str, Any]]:
    """The fields of a recipe, as its schema has them: key.path, kind, value, description, choices.

    kind: number, integer, text, switch, or choice; lists and mappings are left to the recipe's file.
    Raises UserError for a recipe that is not among `recipes`.
    """
    if name not in {recipe["name"] for recipe in recipes()}:
        raise UserError(f"there is no recipe {name[:100]!r} here; glassbox recipe list names them")
    return list(_fields(read_recipe(name), ""))


def _fields(spec: Spec, prefix: str) -> Any:
    for key, info in type(spec).model_fields.items():
        value = getattr(spec, key)
        path = prefix + key
        if isinstance(value, Spec):
            yield from _fields(value, f"{path}.")
            continue
        kind, choices = _kind(info.annotation, value)
        if kind is None:
            continue
        default = None if info.default is PydanticUndefined else info.default
        yield {
            "key": path,
            "kind": kind,
            "value": value,
            "default": default if isinstance(default, (str, int, float, bool)) else None,
            "about": info.description or "",
            "choices": choices,
        }


def _kind(annotation: Any, value: Any) -> tuple[str | None, list[str]]:
    """How a field is edited, by its annotation; None where a form has no field for it."""
    members = get_args(annotation) if get_origin(annotation) is not Literal else (annotation,)
    words = [
        word
        for member in members
        if get_origin(member) is Literal
        for word in get_args(member)
        if isinstance(word, str)
    ]
    if words and bool in members:
        words += ["true", "false"]
    if words and (isinstance(value, bool) or value in words):
        return ("choice", list(dict.fromkeys(words))) if len(words) > 1 else (None, [])
    inner = [one for one in members if one is not type(None)]
    kinds = {bool: "switch", int: "integer", float: "number", str: "text"}
    for candidate in (annotation, *(inner if len(inner) == 1 else ())):
        if candidate in kinds:
            return kinds[candidate], []
    if isinstance(value, (bool, int, float, str)):
        return kinds[type(value)], []
    return None, []


@dataclass
class Launch:
    """A run that was started here."""

    recipe: str
    words: list[str]
    out: str
    process: subprocess.Popen[bytes]
    log: Path
    begun: float = field(default_factory=time.time)
    stopping: float | None = None

    def card(self) -> dict[str, Any]:
        """What the page shows of it. status: running, stopping, finished, interrupted or failed."""
        code = self.process.poll()
        names = {None: "running" if self.stopping is None else "stopping", 0: "finished"}
        names[130] = "interrupted"
        late = self.stopping is not None and time.time() - self.stopping > _KILL_SECONDS
        if code is None and late:
            self.process.kill()
        return {
            "id": self.process.pid,
            "recipe": self.recipe,
            "words": self.words,
            "out": self.out,
            "status": names.get(code, "failed"),
            "begun": self.begun,
            "said": _tail(self.log),
        }


class Launches:
    """Starts and stops runs, at most four at a time. They go on when the studio ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._launches: list[Launch] = []

    def start(self, recipe: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Start a recipe with `key.path` -> value laid over it; a run that is there is resumed.

        Raises UserError for what the recipe refuses, before anything is started.
        """
        known = {one["key"]: one for one in form(recipe)}
        words = []
        for key, value in changes.items():
            if key not in known:
                raise UserError(f"'{key[:100]}' is no field of the form of {recipe}")
            plain = known[key]["kind"] == "choice"
            words.append(f"{key}={value if plain else _word(value)}")
        parsed = read_recipe(recipe, words)
        if sum(one.process.poll() is None for one in self._launches) >= _MOST:
            raise UserError(f"{_MOST} runs are under way; stop one, or wait")
        self._folder.mkdir(parents=True, exist_ok=True)
        log = self._folder / f"run-{time.time_ns()}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "glassbox", "train", recipe, *words],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        launch = Launch(recipe, words, str(parsed.out), process, log)
        self._launches.append(launch)
        return launch.card()

    def stop(self, number: int) -> dict[str, Any]:
        """Ask a run to save and end, as Ctrl-C does. Raises UserError for one not started here."""
        for launch in self._launches:
            if launch.process.pid == number:
                if launch.process.poll() is None:
                    launch.stopping = time.time()
                    with contextlib.suppress(ProcessLookupError):
                        launch.process.send_signal(signal.SIGINT)
                return launch.card()
        raise UserError(f"run {number} was not started by this studio")

    def cards(self) -> list[dict[str, Any]]:
        """All, the newest first."""
        return [one.card() for one in reversed(self._launches)]

    def folders(self) -> Sequence[Path]:
        """Where they write."""
        return [Path(one.out) for one in self._launches]


def _word(value: Any) -> str:
    """A value as `key=value` has it: YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False)


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - _LOG_BYTES))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line for part in text.split("\n") if (line := part.rpartition("\r")[2].strip())]
    return "\n".join(lines[-8:])
