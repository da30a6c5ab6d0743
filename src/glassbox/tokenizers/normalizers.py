"""Normalizers: what becomes of a text before it is cut, each step as tokenizer.json writes it.

`build_normalizer` makes a function of an entry; the entry itself is kept and written back. Case is
folded character by character, without regard to neighbours (a final sigma stays `σ`). What a file asks
for is bounded in steps, time and length of the text (`WorkLimit`).
Tested against: `tokenizers`, the same text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import regex

from glassbox.core.errors import UserError
from glassbox.tokenizers.charsmap import CharsMap
from glassbox.tokenizers.checks import get, kind_of, optional, show, typed
from glassbox.tokenizers.patterns import WorkLimit, compile_pattern, find_matches

Normalizer = Callable[[str, WorkLimit], str]

_MAX_STEPS = 256

LOCAL = frozenset(("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer"))
"""Steps that give the same text when it is cut before a space and each part goes by itself."""

_WHITE_SPACE = r"\p{White_Space}"
_CHINESE = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip


def build_normalizer(raw: Any, where: str) -> Normalizer:
    """The function of an entry; null changes nothing. Raises UserError naming what is not known."""
    if raw is None:
        return lambda text, limit: text
    if _num_steps(raw) > _MAX_STEPS:
        raise UserError(f"{where} has more than {_MAX_STEPS} steps; use fewer")
    return _KINDS[kind_of(raw, tuple(_KINDS), where)](raw, where)


def _num_steps(raw: Any) -> int:
    """Steps of an entry, those of nested sequences counted, as far as the limit."""
    left, count = [raw], 0
    while left and count <= _MAX_STEPS:
        count += 1
        step = left.pop()
        inner = step.get("normalizers") if isinstance(step, dict) else None
        if isinstance(inner, list):
            left += inner
    return count


def is_local(raw: Any) -> bool:
    """Whether a checked entry's steps are all `LOCAL`."""
    if raw is None:
        return True
    if raw["type"] == "Sequence":
        return all(map(is_local, raw["normalizers"]))
    return raw["type"] in LOCAL


def pattern_of(raw: dict[str, Any], where: str) -> regex.Pattern[str]:
    """The regular expression of an entry's `pattern`: {"String": ...} or {"Regex": ...}."""
    pattern = get(raw, "pattern", dict, where)
    if isinstance(pattern.get("String"), str):
        return compile_pattern(regex.escape(pattern["String"], special_only=True))
    if isinstance(pattern.get("Regex"), str):
        return compile_pattern(pattern["Regex"])
    raise UserError(f"{where}.pattern = {show(pattern)}; only a String or a Regex is known")


def lower(text: str) -> str:
    """Lower case, character by character.

    >>> lower("ΟΔΟΣ")
    'οδοσ'
    """
    return text.lower() if text.isascii() else "".join(char.lower() for char in text)


def _form(name: Any) -> Callable[[Any, str], Normalizer]:
    return lambda raw, where: lambda text, limit: unicodedata.normalize(name, text)


def _sequence(raw: Any, where: str) -> Normalizer:
    steps = [
        build_normalizer(typed(step, dict, f"{where}[{i}]"), f"{where}[{i}]")
        for i, step in enumerate(get(raw, "normalizers", list, where))
    ]

    def normalize(text: str, limit: WorkLimit) -> str:
        for step in steps:
            text = step(text, limit)
            limit.check(where, len(text))
        return text

    return normalize


def _strip_accents(raw: Any, where: str) -> Normalizer:
    find = compile_pattern(r"\p{M}+")
    return lambda text, limit: find.sub("", text)


def _strip(raw: Any, where: str) -> Normalizer:
    left = optional(raw, "strip_left", bool, True, where)
    right = optional(raw, "strip_right", bool, True, where)
    ends = [rf"^{_WHITE_SPACE}+"] * left + [rf"{_WHITE_SPACE}+\Z"] * right
    find = compile_pattern("|".join(ends) or r"(?!)")
    return lambda text, limit: find.sub("", text)


def _prepend(raw: Any, where: str) -> Normalizer:
    what = get(raw, "prepend", str, where)

    def normalize(text: str, limit: WorkLimit) -> str:
        if not text:
            return text
        limit.check(where, len(what) + len(text))
        return what + text

    return normalize


def _replace(raw: Any, where: str) -> Normalizer:
    find, content = pattern_of(raw, where), get(raw, "content", str, where)

    def normalize(text: str, limit: WorkLimit) -> str:
        parts: list[str] = []
        done, length = 0, len(text)
        for match in find_matches(find, text, limit):
            start, end = match.span()
            parts += (text[done:start], content)
            done, length = end, length + len(content) + start - end
            if length > limit.max_chars:
                limit.check(where, length)
        return "".join(parts) + text[done:]

    return normalize


def _bert(raw: Any, where: str) -> Normalizer:
    clean = optional(raw, "clean_text", bool, True, where)
    chinese = optional(raw, "handle_chinese_chars", bool, True, where)
    lowers = optional(raw, "lowercase", bool, True, where)
    strips = optional(raw, "strip_accents", bool, lowers, where)
    drop = compile_pattern(r"[\0\uFFFD]|(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}\p{Cs}]")
    space = compile_pattern(rf"[\t\n\r]|{_WHITE_SPACE}")
    ranges = "".join(f"{chr(low)}-{chr(high)}" for low, high in _CHINESE)
    ideograph, accents = compile_pattern(f"[{ranges}]"), compile_pattern(r"\p{Mn}+")

    def normalize(text: str, limit: WorkLimit) -> str:
        if clean:
            text = space.sub(" ", drop.sub("", text))
        if chinese:
            text = ideograph.sub(r" \g<0> ", text)
        if strips:
            text = accents.sub("", unicodedata.normalize("NFD", text))
        return lower(text) if lowers else text

    return normalize


def _precompiled(raw: Any, where: str) -> Normalizer:
    table = CharsMap.from_base64(get(raw, "precompiled_charsmap", str, where), where)
    return lambda text, limit: table.by_grapheme(text, limit)


_KINDS: Mapping[str, Callable[[Any, str], Normalizer]] = MappingProxyType(
    {
        "NFC": _form("NFC"),
        "NFD": _form("NFD"),
        "NFKC": _form("NFKC"),
        "NFKD": _form("NFKD"),
        "Lowercase": lambda raw, where: lambda text, limit: lower(text),
        "StripAccents": _strip_accents,
        "Strip": _strip,
        "Prepend": _prepend,
        "Replace": _replace,
        "BertNormalizer": _bert,
        "Precompiled": _precompiled,
        "Sequence": _sequence,
    }
)
