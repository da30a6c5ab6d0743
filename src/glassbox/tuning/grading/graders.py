"""Graders: functions of a completion and its problem that return a number, checked by rules."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import regex as re
from pydantic import Field

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.data.conversations import BadRow, located, parse_messages, read_rows
from glassbox.data.python_source import PythonSource
from glassbox.sandbox.python import SandboxRefused

if TYPE_CHECKING:
    from glassbox.models.causal_lm import CausalLM
    from glassbox.tokenizers import Tokenizer

OpenModel = Callable[[str], "tuple[CausalLM, Tokenizer]"]

Problem = Mapping[str, Any]
"""{"prompt": messages, ...} and the keys that graders read, such as "answer"."""

_NUMBER = r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_MARKERS = ("Answer:", "答案：")
REGEX_SECONDS = 1.0
"""Time limit of a pattern per completion; beyond it TimeoutError is raised and the completion gets
no score.
"""


def read_problems(
    path: Path | str | PythonSource, *, instruction: str = ""
) -> list[dict[str, Any]]:
    """Read all problems of a JSONL or JSON file: {"prompt": text or messages, ...}; other keys are
    kept.

    {"question": text, ...}, as in GSM8K, is also accepted. `instruction` is appended to the last
    message of each prompt on a line of its own, for example to specify the form of the answer.
    Raises UserError naming file, line, key and remedy for a row without a prompt.
    """
    problems = [located(place, _problem, row) for place, row in read_rows(path)]
    if not problems:
        raise UserError(f"'{path}' holds no problems; give it at least one row")
    if instruction:
        for problem in problems:
            *before, last = problem["prompt"]
            content = f"{last['content']}\n{instruction}"
            problem["prompt"] = [*before, {**last, "content": content}]
    return problems


def _problem(row: dict[str, Any]) -> dict[str, Any]:
    raw = row.get("prompt", row.get("question"))
    if raw is None:
        raise BadRow(f"missing key 'prompt' (keys {sorted(row)}); give text or messages")
    text = isinstance(raw, str)
    prompt = [{"role": "user", "content": raw}] if text else parse_messages(raw, "prompt")
    return {**row, "prompt": prompt}


class Grader(Protocol):
    """Scores one completion. If it raises, the completion gets no score and the run continues."""

    def __call__(self, completion: str, problem: Problem) -> float:
        """Return a finite number, usually between 0 and 1."""


@runtime_checkable
class BatchGrader(Protocol):
    """A grader that scores many completions at once; NaN for those it could not score."""

    def grade_batch(
        self, completions: Sequence[str], problems: Sequence[Problem]
    ) -> Sequence[float]:
        """Return one number per completion."""


def final_number(completion: str, markers: Sequence[str] = _MARKERS) -> Decimal | None:
    """The number after a marker on the completion's last line, or None.

    >>> final_number("First, 8 + 5 = 13. Then, 13 + 14 = 27.\\nAnswer: 27")
    Decimal('27')
    """
    marked = "|".join(map(re.escape, markers))
    match = re.search(rf"(?:^|\n)(?:{marked}) ?({_NUMBER})\s*\Z", completion)
    return Decimal(match[1].replace(",", "")) if match else None


class GraderSpec(Spec):
    """Base class of specs of graders.

    A new grader is a class and its spec in a file, and a line in the union of `grading.rubrics`.
    """

    kind: str
    name: str | None = Field(None, description="name in the metrics, reward/NAME; null: its kind")
    weight: float = 1.0

    @property
    def reads(self) -> tuple[str, ...]:
        """The keys of a problem that the grader requires."""
        key: str | None = getattr(self, "key", None)
        return () if key is None else (key,)

    @abstractmethod
    def build(self, open_model: OpenModel | None = None) -> Grader:
        """Return the grader; `open_model` opens a MODEL for graders that need one."""


class Numeric(GraderSpec):
    """Checks the number on the last line, 'Answer: N'."""

    kind: Literal["numeric"] = "numeric"
    key: str = "answer"

    def build(self, open_model: OpenModel | None = None) -> Grader:
        """Return a `NumericAnswer`."""
        return NumericAnswer(self.key)


class NumericAnswer:
    """1 if the completion ends in 'Answer: N' and N equals the problem's `answer`, else 0.

    >>> NumericAnswer()("8 + 5 = 13.\\nAnswer: 13", {"answer": 13})
    1.0
    """

    def __init__(self, key: str = "answer", *, markers: Sequence[str] = _MARKERS) -> None:
        self.key = key
        self.markers = tuple(markers)

    def __call__(self, completion: str, problem: Problem) -> float:
        """Compare as decimals, so that 27.0 equals 27 and 0.1 is exact."""
        found = final_number(completion, self.markers)
        return float(found is not None and found == Decimal(str(problem[self.key])))


class Shape(GraderSpec):
    """Checks that the whole completion matches a pattern; by default some working, then 'Answer:
    N'.
    """

    kind: Literal["format"] = "format"
    pattern: str | None = None

    def build(self, open_model: OpenModel | None = None) -> Grader:
        """Return a `Format`."""
        return Format(self.pattern)


class Format:
    """1 if the whole completion matches a regular expression (`.` also matches line ends), else 0.

    The default requires some working, followed by one last line 'Answer: N'.
    """

    def __init__(self, pattern: str | None = None) -> None:
        marked = "|".join(map(re.escape, _MARKERS))
        default = rf"(?:(?!{marked}).)*\S\s*\n(?:{marked}) ?{_NUMBER}\s*"
        try:
            self.pattern = re.compile(default if pattern is None else pattern, re.DOTALL)
        except re.error as error:
            raise UserError(f"pattern = {pattern!r} is no regular expression: {error}") from None

    def __call__(self, completion: str, problem: Problem) -> float:
        """Match the whole completion."""
        return float(self.pattern.fullmatch(completion, timeout=REGEX_SECONDS) is not None)


@dataclass(frozen=True)
class Grade:
    """A reward, each grader's score before weighting, and the number of graders that failed."""

    reward: float
    parts: dict[str, float]
    errors: int


class Rubric:
    """Several named graders: reward = sum of weight times score.

    A grader that raises, or returns no finite number, scores 0 and is counted in `errors`. If the
    sandbox refuses to run code on this machine, the exception is raised.
    """

    def __init__(self, graders: Mapping[str, tuple[Grader, float]]) -> None:
        if not graders:
            raise UserError("a rubric without graders scores nothing; give at least one")
        self.graders = dict(graders)

    @classmethod
    def of(cls, grader: Grader | Rubric) -> Rubric:
        """Wrap a single grader in a rubric with weight one; a rubric is returned unchanged."""
        return grader if isinstance(grader, Rubric) else cls({"score": (grader, 1.0)})

    def grade(self, completion: str, problem: Problem) -> Grade:
        """Grade a completion with every grader."""
        return self.grade_all([completion], [problem])[0]

    def grade_all(self, completions: Sequence[str], problems: Sequence[Problem]) -> list[Grade]:
        """Grade completions with every grader; a `BatchGrader` is called once."""
        columns = {
            name: _scores(grader, completions, problems)
            for name, (grader, _) in self.graders.items()
        }
        grades = []
        for place in range(len(completions)):
            raw = {name: column[place] for name, column in columns.items()}
            parts = {name: score if math.isfinite(score) else 0.0 for name, score in raw.items()}
            reward = sum(weight * parts[name] for name, (_, weight) in self.graders.items())
            errors = sum(not math.isfinite(score) for score in raw.values())
            grades.append(Grade(reward, parts, errors))
        return grades


def _scores(grader: Grader, completions: Sequence[str], problems: Sequence[Problem]) -> list[float]:
    """Scores, with NaN where the grader failed: an error in a user's grader affects only that
    sample.
    """
    if isinstance(grader, BatchGrader):
        try:
            scores = [float(score) for score in grader.grade_batch(completions, problems)]
            if len(scores) == len(completions):
                return scores
        except SandboxRefused:  # so it would be for every sample
            raise
        except Exception:  # one bad sample may have spoilt the batch: ask about each alone
            pass
    return [_score(grader, *pair) for pair in zip(completions, problems, strict=True)]


def _score(grader: Grader, completion: str, problem: Problem) -> float:
    try:
        return float(grader(completion, problem))
    except SandboxRefused:
        raise
    except Exception:
        return math.nan


def side_by_side(
    grader: Grader, completions: Sequence[str], problems: Sequence[Problem], *, threads: int
) -> list[float]:
    """Grade completions concurrently, for graders that wait for other processes."""
    with ThreadPoolExecutor(max(1, threads)) as pool:
        return list(
            pool.map(lambda pair: _score(grader, *pair), zip(completions, problems, strict=True))
        )
