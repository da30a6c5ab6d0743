"""What a student has done so far, in one file of their own machine."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pydantic import Field, ValidationError

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.core.files import write_json


class Done(Spec):
    """How far one exercise has come."""

    tries: int = Field(0, ge=0)
    passed: bool = False
    hints: int = Field(0, ge=0, description="how many hints were shown")
    mistakes: dict[str, int] = Field({}, description="mistakes made so far, by their codes")


class Progress(Spec):
    """Exercises by their numbers."""

    exercises: dict[str, Done] = Field({})

    def of(self, number: str) -> Done:
        """How far an exercise has come."""
        return self.exercises.get(number, Done())

    def checked(self, number: str, mistake: str | None) -> Progress:
        """Progress after one more try; `mistake` is None where it passed."""
        done = self.of(number)
        counts = dict(done.mistakes)
        if mistake is not None:
            counts[mistake] = counts.get(mistake, 0) + 1
        change = {
            "tries": done.tries + 1,
            "passed": done.passed or mistake is None,
            "mistakes": counts,
        }
        return self._with(number, done.model_copy(update=change))

    def hinted(self, number: str, hints: int) -> Progress:
        """Progress after `hints` hints were shown."""
        done = self.of(number)
        return self._with(number, done.model_copy(update={"hints": max(done.hints, hints)}))

    def _with(self, number: str, done: Done) -> Progress:
        return Progress(exercises={**self.exercises, number: done})


def progress_file() -> Path:
    """$XDG_DATA_HOME/glassbox/course.json, or ~/.local/share/glassbox/course.json."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "glassbox" / "course.json"


def read_progress() -> Progress:
    """The progress so far; nothing done where there is no file. Raises UserError for a broken file."""
    path = progress_file()
    if not path.exists():
        return Progress()
    try:
        return Progress.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: {reason}; mend it or remove it to begin anew") from None


def write_progress(progress: Progress) -> None:
    """Keep the progress."""
    path = progress_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, progress.model_dump())
