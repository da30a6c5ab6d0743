"""What is done to a model's answers before they are judged: pipelines of filters.

A filter maps lists of responses, one list a request, and the documents that the requests are about.
Tested against: lm-evaluation-harness's filters.
"""

from __future__ import annotations

import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any, Literal

import regex
from pydantic import Field, field_validator

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.evaluation.tasks.functions import Function

Doc = dict[str, Any]
Responses = list[Any]
SECONDS = 10.0
"""What one pattern may take on one answer."""


def _find(pattern: str, text: str) -> list[Any]:
    try:
        return regex.findall(pattern, text, timeout=SECONDS)
    except TimeoutError:
        raise UserError(
            f"the filter's pattern {pattern!r} takes more than {SECONDS:.0f} s on an answer; simplify it"
        ) from None


def _each(responses: Responses, change: Callable[[Any], Any]) -> Responses:
    return [[change(one) for one in answers] for answers in responses]


def _check_pattern(pattern: str) -> str:
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    return pattern


class RegexFilter(Spec):
    """The match of a pattern, or of its first group that is not empty; `fallback` where none is."""

    function: Literal["regex"] = "regex"
    regex_pattern: str = r"#### (\-?[0-9\.\,]+)"
    group_select: int = 0
    fallback: str = "[invalid]"

    _checked = field_validator("regex_pattern")(_check_pattern)

    def apply(self, responses: Responses, docs: Sequence[Doc]) -> Responses:
        """Each answer replaced by what is found in it."""
        return _each(responses, self._extract)

    def _extract(self, answer: Any) -> str:
        found = _find(self.regex_pattern, answer if isinstance(answer, str) else "")
        if not found:
            return self.fallback
        return _first_group(found[self.group_select]) or self.fallback


def _first_group(match: Any) -> str:
    if isinstance(match, tuple):
        match = next((one for one in match if one), "")
    return str(match).strip()


class MultiChoiceRegex(RegexFilter):
    """As `regex`, else the option whose text the answer holds, else the letter behind a colon."""

    function: Literal["multi_choice_regex"] = "multi_choice_regex"  # type: ignore[assignment]
    ignore_case: bool = False
    ignore_punctuation: bool = False
    regexes_to_ignore: tuple[str, ...] = ()

    def apply(self, responses: Responses, docs: Sequence[Doc]) -> Responses:
        """Each answer replaced by `(A)`, `(B)`, ... of the document's `choices`."""
        return [
            [self._choose(one, doc["choices"]) for one in answers]
            for answers, doc in zip(responses, docs, strict=True)
        ]

    def _plain(self, text: str) -> str:
        for pattern in self.regexes_to_ignore:
            text = regex.sub(pattern, "", text)
        text = text.lower() if self.ignore_case else text
        return text.translate(_punctuation()) if self.ignore_punctuation else text

    def _choose(self, answer: Any, choices: Sequence[str]) -> str:
        answer = answer if isinstance(answer, str) else ""
        letters = {self._plain(c.strip()): f"({chr(65 + n)})" for n, c in enumerate(choices)}
        texts = "|".join(sorted(map(regex.escape, letters), key=len, reverse=True))
        behind = "|".join(chr(65 + n) for n in range(len(choices)))
        for pattern, text, names in (
            (self.regex_pattern, answer, {}),
            (texts, self._plain(answer), letters),
            (rf":[\s]*({behind})", answer, {chr(65 + n): f"({chr(65 + n)})" for n in range(26)}),
        ):
            if (found := _find(pattern, text)) and (
                match := _first_group(found[self.group_select])
            ):
                return names.get(match, match)
        return self.fallback


@cache
def _punctuation() -> dict[int, None]:
    return dict.fromkeys(
        code for code in range(sys.maxunicode) if unicodedata.category(chr(code)).startswith("P")
    )


class RegexPos(Spec):
    """The tags of answers that list (word, tag) pairs."""

    function: Literal["regex_pos"] = "regex_pos"
    regex_pattern: str = r"\['(.*?)'\]"
    group_select: int = 0
    fallback: tuple[str, ...] = ("invalid",)

    def apply(self, responses: Responses, docs: Sequence[Doc]) -> Responses:
        """Each answer replaced by its list of tags."""
        return _each(responses, self._tags)

    def _tags(self, answer: Any) -> list[str]:
        pairs = _find(r"\('([^']*)', '([^']*)'\)", answer) if isinstance(answer, str) else answer
        return [tag for _, tag in pairs] or list(self.fallback)


class RemoveWhitespace(Spec):
    """Leading and trailing white space removed."""

    function: Literal["remove_whitespace"] = "remove_whitespace"

    def apply(self, responses: Responses, docs: Sequence[Doc]) -> Responses:
        """Each answer stripped."""
        return _each(responses, lambda answer: answer.strip())


class Lowercase(Spec):
    """Lower case."""

    function: Literal["lowercase"] = "lowercase"

    def apply(self, responses: Responses, docs: Sequence[Doc]) -> Responses:
        """Each answer in lower case."""
        return _each(responses, lambda answer: answer.lower())


class Uppercase(Spec):
    """Upper case."""

    function: Literal["uppercase"] = "uppercase"

    def apply(self, responses: Responses, docs: Sequence[Doc]) -> Responses:
        """Each answer in upper case."""
        return _each(responses, lambda answer: answer.upper())


class Map(Spec):
    """Answers looked up in a table."""

    function: Literal["map"] = "map"
    mapping_dict: dict[str, Any] = Field(default_factory=dict)
    default_value: Any = None

    def apply(self, responses: Responses, docs: Sequence[Doc]) -> Responses:
        """Each answer replaced by its entry."""
        return _each(responses, lambda answer: self.mapping_dict.get(answer, self.default_value))


class TakeFirst(Spec):
    """The first of a request's answers."""

    function: Literal["take_first"] = "take_first"

    def apply(self, responses: Responses, docs: Sequence[Doc]) -> Responses:
        """One answer a request."""
        return [answers[0] for answers in responses]


class TakeFirstK(Spec):
    """The first k of a request's answers."""

    function: Literal["take_first_k"] = "take_first_k"
    k: int = Field(gt=0)

    def apply(self, responses: Responses, docs: Sequence[Doc]) -> Responses:
        """k answers a request. Raises UserError where there are fewer."""
        for answers in responses:
            if len(answers) < self.k:
                raise UserError(
                    f"take_first_k: k = {self.k}, but a request has {len(answers)} answers; "
                    f"set repeats to {self.k} or more"
                )
        return [answers[: self.k] for answers in responses]


class MajorityVote(Spec):
    """The most frequent of a request's answers; of equals the one that came first."""

    function: Literal["majority_vote"] = "majority_vote"

    def apply(self, responses: Responses, docs: Sequence[Doc]) -> Responses:
        """A list of one answer a request."""
        return [[Counter(answers).most_common(1)[0][0]] for answers in responses]


class Custom(Spec):
    """A function from lists of answers and documents to lists of answers."""

    function: Literal["custom"] = "custom"
    filter_fn: Function

    def apply(self, responses: Responses, docs: Sequence[Doc]) -> Responses:
        """What the function returns."""
        return list(self.filter_fn.load()(responses, docs))


Filter = Annotated[
    RegexFilter
    | MultiChoiceRegex
    | RegexPos
    | RemoveWhitespace
    | Lowercase
    | Uppercase
    | Map
    | TakeFirst
    | TakeFirstK
    | MajorityVote
    | Custom,
    Field(discriminator="function"),
]


class Pipeline(Spec):
    """Filters in order, and the name under which the judged answers are reported."""

    name: str = "none"
    filter: tuple[Filter, ...] = (TakeFirst(),)

    def apply(self, responses: Responses, docs: Sequence[Doc]) -> Responses:
        """The answers behind the last filter."""
        for one in self.filter:
            responses = one.apply(responses, docs)
        return responses
