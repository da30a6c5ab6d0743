"""Pre-tokenizers: how a normalized text is cut into words, each step as tokenizer.json writes it.

A piece goes with whether it is the very beginning of the text, for steps that put a space only
there. Tested against: `tokenizers`, the same words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import regex

from glassbox.core.errors import UserError
from glassbox.tokenizers.bytelevel import to_chars, utf8
from glassbox.tokenizers.checks import get, kind_of, optional, show, typed
from glassbox.tokenizers.normalizers import pattern_of
from glassbox.tokenizers.patterns import DIGIT, PATTERNS, WorkLimit, compile_pattern, find_matches

Cut = tuple[str, bool]
Splitter = Callable[[str, bool, WorkLimit], list[Cut]]

_MAX_STEPS = 64

SPACE = "▁"
BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
_PUNCTUATION = r"[\p{P}!-/:-@\[-`{-~]"
_WHITE_SPACE = r"\p{White_Space}"


def build_splitter(raw: Any, where: str, *, chars: bool = False) -> Splitter:
    """The function of an entry; null does not cut. `chars`: ByteLevel writes its alphabet.

    Raises UserError naming what is not known.
    """
    if raw is None:
        return lambda text, first, limit: [(text, first)] if text else []
    kind = kind_of(raw, (*_KINDS, "ByteLevel", "Sequence"), where)
    if kind == "Sequence":
        return _sequence(raw, where, chars)
    return _byte_level(raw, where, chars) if kind == "ByteLevel" else _KINDS[kind](raw, where)


def cuts_at_spaces(raw: Any) -> bool:
    """Whether a checked entry's first step surely cuts where a space follows something else."""
    if raw is None:
        return False
    if raw["type"] == "Sequence":
        return bool(raw["pretokenizers"]) and cuts_at_spaces(raw["pretokenizers"][0])
    if raw["type"] == "Metaspace":
        return raw.get("split", True) is True
    return raw["type"] in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer")


def cut(
    text: str,
    find: regex.Pattern[str],
    behavior: str,
    *,
    invert: bool = False,
    limit: WorkLimit | None = None,
) -> list[str]:
    """The text cut at a pattern's matches; `limit` for a pattern out of a file.

    >>> cut("a-b", regex.compile("-"), "MergedWithNext")
    ['a', '-b']
    """
    spans: list[tuple[int, int, bool]] = []
    done = 0
    for match in find.finditer(text) if limit is None else find_matches(find, text, limit):
        start, end = match.span()
        if start > done:
            spans.append((done, start, invert))
        if end > start:
            spans.append((start, end, not invert))
        done = max(done, end)
    if done < len(text):
        spans.append((done, len(text), invert))
    return [text[start:end] for start, end in _grouped(spans, behavior)]


def _grouped(spans: list[tuple[int, int, bool]], behavior: str) -> list[tuple[int, int]]:
    if behavior == "Removed":
        return [(start, end) for start, end, matched in spans if not matched]
    if behavior == "Isolated":
        return [(start, end) for start, end, _ in spans]
    groups: list[tuple[int, int]] = []
    before: bool | None = None
    backwards = behavior == "MergedWithNext"
    for start, end, matched in reversed(spans) if backwards else spans:
        joins = matched == before if behavior == "Contiguous" else matched and before is False
        if joins and groups:
            low, high = groups[-1]
            groups[-1] = (start, high) if backwards else (low, end)
        else:
            groups.append((start, end))
        before = matched
    return groups[::-1] if backwards else groups


def _by_pattern(
    find: regex.Pattern[str], behavior: str, invert: bool = False, *, bounded: bool = False
) -> Splitter:
    def split(text: str, first: bool, limit: WorkLimit) -> list[Cut]:
        parts = cut(text, find, behavior, invert=invert, limit=limit if bounded else None)
        starts = bool(parts) and text.startswith(parts[0]) and first
        return [(part, starts and i == 0) for i, part in enumerate(parts)]

    return split


def _sequence(raw: Any, where: str, chars: bool) -> Splitter:
    steps = get(raw, "pretokenizers", list, where)
    if len(steps) > _MAX_STEPS:
        raise UserError(f"{where} has {len(steps)} steps; at most {_MAX_STEPS} are supported")
    for i, step in enumerate(steps[:-1]):
        if not chars and isinstance(step, dict) and step.get("type") == "ByteLevel":
            raise UserError(f"{where}[{i}]: ByteLevel is not the last step; that is not supported")
    splitters = [
        build_splitter(typed(step, dict, f"{where}[{i}]"), f"{where}[{i}]", chars=chars)
        for i, step in enumerate(steps)
    ]

    def split(text: str, first: bool, limit: WorkLimit) -> list[Cut]:
        pieces = [(text, first)] if text else []
        for step in splitters:
            pieces = [part for piece in pieces for part in step(*piece, limit)]
            limit.check(where, sum(len(word) for word, _ in pieces))
        return pieces

    return split


def _byte_level(raw: Any, where: str, chars: bool) -> Splitter:
    prefixes = optional(raw, "add_prefix_space", bool, True, where)
    cuts = optional(raw, "use_regex", bool, True, where)
    find = compile_pattern(PATTERNS["gpt2"]).findall

    def split(text: str, first: bool, limit: WorkLimit) -> list[Cut]:
        if not text:
            return []
        if prefixes and not text.startswith(" "):
            text = " " + text
        words: Iterable[str] = find(text) if cuts else [text]
        if chars:
            words = [to_chars(utf8(word)) for word in words]
        return [(word, first and i == 0) for i, word in enumerate(words)]

    return split


def _metaspace(raw: Any, where: str) -> Splitter:
    mark = optional(raw, "replacement", str, SPACE, where)
    old = optional(raw, "add_prefix_space", bool, True, where)
    scheme = optional(raw, "prepend_scheme", str, "always" if old else "never", where)
    cuts = optional(raw, "split", bool, True, where)
    if scheme not in ("always", "first", "never") or len(mark) != 1:
        raise UserError(
            f"{where}.prepend_scheme = {show(scheme)}, replacement = {show(mark)}; known are always,"
            " first, never, and one character"
        )
    find = compile_pattern(regex.escape(mark))

    def split(text: str, first: bool, limit: WorkLimit) -> list[Cut]:
        if not text:
            return []
        text = text.replace(" ", mark)
        if (scheme == "always" or (scheme == "first" and first)) and not text.startswith(mark):
            text = mark + text
        parts = cut(text, find, "MergedWithNext") if cuts else [text]
        return [(part, first and i == 0) for i, part in enumerate(parts)]

    return split


def _split(raw: Any, where: str) -> Splitter:
    behavior = get(raw, "behavior", str, where)
    if behavior not in BEHAVIORS:
        raise UserError(
            f"{where}.behavior = {show(behavior)} is unknown; use one of {', '.join(BEHAVIORS)}"
        )
    invert = optional(raw, "invert", bool, False, where)
    return _by_pattern(pattern_of(raw, where), behavior, invert, bounded=True)


def _punctuation(raw: Any, where: str) -> Splitter:
    behavior = optional(raw, "behavior", str, "Isolated", where)
    return _split(
        {"behavior": behavior, "pattern": {"Regex": _PUNCTUATION}, "invert": False}, where
    )


def _digits(raw: Any, where: str) -> Splitter:
    alone = optional(raw, "individual_digits", bool, False, where)
    return _by_pattern(compile_pattern(DIGIT), "Isolated" if alone else "Contiguous")


def _bert(raw: Any, where: str) -> Splitter:
    words = compile_pattern(
        rf"{_PUNCTUATION}|(?:(?!{_PUNCTUATION})(?!{_WHITE_SPACE}).)+",
    )
    return lambda text, first, limit: [(word, False) for word in words.findall(text)]


def _char_delimiter(raw: Any, where: str) -> Splitter:
    return _by_pattern(compile_pattern(regex.escape(get(raw, "delimiter", str, where))), "Removed")


_KINDS: Mapping[str, Callable[[Any, str], Splitter]] = MappingProxyType(
    {
        "Metaspace": _metaspace,
        "Whitespace": lambda raw, where: _by_pattern(
            compile_pattern(r"\w+|[^\w\s]+"), "Removed", True
        ),
        "WhitespaceSplit": lambda raw, where: _by_pattern(compile_pattern(_WHITE_SPACE), "Removed"),
        "BertPreTokenizer": _bert,
        "Punctuation": _punctuation,
        "Digits": _digits,
        "Split": _split,
        "CharDelimiterSplit": _char_delimiter,
    }
)
