"""What an exercise of the course is: functions to write, an oracle, test cases, and known mistakes.

One file of `exercises/lessonNN/` holds one exercise: its solution as plain functions, then
`EXERCISE = Exercise(...)`. `lessons/README.md` says how to write one.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType
from typing import Any

from glassbox.course.language import Both

IMPORTS = "import math\n\nimport torch\nfrom torch import Tensor\n"


@dataclass(frozen=True)
class Case:
    """One call of a student's function.

    args: numbers, text, bytes, lists, tuples, dicts, sets and tensors.
    call: the function, or one of the exercise's drivers; "" for the exercise's first function.
    tag:  what this case is for, by which invariants and detectors find it; it is not shown.
    """

    args: tuple[Any, ...]
    call: str = ""
    tag: Any = None


@dataclass(frozen=True)
class Outcome:
    """What came of a call.

    value:   what was returned.
    error:   the class of the exception that was raised instead, and its text; empty where none was.
    line:    the line of the student's file that raised it; 0 where that is not known.
    changed: whether the arguments were changed.
    """

    value: Any = None
    error: str = ""
    message: str = ""
    line: int = 0
    changed: bool = False


@dataclass(frozen=True)
class Run:
    """A case with what the oracle and the student's function make of it."""

    case: Case
    expected: Any
    outcome: Outcome

    @property
    def got(self) -> Any:
        """What the student's function returned."""
        return self.outcome.value


Fields = dict[str, str]
Detector = Callable[[Sequence[Run]], "Fields | None"]
"""Looks at the runs whose results have the oracle's types and shapes. It returns None where it does not
find what it looks for, and otherwise what fills the message's {placeholders}."""


@dataclass(frozen=True, eq=False)
class Mistake:
    """A classic mistake, found by what it computes or by a detector.

    code:    its name, such as "mask_off_by_one".
    message: what is wrong, and where to look; not the corrected line.
    edits:   (old, new) pairs that turn the solution's text into the mistaken one; each `old` occurs in it
             exactly once. A student whose results are those of the mistaken text has made this mistake,
             in whatever words.
    source:  the mistaken functions as text, where edits would be too long.
    detect:  a property of the results that gives the mistake away. Beside `edits` or `source` it only
             fills the message's placeholders.
    """

    code: str
    message: Both
    edits: tuple[tuple[str, str], ...] = ()
    source: str = ""
    detect: Detector | None = None


@dataclass(frozen=True)
class Invariant:
    """A property that every right solution has. `broken` returns None where it holds."""

    code: str
    message: Both
    broken: Detector


@dataclass(frozen=True, eq=False)
class Exercise:
    """A graded exercise: statement, solution, oracle, cases, mistakes and hints.

    number:     the lesson and the place in it: "5.2".
    solution:   the functions of a right solution, in order; those whose names begin with an underscore are
                helpers that a student need not write. They may use `imports` and each other alone.
    statement:  what is asked, in Markdown.
    oracle:     for each function an independent implementation, ours where there is one.
    cases:      makes the calls, from the smallest to the largest; the first that fails is shown.
    drivers:    functions of (the student's module, *args) that a case can name, for what takes several
                calls (a decoding loop). Their text is sent to the sandbox: they import what they use.
    tolerance:  largest difference of a float, relative to max(1, |expected|).
    in_place:   the functions are asked to change their arguments.
    """

    number: str
    title: Both
    statement: Both
    solution: tuple[Callable[..., Any], ...]
    oracle: Mapping[str, Callable[..., Any]]
    cases: Callable[[], list[Case]]
    mistakes: tuple[Mistake, ...]
    hints: tuple[Both, ...]
    invariants: tuple[Invariant, ...] = ()
    drivers: tuple[Callable[..., Any], ...] = ()
    imports: str = IMPORTS
    tolerance: float = 1e-4
    in_place: bool = False

    @property
    def lesson(self) -> int:
        """The lesson's number."""
        return int(self.number.partition(".")[0])

    @property
    def order(self) -> tuple[int, int]:
        """The place among all exercises."""
        lesson, _, place = self.number.partition(".")
        return int(lesson), int(place)

    @property
    def functions(self) -> tuple[str, ...]:
        """The names of the functions that a student writes."""
        names = (function.__name__ for function in self.solution)
        return tuple(name for name in names if not name.startswith("_"))

    @cached_property
    def all_cases(self) -> list[Case]:
        """The cases, each with the name of what it calls."""
        return [Case(case.args, case.call or self.functions[0], case.tag) for case in self.cases()]

    @cached_property
    def solution_text(self) -> str:
        """A file that solves the exercise."""
        parts = [inspect.getsource(function).rstrip() + "\n" for function in self.solution]
        return "\n\n".join([self.imports, *parts])

    @cached_property
    def stub_text(self) -> str:
        """A file with the functions to be written, their bodies left out."""
        return "\n\n".join([self.imports, *map(_stub, self.written)])

    @property
    def written(self) -> list[Callable[..., Any]]:
        """The functions that a student writes."""
        return [one for one in self.solution if not one.__name__.startswith("_")]

    def mistaken_text(self, mistake: Mistake) -> str | None:
        """A file that makes the mistake; None where only a detector knows it."""
        if mistake.source:
            return f"{self.imports}\n\n{mistake.source}"
        if not mistake.edits:
            return None
        text = self.solution_text
        for old, new in mistake.edits:
            assert text.count(old) == 1, (
                f"{self.number} {mistake.code}: {text.count(old)} x {old!r}"
            )
            text = text.replace(old, new)
        return text


@dataclass(frozen=True)
class Lesson:
    """A lesson's number and title; `exercises/lessonNN/__init__.py` has it as `LESSON`."""

    number: int
    name: str
    title: Both


def functions_of(text: str) -> dict[str, FunctionType]:
    """The functions that trusted text of ours defines: a solution or a mistaken variant of it."""
    names: dict[str, Any] = {"__name__": "solution"}
    exec(compile(text, "<solution>", "exec", dont_inherit=True), names)
    return {name: one for name, one in names.items() if isinstance(one, FunctionType)}


def _stub(function: Callable[..., Any]) -> str:
    source = inspect.getsource(function)
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef)
    assert ast.get_docstring(node), f"{function.__name__} has no docstring"
    end = node.body[0].end_lineno
    head = "".join(source.splitlines(keepends=True)[:end]).rstrip()
    return f"{head}\n    raise NotImplementedError\n"
