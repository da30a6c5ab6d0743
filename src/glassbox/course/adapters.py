"""Adapters, by which a course of one's own uses our exercises and grader in its pytest.

`adapters.py` has a function `run_NAME` for every function that students write; the students call their own
code in it. `test_exercises.py` grades them in the test's own process: it runs nobody's code but the
student's who started it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from glassbox.core.errors import UserError
from glassbox.core.files import write_text
from glassbox.course.exercise import Exercise
from glassbox.course.grading import grade_functions
from glassbox.course.language import Language, chosen_language
from glassbox.course.showing import exercise_file, report_lines

TESTS = '''"""Grade the functions of adapters.py: `pytest -q test_exercises.py`."""

import adapters
import pytest
from glassbox.course.adapters import check_adapter

EXERCISES = {numbers!r}


@pytest.mark.parametrize("number", EXERCISES)
def test_exercise(number):
    problem = check_adapter(number, adapters)
    assert not problem, problem
'''


def write_adapters(folder: Path, chosen: Sequence[Exercise], language: Language) -> list[Path]:
    """Write adapters.py and test_exercises.py into a folder. Raises UserError where one is there."""
    files = {
        folder / "adapters.py": _adapters_text(chosen, language),
        folder / "test_exercises.py": TESTS.format(numbers=[one.number for one in chosen]),
    }
    for file in files:
        if file.exists():
            raise UserError(f"{file} is there already; move it or name another folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        write_text(file, text)
    return list(files)


def check_adapter(number: str, adapters: ModuleType, language: Language | None = None) -> str:
    """What is wrong with an exercise's adapters, in the words of `glassbox lesson check`; "" if nothing."""
    from glassbox.course.catalogue import chosen_exercises

    (exercise,) = chosen_exercises(number)
    functions = {name: getattr(adapters, f"run_{name}") for name in exercise.functions}
    report = grade_functions(exercise, functions)
    return "" if report.passed else "\n".join(report_lines(report, language or chosen_language()))


def _adapters_text(chosen: Sequence[Exercise], language: Language) -> str:
    text = exercise_file(chosen, language, "pytest -q test_exercises.py")
    for exercise in chosen:
        for function in exercise.written:
            head = f"def {function.__name__}("
            assert text.count(head) == 1, f"two exercises have a function {function.__name__}"
            text = text.replace(head, f"def run_{function.__name__}(")
            assert inspect.getdoc(function)
    return text
