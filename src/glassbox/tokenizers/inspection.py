"""What a tokenizer makes of text: pieces, fertility by writing system, use of the vocabulary.

fertility = tokens / words        where a Chinese or Japanese character counts as a word
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import regex

from glassbox.tokenizers.tokenizer import Tokenizer

_WORD = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}]|(?:(?![\p{Han}\p{Hiragana}\p{Katakana}])\w)+"
)


@dataclass(frozen=True)
class Usage:
    """Counts over the texts of one group. Ratios are 0 where there is nothing to divide by."""

    texts: int
    tokens: int
    words: int
    characters: int
    num_bytes: int
    unknown: int

    @property
    def fertility(self) -> float:
        """Tokens a word."""
        return self.tokens / self.words if self.words else 0.0

    @property
    def bytes_per_token(self) -> float:
        """Bytes of UTF-8 a token."""
        return self.num_bytes / self.tokens if self.tokens else 0.0


@dataclass(frozen=True)
class Inspection:
    """Usage by group and in all; how often each id was used; the vocabulary's size."""

    groups: dict[str, Usage]
    total: Usage
    counts: Counter[int]
    vocab_size: int

    def to_json(self) -> dict[str, object]:
        """The figures as JSON values, the ratios among them."""
        groups = {**self.groups, "total": self.total}
        return {
            "vocab_size": self.vocab_size,
            "used": self.used,
            "groups": {
                name: {**vars(usage), "fertility": usage.fertility}
                for name, usage in groups.items()
            },
        }

    @property
    def used(self) -> float:
        """The share of the vocabulary that the texts use."""
        return len(self.counts) / self.vocab_size


def writing_system(text: str) -> str:
    """The writing system of most letters, by their Unicode names; 'none' where there are none.

    >>> writing_system("滚滚长江, the river"), writing_system("Привет"), writing_system("12!")
    ('Latin', 'Cyrillic', 'none')
    """
    counts: Counter[str] = Counter()
    for char in text[:2000]:
        if char.isalpha():
            name = unicodedata.name(char, "UNKNOWN").split()[0].split("-")[0]
            counts["Han" if name == "CJK" else name.capitalize()] += 1
    return min(counts, key=lambda name: (-counts[name], name)) if counts else "none"


def inspect_texts(
    tokenizer: Tokenizer, texts: Iterable[str], *, group: Callable[[str], str] = writing_system
) -> Inspection:
    """Encode texts and count, by `group`: a function from a text to its language, or what you like."""
    sums: dict[str, Counter[str]] = {}
    counts: Counter[int] = Counter()
    unknown = tokenizer.roles.get("unk_token")
    unknown_id = None if unknown is None else tokenizer.token_to_id(unknown)
    for text in texts:
        ids = tokenizer.encode(text)
        counts.update(ids)
        seen = sums.setdefault(group(text), Counter())
        seen["texts"] += 1
        seen["tokens"] += len(ids)
        seen["words"] += len(_WORD.findall(text))
        seen["characters"] += len(text)
        seen["num_bytes"] += len(text.encode("utf-8", "replace"))
        seen["unknown"] += ids.count(unknown_id) if unknown_id is not None else 0
    groups = {name: _usage(sums[name]) for name in sorted(sums)}
    total: Counter[str] = Counter()
    for one in sums.values():
        total.update(one)
    return Inspection(groups, _usage(total), counts, tokenizer.vocab_size)


def _usage(seen: Counter[str]) -> Usage:
    names = ("texts", "tokens", "words", "characters", "num_bytes", "unknown")
    return Usage(*(seen[name] for name in names))


def pieces_of(tokenizer: Tokenizer, text: str) -> list[tuple[int, str]]:
    """(id, text) of each token; half characters are shown as `\\xe6`, so that nothing is hidden."""
    return [
        (number, tokenizer.token_bytes(number).decode("utf-8", "backslashreplace"))
        for number in tokenizer.encode(text)
    ]
