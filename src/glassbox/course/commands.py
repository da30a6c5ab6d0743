"""What the commands of `glassbox lesson` do: each returns the lines to print."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from glassbox.core.errors import UserError
from glassbox.core.files import read_limited, write_text
from glassbox.course.catalogue import chosen_exercises
from glassbox.course.exercise import Exercise
from glassbox.course.grading import grade
from glassbox.course.language import Language
from glassbox.course.progress import read_progress, write_progress
from glassbox.course.showing import exercise_file, report_lines, say

MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Checked:
    """The lines of a check, and whether all exercises passed."""

    lines: list[str]
    passed: bool


def open_exercises(name: str, out: Path | None, language: Language) -> list[str]:
    """Write a file in which to solve exercises. Raises UserError where it is there already."""
    chosen = chosen_exercises(name)
    file = out or Path(f"lesson_{name.replace('.', '_')}.py")
    if file.exists():
        raise UserError(f"{file} is there already; move it, or name another with --out")
    command = f"glassbox lesson check {name} {file.name}"
    write_text(file, exercise_file(chosen, language, command))
    titles = [f"  {one.number} {one.title.of(language)}" for one in chosen]
    return [say("written", language, file=file), *titles, say("check", language, command=command)]


def check_file(name: str, file: Path, language: Language) -> Checked:
    """Grade a student's file and keep the progress.

    Raises UserError for a file that cannot be read, and where this machine has no sandbox.
    """
    chosen = chosen_exercises(name)
    try:
        code = read_limited(file, MAX_FILE_BYTES).decode("utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{file}: there is no such file; `glassbox lesson open {name}` writes one"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text; save it as UTF-8") from None
    progress = read_progress()
    lines: list[str] = []
    passed = True
    for exercise in chosen:
        report = grade(exercise, code)
        mistake = report.finding.code if report.finding else None
        progress = progress.checked(exercise.number, mistake)
        passed = passed and report.passed
        lines += report_lines(report, language)
    write_progress(progress)
    return Checked(lines, passed)


def next_hint(name: str, language: Language) -> list[str]:
    """The next hint of an exercise; from the last on, all of them again."""
    exercise = _one(name)
    progress = read_progress()
    shown = min(progress.of(exercise.number).hints + 1, len(exercise.hints))
    write_progress(progress.hinted(exercise.number, shown))
    return [
        say("hint", language, place=place, all=len(exercise.hints), hint=hint.of(language))
        for place, hint in enumerate(exercise.hints[:shown], 1)
    ]


def solution_text(name: str) -> str:
    """A right solution of an exercise."""
    return _one(name).solution_text


def _one(name: str) -> Exercise:
    chosen = chosen_exercises(name)
    if len(chosen) != 1:
        numbers = ", ".join(one.number for one in chosen)
        raise UserError(f"{name} has several exercises: name one of {numbers}")
    return chosen[0]
