"""Constraints on answers: JSON schemas, regular expressions and choices, with limits on their size.

`inference.constraints.grammar` compiles them to token masks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from glassbox.core.config import Spec, parse
from glassbox.core.errors import UserError

MAX_CHARS = 65_536
"""Maximum length of a schema (as JSON), a pattern, or a list of choices, in characters."""
MAX_DEPTH = 64
MAX_PROPERTIES = 1_000
MAX_REPEATED = 20_000
"""Maximum number of characters of a pattern's counted repeats, multiplied out: `(a{100}){100}` is
10,000.
"""


class JsonSchema(Spec):
    """The answer must be JSON that is valid under the schema. Raises UserError (through pydantic)
    beyond the limits.

    >>> JsonSchema(definition={"type": "integer"}).kind
    'json_schema'
    """

    kind: Literal["json_schema"] = "json_schema"
    definition: dict[str, Any] | bool = Field(description="the schema, draft 2020-12 or earlier")

    @field_validator("definition")
    @classmethod
    def _within_limits(cls, value: dict[str, Any] | bool) -> dict[str, Any] | bool:
        _check_nesting(value)
        if (size := len(_canonical(value))) > MAX_CHARS:
            raise ValueError(f"the schema has {size} characters; the most is {MAX_CHARS}")
        _check_schema(value)
        return value

    @property
    def key(self) -> str:
        """A key that is equal for equal constraints only."""
        return f"{self.kind}:{_canonical(self.definition)}"


class Regex(Spec):
    """The whole answer must match the pattern (as with `re.fullmatch`; no look-around, no
    back-references).

    >>> Regex(pattern="[a-z]+").kind
    'regex'
    """

    kind: Literal["regex"] = "regex"
    pattern: str = Field(
        min_length=1,
        max_length=MAX_CHARS,
        description="the pattern that the whole answer must match",
    )

    @field_validator("pattern")
    @classmethod
    def _within_limits(cls, value: str) -> str:
        check_text(value, "pattern")
        check_pattern(value)
        return value

    @property
    def key(self) -> str:
        """A key that is equal for equal constraints only."""
        return f"{self.kind}:{self.pattern}"


class Choice(Spec):
    """The answer must be one of these texts.

    >>> Choice(options=("yes", "no")).kind
    'choice'
    """

    kind: Literal["choice"] = "choice"
    options: tuple[str, ...] = Field(min_length=1, description="the texts to choose from")

    @field_validator("options")
    @classmethod
    def _within_limits(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "" in value:
            raise ValueError("an empty text is no choice; leave it out")
        for option in value:
            check_text(option, "a choice")
        if (size := sum(map(len, value))) > MAX_CHARS:
            raise ValueError(f"the choices have {size} characters; the most is {MAX_CHARS}")
        return value

    @property
    def key(self) -> str:
        """A key that is equal for equal constraints only."""
        return f"{self.kind}:{json.dumps(self.options)}"


Constraint = Annotated[JsonSchema | Regex | Choice, Field(discriminator="kind")]
"""The union of constraints, discriminated by `kind`."""


def json_object() -> JsonSchema:
    """A constraint to any JSON object."""
    return JsonSchema(definition={"type": "object"})


def read_constraint(
    json_schema: Path | None, regex: str | None, choices: Sequence[str]
) -> JsonSchema | Regex | Choice | None:
    """Read a constraint from command-line options: a file with a schema, a pattern, or texts to
    choose from.

    Raises UserError if more than one is given, for a file that cannot be read, and for constraints
    that are too large.
    """
    given = {"--json-schema": json_schema, "--regex": regex, "--choice": choices or None}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise UserError(f"{' and '.join(named)} cannot both hold; give one of them")
    if json_schema is not None:
        return parse(JsonSchema, {"definition": _read(json_schema)}, where=str(json_schema))
    if regex is not None:
        return parse(Regex, {"pattern": regex}, where="--regex")
    return parse(Choice, {"options": choices}, where="--choice") if choices else None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--json-schema {path}: {error.strerror}; give a file") from None
    except (ValueError, RecursionError):
        raise UserError(f"--json-schema {path} holds no JSON; write a schema in it") from None


def _canonical(value: Any) -> str:
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the schema is no JSON: {error}") from None


def check_text(text: str, what: str) -> None:
    """Raise ValueError for an unpaired surrogate, which JSON can represent but no tokenizer can
    encode.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{what} has a lone surrogate, which is no text") from None


def _check_nesting(value: Any) -> None:
    """Raise an error for nesting deeper than MAX_DEPTH, without recursion."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"the schema is nested deeper than {MAX_DEPTH}; flatten it")
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]


def _check_schema(value: Any) -> None:
    """Check what the automaton does not: very large patterns and objects, and counts."""
    check_text(_canonical(value), "the schema")
    level = [value]
    while level:
        for item in level:
            if isinstance(item, dict):
                _check_object(item)
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]


def _check_object(schema: dict[str, Any]) -> None:
    properties, patterns = schema.get("properties"), schema.get("patternProperties")
    if isinstance(properties, dict) and len(properties) > MAX_PROPERTIES:
        raise ValueError(
            f"{len(properties)} properties in one object; the most is {MAX_PROPERTIES}"
        )
    for pattern in [schema.get("pattern"), *(patterns if isinstance(patterns, dict) else ())]:
        if isinstance(pattern, str):
            check_pattern(pattern)
    least = schema.get("minProperties")
    if isinstance(least, int) and least > 1 and schema.get("additionalProperties") is not False:
        raise ValueError(
            f"minProperties = {least} could be met by writing one key twice; set "
            "additionalProperties to false, or name the properties in required"
        )


def check_pattern(pattern: str) -> None:
    """Raise ValueError if a pattern's counted repeats, multiplied out, exceed MAX_REPEATED
    characters.

    The automaton's own limits do not cover nested repeats, whose cost is proportional to their
    product. Invalid patterns are left to the compiler.
    """
    if (size := _repeated(pattern)) > MAX_REPEATED:
        raise ValueError(
            f"the pattern's counted repeats come to {size} characters; the most is {MAX_REPEATED}: "
            "use * or + for what may be long"
        )


def _repeated(pattern: str) -> int:
    """Length of the longest text that a pattern matches, counting * and + as one repeat."""
    totals, last = [0], [0]  # a group each: so far, and the atom that a quantifier would repeat
    at, size = 0, len(pattern)
    while at < size:
        char = pattern[at]
        if char == "\\":
            at += 2
        elif char == "[":
            at = _after_class(pattern, at)
        elif char == "(":
            totals.append(0)
            last.append(0)
            at += 1
            continue
        elif char == ")" and len(totals) > 1:
            atom = totals.pop() + last.pop()
            totals[-1] += last[-1]
            last[-1] = atom
            at += 1
            continue
        elif char == "{" and (count := _count(pattern, at)) is not None:
            times, at = count
            last[-1] *= times
            continue
        elif char in "*+?|":
            at += 1
            continue
        else:
            at += 1
        totals[-1] += last[-1]
        last[-1] = 1
    return sum(totals) + sum(last)


def _count(pattern: str, at: int) -> tuple[int, int] | None:
    """The maximum of `{...}` at this position, and where it ends; None if it is literal text."""
    end = pattern.find("}", at)
    low, _, high = pattern[at + 1 : end].partition(",")
    numbers = [number for number in (low.strip(), high.strip()) if number]
    if end < 0 or not numbers or not all(n.isascii() and n.isdigit() for n in numbers):
        return None
    if max(map(len, numbers)) > 9:
        return 10**9, end + 1
    return max(1, *map(int, numbers)), end + 1


def _after_class(pattern: str, at: int) -> int:
    """The end of a `[...]`, which may contain nested classes."""
    depth = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            at += 1
        elif char == "[":
            depth += 1
            at += pattern[at + 1 : at + 2] == "^"
            at += pattern[at + 1 : at + 2] == "]"  # a bracket that comes first is a member
        elif char == "]":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return at
