"""User-defined graders: `kind: python, path: my.py:grade`."""

from __future__ import annotations

import inspect
from typing import Any

from glassbox.core.errors import UserError
from glassbox.core.plugins import PythonSpec, load_object
from glassbox.tuning.grading.graders import Grader, GraderSpec, OpenModel, Problem


class PythonGrader(PythonSpec, GraderSpec):
    """A function called with (completion, problem, **options) that returns a finite number.

    A class is instantiated with the options once, and its instance is called with (completion,
    problem); with a method `grade_batch(completions, problems)` it scores many at once. If it
    raises, the completion gets no score and is counted; the run continues.
    """

    def build(self, open_model: OpenModel | None = None) -> Grader:
        """Return the grader. Raises UserError if `path` cannot be loaded or called."""
        thing = load_object(self.path)
        if inspect.isclass(thing):
            grader: Grader = self.make("grader")
            _check_call(grader, self.path, {})
            return grader
        _check_call(thing, self.path, self.options)

        def grade(completion: str, problem: Problem) -> float:
            return float(thing(completion, problem, **self.options))

        return grade


def _check_call(thing: Any, path: str, options: dict[str, Any]) -> None:
    if not callable(thing):
        raise UserError(f"grader '{path}' is a {type(thing).__name__}, not callable")
    try:
        inspect.signature(thing).bind("completion", {}, **options)
    except TypeError as error:
        raise UserError(
            f"grader '{path}' cannot be called with (completion, problem, "
            f"{', '.join(options) or 'no options'}): {error}"
        ) from None
