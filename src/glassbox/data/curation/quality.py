"""Quality by counting: Gopher's rules for a document and FineWeb's for its lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal

from pydantic import Field

from glassbox.data.curation.step import Dropped, Record, RecordStep, StepSpec

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
BULLETS = ("•", "‣", "◦", "■", "□", "▪", "▫", "●", "○", "▶", "*", "-", "–")
ELLIPSES = ("...", "…")
TERMINAL = tuple(".!?…\"'”’»。！？」』؟۔।")

_LETTER_RUN = re.compile(r"[^\W\d_]+")
_HAS_LETTER = re.compile(r"[^\W\d_]")

Check = tuple[str, bool, str]
"""A reason, whether it applies, and what was measured."""


def first_fault(record: Record, checks: Iterable[Check]) -> Record | Dropped:
    """The record, or the first reason that applies to it; later checks are not computed."""
    for reason, applies, detail in checks:
        if applies:
            return Dropped(reason, detail)
    return record


class GopherQualitySpec(StepSpec):
    """Drop documents that look unlike prose, by the rules of MassiveText.

    Words are what stands between white space, so languages written without spaces need other
    limits, and others than English other stop words.
    Source: Rae et al., arXiv:2112.11446, appendix A.1.1, "Quality Filtering".
    """

    kind: Literal["gopher_quality"] = "gopher_quality"
    min_words: int = Field(50, ge=0)
    max_words: int = Field(100_000, ge=1)
    min_mean_word_length: float = Field(3, ge=0, description="characters")
    max_mean_word_length: float = Field(10, gt=0, description="characters")
    max_symbol_ratio: float = Field(0.1, ge=0, description="# or ellipses a word")
    max_bullet_lines: float = Field(0.9, ge=0, le=1, description="share that begin with a bullet")
    max_ellipsis_lines: float = Field(0.3, ge=0, le=1, description="share that end in an ellipsis")
    min_alphabetic_words: float = Field(0.8, ge=0, le=1, description="share that hold a letter")
    stop_words: tuple[str, ...] = STOP_WORDS
    min_stop_words: int = Field(2, ge=0, description="minimum number of different stop words")

    def build(self) -> RecordStep:
        """Build the step."""
        return partial(gopher_quality, spec=self)


def gopher_quality(record: Record, *, spec: GopherQualitySpec) -> Record | Dropped:
    """The record if it keeps Gopher's rules of quality. Tested against: a loop from the paper."""
    return first_fault(record, _gopher_checks(record, spec))


def _gopher_checks(record: Record, spec: GopherQualitySpec) -> Iterable[Check]:
    text, words = record.text, record.words
    count = len(words)
    yield "too few words", count < spec.min_words, f"{count}, at least {spec.min_words}"
    yield "too many words", count > spec.max_words, f"{count}, at most {spec.max_words}"
    if not count:
        return
    mean = sum(map(len, words)) / count
    detail = (
        f"{mean:.3g} characters, {spec.min_mean_word_length:g} to {spec.max_mean_word_length:g}"
    )
    yield "words too short", mean < spec.min_mean_word_length, detail
    yield "words too long", mean > spec.max_mean_word_length, detail
    limit = spec.max_symbol_ratio
    hashes, dots = text.count("#"), sum(map(text.count, ELLIPSES))
    yield "too many hashes", hashes > limit * count, f"{hashes} in {count} words, at most {limit:g}"
    yield "too many ellipses", dots > limit * count, f"{dots} in {count} words, at most {limit:g}"
    lines = record.lines
    yield _too_many(
        "too many bullets", "begin with one", (line.startswith(BULLETS) for line in lines), lines,
        spec.max_bullet_lines,
    )  # fmt: skip
    yield _too_many(
        "too many lines cut off", "end in an ellipsis", (line.endswith(ELLIPSES) for line in lines),
        lines, spec.max_ellipsis_lines,
    )  # fmt: skip
    wanted = spec.min_alphabetic_words * count
    if sum(map(str.isalpha, words)) < wanted:  # else there is no need to look into words
        lettered = sum(1 for word in words if word.isalpha() or _HAS_LETTER.search(word))
        detail = f"{lettered} of {count}, at least {spec.min_alphabetic_words:.0%}"
        yield "too few words with letters", lettered < wanted, detail
    plain = {word for word in spec.stop_words if word.isalpha() and word == word.lower()}
    if len(plain.intersection(words)) < spec.min_stop_words:  # else as they stand there are enough
        different = " ".join(set(text.lower().split()))
        met = set(_LETTER_RUN.findall(different)).intersection(spec.stop_words)
        yield (
            "too few stop words",
            len(met) < spec.min_stop_words,
            f"{len(met)} different, at least {spec.min_stop_words}",
        )


def _too_many(
    reason: str, what: str, marks: Iterable[bool], lines: Sequence[str], limit: float
) -> Check:
    marked = sum(marks)
    detail = f"{marked} of {len(lines)} lines {what}, at most {limit:.0%}"
    return reason, marked > limit * len(lines), detail


class FinewebQualitySpec(StepSpec):
    """Drop documents whose lines are a list or a menu rather than text.

    Source: Penedo et al., arXiv:2406.17557, section 3.6: the three of their filters that stood out.
    """

    kind: Literal["fineweb_quality"] = "fineweb_quality"
    max_unpunctuated: float = Field(
        0.12,
        ge=0,
        le=1,
        description="drop documents if at most this share of lines ends in punctuation",
    )
    min_duplicated: float = Field(
        0.1,
        ge=0,
        le=1,
        description="drop documents from this share of characters in duplicated lines",
    )
    short_line: int = Field(30, ge=1, description="lines of fewer characters are short")
    min_short_lines: float = Field(
        0.67, ge=0, le=1, description="drop documents from this share of short lines"
    )

    def build(self) -> RecordStep:
        """Build the step."""
        return partial(fineweb_quality, spec=self)


def fineweb_quality(record: Record, *, spec: FinewebQualitySpec) -> Record | Dropped:
    """The record if it keeps FineWeb's rules. Tested against: a loop from the paper."""
    return first_fault(record, _fineweb_checks(record.lines, spec))


def _fineweb_checks(lines: Sequence[str], spec: FinewebQualitySpec) -> Iterable[Check]:
    count = len(lines)
    yield "no lines", not count, "nothing but white space"
    ended = sum(line.endswith(TERMINAL) for line in lines)
    yield (
        "too few lines end in punctuation",
        ended <= spec.max_unpunctuated * count,
        f"{ended} of {count}, more than {spec.max_unpunctuated:.0%} wanted",
    )
    total = sum(map(len, lines))
    repeated = total - sum(map(len, set(lines)))
    yield (
        "too many characters in duplicated lines",
        repeated >= spec.min_duplicated * total,
        f"{repeated} of {total}, less than {spec.min_duplicated:.0%} wanted",
    )
    short = sum(len(line) < spec.short_line for line in lines)
    yield (
        "too many short lines",
        short >= spec.min_short_lines * count,
        f"{short} of {count} under {spec.short_line} characters, "
        f"less than {spec.min_short_lines:.0%} wanted",
    )
