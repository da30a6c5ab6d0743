"""Planted solutions: right ones in three styles are accepted, wrong ones are named by their mistake.

`planted/NN_M_name.txt` belongs to exercise NN.M:

    # %% right: STYLE                  a whole file
    # %% wrong: CODE                   a whole file with this mistake
    # %% wrong: CODE = STYLE           the right file of that style, changed: after "- " the text that is
    - old                              replaced (it occurs exactly once; more such lines go on with it),
    + new                              after "+ " what takes its place
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from glassbox.course.answers import run_here
from glassbox.course.catalogue import all_exercises
from glassbox.course.exercise import Exercise
from glassbox.course.grading import grade, judge

FOLDER = Path(__file__).parent / "planted"
EXERCISES = {exercise.number: exercise for exercise in all_exercises()}


@dataclass(frozen=True)
class Planted:
    """One student's file, and the mistake that it makes ("" for a right one)."""

    exercise: Exercise
    code: str
    name: str
    text: str


def planted(file: Path) -> Iterator[Planted]:
    """All solutions of a file."""
    lesson, place, _ = file.stem.split("_", 2)
    exercise = EXERCISES[f"{int(lesson)}.{int(place)}"]
    sections = re.split(r"^# %% (.*)\n", file.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    styles: dict[str, str] = {}
    for head, body in zip(sections[::2], sections[1::2], strict=True):
        kind, _, name = head.partition(": ")
        if kind == "right":
            styles[name] = body
            yield Planted(exercise, "", name, body)
            continue
        assert kind == "wrong", head
        code, _, style = name.partition(" = ")
        yield Planted(exercise, code, name, edited(styles[style], body) if style else body)


def edited(text: str, edits: str) -> str:
    """A text with what stands after "-" replaced by what stands after "+"."""
    old: list[str] = []
    new: list[str] = []

    def apply(text: str) -> str:
        if not old:
            return text
        before, after = "\n".join(old), "\n".join(new)
        assert text.count(before) == 1, f"{text.count(before)} x {before!r}"
        return text.replace(before, after)

    for line in edits.splitlines():
        if line.startswith("- "):
            if new:
                text = apply(text)
                old, new = [], []
            old.append(line[2:])
        elif line.startswith("+"):
            new.append(line[2:])
        else:
            assert not line.strip(), line
    return apply(text)


FILES = sorted(FOLDER.glob("*.txt"))
PLANTED = [one for file in FILES for one in planted(file)]


def test_every_exercise_has_three_right_styles_and_every_mistake_is_planted() -> None:
    for exercise in EXERCISES.values():
        mine = [one for one in PLANTED if one.exercise is exercise]
        assert len([one for one in mine if not one.code]) >= 3, exercise.number
        missing = {one.code for one in exercise.mistakes} - {one.code for one in mine}
        assert not missing, f"{exercise.number}: {missing}"


@pytest.mark.parametrize("one", PLANTED, ids=lambda one: f"{one.exercise.number}-{one.name}")
def test_a_planted_solution_is_judged_rightly(one: Planted) -> None:
    report = judge(one.exercise, run_here(one.exercise, one.text))
    assert (report.finding.code if report.finding else "") == one.code, (
        report.finding,
        report.failure,
    )


def test_the_sandbox_comes_to_the_same() -> None:
    """One right and one wrong solution with torch, one with NumPy, one without both."""
    for name in ("loops", "no_scale = additive", "sees_next = loops", "numpy"):
        one = next(p for p in PLANTED if p.name == name and p.exercise.number == "5.2")
        report = grade(one.exercise, one.text)
        assert (report.finding.code if report.finding else "") == one.code, report.finding
