"""Rule-based graders: exact match, regular expression, GSM8K, JSON schema, length, unit tests; and
reward models.
"""

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
    """Checks the answer word for word."""

    kind: Literal["exact"] = "exact"
    key: str = "answer"
    case: bool = False
    last_line: bool = False

    def build(self, open_model: OpenModel | None = None) -> Grader:
        """Return an `ExactAnswer`."""
        return ExactAnswer(self.key, case=self.case, last_line=self.last_line)


class ExactAnswer:
    """1 if the completion, or its last line, equals the problem's `answer`, else 0.

    Whitespace at the ends and repeated whitespace are ignored; so is case unless `case` is set.

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
    """Checks the first group of a regular expression."""

    kind: Literal["regex"] = "regex"
    pattern: str
    key: str = "answer"

    def build(self, open_model: OpenModel | None = None) -> Grader:
        """Return a `RegexAnswer`."""
        return RegexAnswer(self.pattern, self.key)

    @property
    def reads(self) -> tuple[str, ...]:
        """The answer, if the pattern has a group to compare with it."""
        return (self.key,) if RegexAnswer(self.pattern).pattern.groups else ()


class RegexAnswer:
    r"""1 if a pattern matches, and its first group (if it has one) equals the problem's `answer`,
    else 0.

    The last match counts. A pattern that takes more than a second on a completion fails for it.

    >>> RegexAnswer(r"= (\d+)")("1 + 1 = 2, 2 + 2 = 4", {"answer": 4})
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
    """Checks the number after '####'."""

    kind: Literal["gsm8k"] = "gsm8k"
    key: str = "answer"
    flexible: bool = Field(False, description="use the last number, with '####' or without")

    def build(self, open_model: OpenModel | None = None) -> Grader:
        """Return a `Gsm8kAnswer`."""
        return Gsm8kAnswer(self.key, flexible=self.flexible)


class Gsm8kAnswer:
    """1 if the number of the completion's last '#### N' equals the number after '####' in the
    problem's `answer`, else 0.

    With `flexible` the completion's last number counts, with or without the marker, for models that
    do not know the format. The reference may also be a plain number. Commas, dollar signs and
    trailing zeros after the decimal point are ignored. Source: Cobbe et al., arXiv:2110.14168, the
    data's own format.

    >>> Gsm8kAnswer()("so it is\\n#### 1,200", {"answer": "6 * 200 = 1200\\n#### 1200"})
    1.0
    >>> Gsm8kAnswer(flexible=True)("6 * 2 = 12, so $12.", {"answer": "#### 12"})
    1.0
    """

    def __init__(self, key: str = "answer", *, flexible: bool = False) -> None:
        self.key, self.flexible = key, flexible

    @staticmethod
    def number(text: str) -> Decimal | None:
        """The last number after '####'."""
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
    """Rewards length: 1 up to `target` characters, 0 from `limit` on."""

    kind: Literal["length"] = "length"
    target: int = Field(gt=0)
    limit: int = Field(gt=0)

    def build(self, open_model: OpenModel | None = None) -> Grader:
        """Return a `Length`."""
        return Length(self.target, self.limit)


class Length:
    """1 up to `target` characters, decreasing linearly to 0 at `limit`.

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
    """Checks JSON against a schema."""

    kind: Literal["json"] = "json"
    json_schema: dict[str, Any] | None = Field(None, description="null: the problem's `schema`")

    def build(self, open_model: OpenModel | None = None) -> Grader:
        """Return a `JsonAnswer`."""
        return JsonAnswer(self.json_schema)


class JsonAnswer:
    """1 if the completion is JSON (in a code fence or bare) that is valid under a schema, else 0.

    The schema is the problem's `schema`, or the one given here. Supported keywords: type, enum,
    const, properties, required, additionalProperties (true or false), items, minItems, maxItems,
    minimum, maximum, minLength, maxLength, pattern, anyOf. Raises UserError for a schema with
    others.

    >>> JsonAnswer({"type": "object", "required": ["a"]})('{"a": 1}', {})
    1.0
    """

    def __init__(self, schema: Mapping[str, Any] | None = None, *, key: str = "schema") -> None:
        if schema is not None:
            check_schema(schema)
        self.schema, self.key = schema, key

    def __call__(self, completion: str, problem: Problem) -> float:
        """Parse and validate."""
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
    """Raise UserError for a schema with unsupported keywords."""
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
    """Whether a JSON value is valid under a schema with the keywords that `JsonAnswer` supports."""
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
    """Checks Python code with the problem's tests."""

    kind: Literal["code"] = "code"
    key: str = "tests"
    sandbox: SandboxLimits = SandboxLimits()
    threads: int = Field(4, gt=0)

    def build(self, open_model: OpenModel | None = None) -> Grader:
        """Return a `CodeTests`."""
        return CodeTests(self.key, limits=self.sandbox, threads=self.threads)


class CodeTests:
    """1 if the completion's Python code passes the problem's `tests`, else 0.

    The code is the completion's first fenced block, or the whole completion. A `code_prompt` of the
    problem (HumanEval's `prompt`) is prepended; with `entry_point` the tests' `check(entry_point)`
    is called. Code and tests run in two sandboxes that exchange plain data only, so that the code
    cannot see the tests; see `run_tests`.
    """

    def __init__(
        self, key: str = "tests", *, limits: SandboxLimits | None = None, threads: int = 4
    ) -> None:
        self.key, self.limits, self.threads = key, limits, threads

    def __call__(self, completion: str, problem: Problem) -> float:
        """Run code and tests. Raises SandboxRefused if the sandbox runs no code on this machine."""
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
        """Run several at a time."""
        return side_by_side(self, completions, problems, threads=self.threads)


class Reward(GraderSpec):
    """Scores with a reward model."""

    kind: Literal["reward_model"] = "reward_model"
    model: str = Field(description="MODEL with a scalar head")

    def build(self, open_model: OpenModel | None = None) -> Grader:
        """Return a `RewardModel`."""
        if open_model is None:
            raise UserError(f"the reward model '{self.model}' cannot be opened here; use a recipe")
        return RewardModel(*open_model(self.model))


class RewardModel:
    """The score of a finished conversation by a model with a scalar head, at the last token.

    Scores are not normalized: only differences are meaningful.
    """

    def __init__(self, model: CausalLM, tokenizer: Tokenizer, *, batch: int = 16) -> None:
        if not model.config.score_head:
            raise UserError(
                "this model gives no scores (its config says score_head = false); train one with "
                "`stage: reward`"
            )
        self.model, self.tokenizer, self.batch = model, tokenizer, batch

    def __call__(self, completion: str, problem: Problem) -> float:
        """Score one conversation."""
        return self.grade_batch([completion], [problem])[0]

    @torch.no_grad()
    def grade_batch(
        self, completions: Sequence[str], problems: Sequence[Problem]
    ) -> Sequence[float]:
        """Score conversations in batches of similar length; those longer than the model's context
        get NaN.
        """
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
    """Runs a user's grader in a separate process, so that a hang or crash affects one sample only.

    The grader must be importable where it is defined, since it is pickled to the process on this
    machine. After a timeout the process is killed and a new one is started; its output is
    discarded. Raises TimeoutError or RuntimeError, which `Rubric` counts.
    """

    def __init__(
        self, grader: Grader, *, seconds: float = 10.0, start_seconds: float = 60.0
    ) -> None:
        self.grader, self.seconds, self.start_seconds = grader, seconds, start_seconds
        self._process: Any = None
        self._pipe: Connection | None = None

    def __call__(self, completion: str, problem: Problem) -> float:
        """Grade in the process."""
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
