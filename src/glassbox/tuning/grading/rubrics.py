"""The union of grader specs, and the rubric built from a recipe's `graders`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from glassbox.core.errors import UserError
from glassbox.tuning.grading.graders import (
    Grader,
    GraderSpec,
    Numeric,
    OpenModel,
    Problem,
    Rubric,
    Shape,
)
from glassbox.tuning.grading.python_grader import PythonGrader
from glassbox.tuning.grading.rules import Code, Exact, Gsm8k, Json, Regex, Reward, Short

AnyGrader = Annotated[
    Numeric | Exact | Regex | Gsm8k | Json | Code | Shape | Short | Reward | PythonGrader,
    Field(discriminator="kind"),
]


def build_rubric(specs: Sequence[GraderSpec], *, open_model: OpenModel | None = None) -> Rubric:
    """Build the rubric of a recipe's graders. Raises UserError for duplicate names."""
    graders: dict[str, tuple[Grader, float]] = {}
    for spec in specs:
        name = spec.name or spec.kind
        if name in graders:
            raise UserError(f"two graders are called '{name}'; give each a `name` of its own")
        graders[name] = (spec.build(open_model), spec.weight)
    return Rubric(graders)


def check_problem(specs: Sequence[GraderSpec], problem: Problem, *, where: str) -> None:
    """Raise UserError if a grader requires a key that the problem does not have.

    During training this would give every answer a score of 0 instead of an error.
    """
    for spec in specs:
        for key in spec.reads:
            if key not in problem:
                raise UserError(
                    f"{where}: the first problem has no key '{key}', which the grader "
                    f"'{spec.name or spec.kind}' reads (keys {sorted(problem)}); add it, or choose "
                    "another grader"
                )
