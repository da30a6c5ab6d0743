"""More graders: exact, regular expression, GSM8K, JSON by schema, length, unit-tested code, reward model."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Literal

import regex as re
import torch
from pydantic import Field

from glassbox.core.errors import UserError
from glassbox.data.preferences import pad_rows
from glassbox.inference.evaluating import evaluating
from glassbox.sandbox.code_tests import run_tests
from glassbox.sandbox.python import SandboxLimits
from glassbox.tuning.grading.graders import (
    REGEX_SECONDS,
    Grader,
    GraderSpec,
    OpenModel,
    Problem,
    side_by_side,
)

if TYPE_CHECKING:
    from glassbox.models.causal_lm import CausalLM
    from glassbox.tokenizers import Tokenizer

_GSM8K = re.compile(r"####\s*\$?(-?[\d,]+(?:\.\d+)?)")
# a minus behind a number or a bracket takes away; commas part thousands, or the members of a list
_LAST = re.compile(r"(?:(?<![\w)])-)?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
_FENCE = re.compile(r"```(?:\w*)[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


class Exact(GraderSpec):
    """The answer word for word."""

    kind: Literal["exact"] = "exact"
    key: str = "answer"
    case: bool = False
    last_line: bool = False

    def build(self, open_model: OpenModel | None = None) -> Grader:
        """`ExactAnswer`."""
        return ExactAnswer(self.key, case=self.case, last_line=self.last_line)


class ExactAnswer:
    """1 where the completion, or its last line, is the problem's `answer`, else 0.

    White space at the ends, and runs of it inside, do not count; nor does case unless `case` is set.

    >>> ExactAnswer()(" The  Kite\\n", {"answer": "the kite"})
    1.0
    """

    def __init__(self, key: str = "answer", *, case: bool = False, last_line: bool = False) -> None:
        self.key, self.case, self.last_line = key, case, last_line

    def _plain(self, text: str) -> str:
        text = " ".join(text.split())
        return text if self.case else text.casefold()

    def __call__(self, completion: str, problem: Problem) -> float:
        """Compare."""
        said = completion.strip().rpartition("\n")[2] if self.last_line else completion
        return float(self._plain(said) == self._plain(str(problem[self.key])))


class Regex(GraderSpec):
    """What a pattern's first group finds."""

    kind: Literal["regex"] = "regex"
    pattern: str
    key: str = "answer"

    def build(self, open_model: OpenModel | None = None) -> Grader:
        """`RegexAnswer`."""
        return RegexAnswer(self.pattern, self.key)

    @property
    def reads(self) -> tuple[str, ...]:
        """The answer, where the pattern has a group to be compared with it."""
        return (self.key,) if RegexAnswer(self.pattern).pattern.groups else ()


class RegexAnswer:
    """1 where a pattern finds something, and its first group (if it has one) is the problem's `answer`.

    The last match counts. A pattern that takes over a second on a completion fails that completion.

    >>> RegexAnswer(r"= (\\d+)")("1 + 1 = 2, 2 + 2 = 4", {"answer": 4})
    1.0
    """

    def __init__(self, pattern: str, key: str = "answer") -> None:
        try:
            self.pattern = re.compile(pattern)
        except re.error as error:
            raise UserError(f"pattern = {pattern!r} is no regular expression: {error}") from None
        self.key = key

    def __call__(self, completion: str, problem: Problem) -> float:
        """Search."""
        found = list(self.pattern.finditer(completion, timeout=REGEX_SECONDS))
        if not found or self.pattern.groups == 0:
            return float(bool(found))
        return float((found[-1][1] or "").strip() == str(problem[self.key]).strip())


class Gsm8k(GraderSpec):
    """The number behind '####'."""

    kind: Literal["gsm8k"] = "gsm8k"
    key: str = "answer"
    flexible: bool = Field(False, description="the last number counts, with '####' or without")

    def build(self, open_model: OpenModel | None = None) -> Grader:
        """`Gsm8kAnswer`."""
        return Gsm8kAnswer(self.key, flexible=self.flexible)


class Gsm8kAnswer:
    """1 where the completion's last '#### N' is the number behind '####' in the problem's `answer`.

    With `flexible` the completion's last number counts, marked or not, for models that do not know
    the mark. The reference may also be a bare number. Commas and a dollar sign do not count, nor
    does 12.0 for 12. Source: Cobbe et al., arXiv:2110.14168, the data's own format.

    >>> Gsm8kAnswer()("so it is\\n#### 1,200", {"answer": "6 * 200 = 1200\\n#### 1200"})
    1.0
    >>> Gsm8kAnswer(flexible=True)("6 * 2 = 12, so $12.", {"answer": "#### 12"})
    1.0
    """

    def __init__(self, key: str = "answer", *, flexible: bool = False) -> None:
        self.key, self.flexible = key, flexible

    @staticmethod
    def number(text: str) -> Decimal | None:
        """The last number behind '####'."""
        found = _GSM8K.findall(text)
        try:
            return Decimal(found[-1].replace(",", "")) if found else None
        except InvalidOperation:
            return None

    def __call__(self, completion: str, problem: Problem) -> float:
        """Compare as decimals."""
        reference = str(problem[self.key])
        wanted = self.number(reference)
        wanted = Decimal(reference.replace(",", "")) if wanted is None else wanted
        return float(self._said(completion) == wanted)

    def _said(self, completion: str) -> Decimal | None:
        if not self.flexible:
            return self.number(completion)
        found = _LAST.findall(completion)
        return Decimal(re.sub(r"[$,]", "", found[-1])) if found else None


class Short(GraderSpec):
    """Full marks up to `target` characters, none from `limit` on."""

    kind: Literal["length"] = "length"
    target: int = Field(gt=0)
    limit: int = Field(gt=0)

    def build(self, open_model: OpenModel | None = None) -> Grader:
        """`Length`."""
        return Length(self.target, self.limit)


class Length:
    """1 up to `target` characters, falling in a straight line to 0 at `limit`, so that short is not cut off.

    >>> Length(10, 20)("x" * 15, {})
    0.5
    """

    def __init__(self, target: int, limit: int) -> None:
        if not 0 <= target < limit:
            raise UserError(f"length: target = {target} must be below limit = {limit}")
        self.target, self.limit = target, limit

    def __call__(self, completion: str, problem: Problem) -> float:
        """Count characters."""
        over = (len(completion) - self.target) / (self.limit - self.target)
        return min(1.0, max(0.0, 1.0 - over))


class Json(GraderSpec):
    """JSON that fits a schema."""

    kind: Literal["json"] = "json"
    json_schema: dict[str, Any] | None = Field(None, description="None: the problem's own `schema`")

    def build(self, open_model: OpenModel | None = None) -> Grader:
        """`JsonAnswer`."""
        return JsonAnswer(self.json_schema)


class JsonAnswer:
    """1 where the completion is JSON (in a code fence or bare) that fits a schema, else 0.

    The schema is the problem's `schema`, or the one given here. Known words: type, enum, const,
    properties, required, additionalProperties (true or false), items, minItems, maxItems, minimum,
    maximum, minLength, maxLength, pattern, anyOf. Raises UserError for a schema with another.

    >>> JsonAnswer({"type": "object", "required": ["a"]})('{"a": 1}', {})
    1.0
    """

    def __init__(self, schema: Mapping[str, Any] | None = None, *, key: str = "schema") -> None:
        if schema is not None:
            check_schema(schema)
        self.schema, self.key = schema, key

    def __call__(self, completion: str, problem: Problem) -> float:
        """Parse and check."""
        fenced = _FENCE.search(completion)
        schema = problem.get(self.key, self.schema)
        if schema is None:
            raise UserError(f"the problem has no '{self.key}' and the grader no schema of its own")
        check_schema(schema)
        try:
            value = json.loads(fenced[1] if fenced else completion, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return 0.0
        return float(fits(value, schema))


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,),
    "null": (type(None),), "integer": (int,), "number": (int, float),
}  # fmt: skip
_WORDS = frozenset(
    [
        "type",
        "enum",
        "const",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "minItems",
        "maxItems",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "pattern",
        "anyOf",
        "title",
        "description",
        "$schema",
        "default",
        "examples",
    ]
)


def check_schema(schema: Any) -> None:
    """Raise UserError for a schema that `fits` would not check whole."""
    if not isinstance(schema, Mapping):
        raise UserError(f"a JSON schema is an object, not {schema!r}")
    for word in schema:
        if word not in _WORDS:
            raise UserError(
                f"the JSON schema's '{word}' is not known; use {', '.join(sorted(_WORDS))}"
            )
    parts = [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]
    for part in [*parts, *([schema["items"]] if "items" in schema else [])]:
        check_schema(part)


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a JSON value fits a schema of the words that `JsonAnswer` names."""
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        return False
    # 1 and True are equal in Python and are not in JSON
    if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
        return False
    if "const" in schema and not _same(value, schema["const"]):
        return False
    if "anyOf" in schema and not any(fits(value, part) for part in schema["anyOf"]):
        return False
    if isinstance(value, dict):
        known = schema.get("properties", {})
        if any(key not in value for key in schema.get("required", [])):
            return False
        if schema.get("additionalProperties", True) is False and value.keys() - known.keys():
            return False
        return all(fits(value[key], part) for key, part in known.items() if key in value)
    if isinstance(value, list):
        inside = schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf)
        return inside and all(fits(one, schema.get("items", {})) for one in value)
    if isinstance(value, str):
        inside = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf)
        pattern = schema.get("pattern")
        found = pattern is None or re.search(pattern, value, timeout=REGEX_SECONDS) is not None
        return inside and found
    if _is(value, "number"):
        return bool(schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf))
    return True


def _is(value: Any, kind: str) -> bool:
    if kind in ("integer", "number") and isinstance(value, bool):
        return False
    whole = kind == "integer" and isinstance(value, float) and value.is_integer()
    return whole or isinstance(value, _TYPES.get(kind, ()))


def _same(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


class Code(GraderSpec):
    """Python that passes the problem's tests."""

    kind: Literal["code"] = "code"
    key: str = "tests"
    sandbox: SandboxLimits = SandboxLimits()
    threads: int = Field(4, gt=0)

    def build(self, open_model: OpenModel | None = None) -> Grader:
        """`CodeTests`."""
        return CodeTests(self.key, limits=self.sandbox, threads=self.threads)


class CodeTests:
    """1 where the completion's Python passes the problem's `tests`, which it cannot see, else 0.

    The code is the completion's first fenced block, or the whole completion. Where the problem has
    `code_prompt` (as HumanEval's `prompt`), that goes before it; `entry_point` makes the tests'
    `check(entry_point)` be called. Code and tests run in two sandboxes, and plain data alone goes
    between them; see `run_tests` for what that means for the tests.
    """

    def __init__(
        self, key: str = "tests", *, limits: SandboxLimits | None = None, threads: int = 4
    ) -> None:
        self.key, self.limits, self.threads = key, limits, threads

    def __call__(self, completion: str, problem: Problem) -> float:
        """Run code and tests. Raises SandboxRefused where the sandbox runs no code on this machine."""
        fenced = _FENCE.search(completion)
        verdict = run_tests(
            fenced[1] if fenced else completion,
            problem[self.key],
            prompt=problem.get("code_prompt", ""),
            entry_point=problem.get("entry_point"),
            limits=self.limits,
        )
        return float(verdict.passed)

    def grade_batch(
        self, completions: Sequence[str], problems: Sequence[Problem]
    ) -> Sequence[float]:
        """Several at a time."""
        return side_by_side(self, completions, problems, threads=self.threads)


class Reward(GraderSpec):
    """A reward model's score."""

    kind: Literal["reward_model"] = "reward_model"
    model: str = Field(description="MODEL with a scalar head")

    def build(self, open_model: OpenModel | None = None) -> Grader:
        """`RewardModel`."""
        if open_model is None:
            raise UserError(f"the reward model '{self.model}' cannot be opened here; use a recipe")
        return RewardModel(*open_model(self.model))


class RewardModel:
    """The score that a model with a scalar head gives the finished conversation, at its last token.

    Scores are as the model makes them: only their differences mean something.
    """

    def __init__(self, model: CausalLM, tokenizer: Tokenizer, *, batch: int = 16) -> None:
        if not model.config.score_head:
            raise UserError(
                "this model gives no scores (its config says score_head = false); train one with "
                "`stage: reward`"
            )
        self.model, self.tokenizer, self.batch = model, tokenizer, batch

    def __call__(self, completion: str, problem: Problem) -> float:
        """One conversation."""
        return self.grade_batch([completion], [problem])[0]

    @torch.no_grad()
    def grade_batch(
        self, completions: Sequence[str], problems: Sequence[Problem]
    ) -> Sequence[float]:
        """Conversations of like length together; one too long for the model is NaN."""
        rows = []
        for completion, problem in zip(completions, problems, strict=True):
            chat = [*problem["prompt"], {"role": "assistant", "content": completion}]
            ids, mask = self.tokenizer.encode_chat(chat)
            end = max((place for place, trained in enumerate(mask) if trained), default=-1) + 1
            rows.append(ids[:end] if end else ids)
        scores = [math.nan] * len(rows)
        short = [n for n in range(len(rows)) if len(rows[n]) <= self.model.config.context_length]
        order = sorted(short, key=lambda number: len(rows[number]))
        with evaluating(self.model):
            for first in range(0, len(order), self.batch):
                part = order[first : first + self.batch]
                # one id more, as pad_rows takes inputs from ids that are also targets
                padded, _ = pad_rows([([*rows[n], 0], [0] * (len(rows[n]) + 1)) for n in part])
                hidden = self.model.hidden_states(padded.to(self.model.device))
                last = torch.tensor([len(rows[n]) - 1 for n in part], device=hidden.device)
                given = self.model.scores(hidden)[
                    torch.arange(len(part), device=hidden.device), last
                ]
                for number, score in zip(part, given.tolist(), strict=True):
                    scores[number] = score
        return scores


class Guarded:
    """A grader of a user's own in a process of its own: one that hangs or crashes costs one sample.

    The grader must be importable where it is defined (it is sent to the process by pickle, which
    stays on this machine). After a timeout the process is killed and a new one started; what it
    prints is thrown away. Raises TimeoutError or RuntimeError, which `Rubric` counts.
    """

    def __init__(
        self, grader: Grader, *, seconds: float = 10.0, start_seconds: float = 60.0
    ) -> None:
        self.grader, self.seconds, self.start_seconds = grader, seconds, start_seconds
        self._process: Any = None
        self._pipe: Connection | None = None

    def __call__(self, completion: str, problem: Problem) -> float:
        """Ask the process."""
        pipe = self._started()
        try:
            pipe.send((completion, dict(problem)))
            if not pipe.poll(self.seconds):
                raise TimeoutError(f"the grader took over {self.seconds} seconds")
            kind, value = pipe.recv()
        except (TimeoutError, EOFError, OSError) as error:
            self.close()
            raise (
                error if isinstance(error, TimeoutError) else RuntimeError("the grader crashed")
            ) from error
        if kind == "error":
            raise RuntimeError(value)
        return float(value)

    def _started(self) -> Connection:
        if self._pipe is None:
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, self.grader), daemon=True)
            self._process.start()
            theirs.close()
            self._pipe = ours
            try:
                started = ours.poll(self.start_seconds) and ours.recv() == "ready"
            except EOFError:
                started = False
            if not started:
                self.close()
                raise RuntimeError(
                    "the grader's process did not start: can the grader be imported?"
                )
        return self._pipe

    def close(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


def _serve(pipe: Connection, grader: Grader) -> None:
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process
    pipe.send("ready")
    while True:
        try:
            completion, problem = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(("score", float(grader(completion, problem))))
        except Exception as error:
            pipe.send(("error", f"{type(error).__name__}: {error}"))
