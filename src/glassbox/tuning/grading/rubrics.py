"""Graders as data: what a recipe says under `graders`, and the rubric that it becomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.sandbox.python import SandboxLimits
from glassbox.tuning.grading.graders import Format, Grader, NumericAnswer, Rubric
from glassbox.tuning.grading.rules import (
    CodeTests,
    ExactAnswer,
    Gsm8kAnswer,
    JsonAnswer,
    Length,
    RegexAnswer,
)


class GraderSpec(Spec):
    """What all graders share."""

    name: str | None = Field(None, description="in the metrics: reward/NAME; None: its kind")
    weight: float = 1.0


class Numeric(GraderSpec):
    """The number on the closing line 'Answer: N'."""

    kind: Literal["numeric"] = "numeric"
    key: str = "answer"


class Exact(GraderSpec):
    """The answer word for word."""

    kind: Literal["exact"] = "exact"
    key: str = "answer"
    case: bool = False
    last_line: bool = False


class Regex(GraderSpec):
    """What a pattern's first group finds."""

    kind: Literal["regex"] = "regex"
    pattern: str
    key: str = "answer"


class Gsm8k(GraderSpec):
    """The number behind '####'."""

    kind: Literal["gsm8k"] = "gsm8k"
    key: str = "answer"
    flexible: bool = Field(False, description="the last number counts, with '####' or without")


class Json(GraderSpec):
    """JSON that fits a schema."""

    kind: Literal["json"] = "json"
    json_schema: dict[str, Any] | None = Field(None, description="None: the problem's own `schema`")


class Code(GraderSpec):
    """Python that passes the problem's tests."""

    kind: Literal["code"] = "code"
    key: str = "tests"
    sandbox: SandboxLimits = SandboxLimits()
    threads: int = Field(4, gt=0)


class Shape(GraderSpec):
    """The whole completion matches a pattern; by default some working, then 'Answer: N'."""

    kind: Literal["format"] = "format"
    pattern: str | None = None


class Short(GraderSpec):
    """Full marks up to `target` characters, none from `limit` on."""

    kind: Literal["length"] = "length"
    target: int = Field(gt=0)
    limit: int = Field(gt=0)


class Reward(GraderSpec):
    """A reward model's score."""

    kind: Literal["reward_model"] = "reward_model"
    model: str = Field(description="MODEL with a scalar head")


AnyGrader = Annotated[
    Numeric | Exact | Regex | Gsm8k | Json | Code | Shape | Short | Reward,
    Field(discriminator="kind"),
]


def build_rubric(
    specs: Sequence[AnyGrader], *, open_reward_model: Callable[[str], Grader] | None = None
) -> Rubric:
    """The rubric of a recipe's graders. Raises UserError for two of one name."""
    graders: dict[str, tuple[Grader, float]] = {}
    for spec in specs:
        name = spec.name or spec.kind
        if name in graders:
            raise UserError(f"two graders are called '{name}'; give each a `name` of its own")
        graders[name] = (_grader(spec, open_reward_model), spec.weight)
    return Rubric(graders)


def _grader(spec: AnyGrader, open_reward_model: Callable[[str], Grader] | None) -> Grader:
    if isinstance(spec, Numeric):
        return NumericAnswer(spec.key)
    if isinstance(spec, Exact):
        return ExactAnswer(spec.key, case=spec.case, last_line=spec.last_line)
    if isinstance(spec, Regex):
        return RegexAnswer(spec.pattern, spec.key)
    if isinstance(spec, Gsm8k):
        return Gsm8kAnswer(spec.key, flexible=spec.flexible)
    if isinstance(spec, Json):
        return JsonAnswer(spec.json_schema)
    if isinstance(spec, Code):
        return CodeTests(spec.key, limits=spec.sandbox, threads=spec.threads)
    if isinstance(spec, Shape):
        return Format(spec.pattern)
    if isinstance(spec, Short):
        return Length(spec.target, spec.limit)
    if open_reward_model is None:
        raise UserError(f"the reward model '{spec.model}' cannot be opened here; use a recipe")
    return open_reward_model(spec.model)
