"""All lessons and graded exercises: whatever lies in `exercises/lessonNN/`."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from glassbox.core.errors import UserError
from glassbox.course import exercises
from glassbox.course.exercise import Exercise, Lesson


@functools.cache
def lessons() -> tuple[Lesson, ...]:
    """Every lesson that has exercises, in order."""
    found = [importlib.import_module(name).LESSON for name in _folders()]
    return tuple(sorted(found, key=lambda lesson: lesson.number))


@functools.cache
def exercises_of(lesson: int) -> tuple[Exercise, ...]:
    """The graded exercises of a lesson, in order."""
    folder = f"{exercises.__name__}.lesson{lesson:02d}"
    if folder not in _folders():
        return ()
    package = importlib.import_module(folder)
    names = [one.name for one in pkgutil.iter_modules(package.__path__)]
    found = [importlib.import_module(f"{folder}.{name}").EXERCISE for name in names]
    return tuple(sorted(found, key=lambda exercise: exercise.order))


def all_exercises() -> list[Exercise]:
    """Every graded exercise, in the order of the lessons."""
    return [one for lesson in lessons() for one in exercises_of(lesson.number)]


def chosen_exercises(name: str) -> tuple[Exercise, ...]:
    """The exercises that a user names: "5" all of lesson 5, "5.2" one, "all" all.

    Raises UserError where there is none of that name.
    """
    if name == "all":
        return tuple(all_exercises())
    lesson, _, place = name.removeprefix("lesson").lstrip("0").partition(".")
    if lesson.isdecimal():
        found = exercises_of(int(lesson))
        if place:
            found = tuple(one for one in found if one.number == f"{lesson}.{place}")
        if found:
            return found
    numbers = ", ".join(str(one.number) for one in lessons())
    raise UserError(
        f"no graded exercise {name!r}: name a lesson ({numbers}), one of its exercises such as 5.2, or all;"
        " `glassbox lesson list` shows them"
    )


def _folders() -> list[str]:
    return [
        f"{exercises.__name__}.{one.name}"
        for one in pkgutil.iter_modules(exercises.__path__)
        if one.ispkg and one.name.startswith("lesson")
    ]
