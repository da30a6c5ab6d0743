"""Every exercise of the catalogue: its solution is right, and each of its mistakes is told apart from all else."""

from __future__ import annotations

import inspect
import re
from itertools import combinations

import pytest

from glassbox.course.answers import run_here
from glassbox.course.catalogue import all_exercises, chosen_exercises, lessons
from glassbox.course.exercise import Exercise, Mistake, functions_of
from glassbox.course.grading import (
    PLAIN,
    expected_of,
    grade_functions,
    judge,
    outcomes_of,
    same_outcome,
)
from glassbox.course.language import Both

EXERCISES = all_exercises()
HAN = re.compile("[\u4e00-\u9fff]")
exercises = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda one: one.number)
MISTAKES = [(exercise, mistake) for exercise in EXERCISES for mistake in exercise.mistakes]
mistakes = pytest.mark.parametrize(
    ("exercise", "mistake"), MISTAKES, ids=[f"{e.number}-{m.code}" for e, m in MISTAKES]
)


def texts(exercise: Exercise) -> list[Both]:
    return [
        exercise.title,
        exercise.statement,
        *exercise.hints,
        *(one.message for one in (*exercise.mistakes, *exercise.invariants)),
    ]


def test_numbers_are_unique_and_lessons_have_two_exercises_or_more() -> None:
    numbers = [exercise.number for exercise in EXERCISES]
    assert len(set(numbers)) == len(numbers)
    for lesson in lessons():
        found = [one.order[1] for one in EXERCISES if one.lesson == lesson.number]
        assert found == list(range(1, len(found) + 1)), lesson
        assert len(found) >= 2, lesson


@exercises
def test_an_exercise_is_whole(exercise: Exercise) -> None:
    codes = [one.code for one in (*exercise.mistakes, *exercise.invariants)]
    assert len(set(codes)) == len(codes)
    assert not set(codes) & set(PLAIN)
    assert len(exercise.mistakes) >= 4
    assert len(exercise.hints) >= 2
    assert set(exercise.oracle) == set(exercise.functions)
    for function in exercise.written:
        theirs = inspect.signature(exercise.oracle[function.__name__])
        theirs.bind(*inspect.signature(function).parameters)
    for text in texts(exercise):
        assert HAN.search(text.zh), text.en
        assert not HAN.search(text.en), text.en
        assert sorted(re.findall(r"\{\w+\}", text.en)) == sorted(re.findall(r"\{\w+\}", text.zh))
        assert not re.search(rf"{HAN.pattern}[,;:?!()]|[,;:?!()]{HAN.pattern}", text.zh), text.zh


@exercises
def test_the_solution_is_what_the_oracle_says(exercise: Exercise) -> None:
    report = judge(exercise, run_here(exercise, exercise.solution_text))
    assert report.passed, (report.finding, report.failure)
    assert grade_functions(exercise, exercise.oracle).passed
    assert grade_functions(exercise, functions_of(exercise.solution_text)).passed


@exercises
def test_the_stub_asks_for_the_functions_and_solves_nothing(exercise: Exercise) -> None:
    finding = judge(exercise, run_here(exercise, exercise.stub_text)).finding
    assert finding is not None
    assert finding.code == "not_written"
    for name in exercise.functions:
        assert f"def {name}(" in exercise.stub_text


@exercises
def test_cases_are_calls_of_moderate_number(exercise: Exercise) -> None:
    assert 3 <= len(exercise.all_cases) <= 40
    called = {case.call for case in exercise.all_cases}
    assert called <= {*exercise.functions, *(driver.__name__ for driver in exercise.drivers)}
    assert len(expected_of(exercise)) == len(exercise.all_cases)


@mistakes
def test_a_mistake_is_named_with_its_place(exercise: Exercise, mistake: Mistake) -> None:
    text = exercise.mistaken_text(mistake)
    if text is None:
        pytest.skip("known by a detector alone: see the planted solutions")
    report = judge(exercise, run_here(exercise, text))
    assert report.finding is not None
    assert report.finding.code == mistake.code, report.failure
    assert report.failure is not None
    for message in (report.finding.message.en, report.finding.message.zh):
        assert not re.search(r"\{\w+\}", message)


@exercises
def test_no_two_mistakes_come_to_the_same(exercise: Exercise) -> None:
    """Each is told from each by a case; and none is right on all cases."""
    found = [(mistake.code, outcomes_of(exercise, mistake)) for mistake in exercise.mistakes]
    known = [(code, outcomes) for code, outcomes in found if outcomes is not None]
    for (one, first), (other, second) in combinations(known, 2):
        pairs = zip(first, second, strict=True)
        assert not all(same_outcome(exercise, a, b) for a, b in pairs), (one, other)


def test_exercises_are_chosen_by_number() -> None:
    assert [one.number for one in chosen_exercises("5.2")] == ["5.2"]
    assert [one.lesson for one in chosen_exercises("05")] == [5] * len(chosen_exercises("5"))
    assert list(chosen_exercises("all")) == EXERCISES
    for wrong in ("5.99", "99", "", "five", "5.x"):
        with pytest.raises(ValueError, match="no graded exercise"):
            chosen_exercises(wrong)
