"""Repetition inside a document, by Gopher's thirteen fractions: lines, paragraphs, n-grams of words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from glassbox.data.curation.quality import Check, first_fault, written_lines
from glassbox.data.curation.step import Dropped, Record, RecordStep, StepSpec

Ints = npt.NDArray[np.int64]

_PARAGRAPHS = re.compile(r"\n\s*\n")


class GopherRepetitionSpec(StepSpec):
    """Drop documents that say the same again and again, by the rules of MassiveText.

    A line, paragraph or n-gram is a duplicate from its second occurrence on. Shares of characters
    leave white space out.
    Source: Rae et al., arXiv:2112.11446, appendix A.1.1, table A1.
    """

    kind: Literal["gopher_repetition"] = "gopher_repetition"
    max_duplicate_lines: float = Field(0.3, ge=0, le=1)
    max_duplicate_paragraphs: float = Field(0.3, ge=0, le=1)
    max_duplicate_line_characters: float = Field(0.2, ge=0, le=1)
    max_duplicate_paragraph_characters: float = Field(0.2, ge=0, le=1)
    max_top_ngram: dict[int, float] = Field(
        default_factory=lambda: {2: 0.2, 3: 0.18, 4: 0.16},
        description="n: share of characters in the most frequent n-gram",
    )
    max_duplicate_ngrams: dict[int, float] = Field(
        default_factory=lambda: {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1},
        description="n: share of characters in n-grams that came before",
    )

    @field_validator("max_top_ngram", "max_duplicate_ngrams")
    @classmethod
    def _sound(cls, limits: dict[int, float]) -> dict[int, float]:
        for size, limit in limits.items():
            if size < 1 or not 0 <= limit <= 1:
                raise ValueError(f"{size}: {limit} is no limit; give n >= 1 and a share of 0 to 1")
        return dict(sorted(limits.items()))

    def build(self) -> RecordStep:
        """The step."""
        return partial(gopher_repetition, spec=self)


def gopher_repetition(record: Record, *, spec: GopherRepetitionSpec) -> Record | Dropped:
    """The record if it keeps Gopher's rules of repetition. Tested against: the plain loops below."""
    return first_fault(record, _checks(record.text, spec))


def _checks(text: str, spec: GopherRepetitionSpec) -> Iterable[Check]:
    lines = written_lines(text)
    paragraphs = [part for piece in _PARAGRAPHS.split(text) if (part := piece.strip())]
    for what, parts, most, most_characters in (
        ("lines", lines, spec.max_duplicate_lines, spec.max_duplicate_line_characters),
        (
            "paragraphs",
            paragraphs,
            spec.max_duplicate_paragraphs,
            spec.max_duplicate_paragraph_characters,
        ),
    ):
        different = set(parts)
        repeated = len(parts) - len(different)
        detail = f"{repeated} of {len(parts)}, at most {most:.0%}"
        yield f"duplicate {what}", repeated > most * len(parts), detail
        visible = {part: _visible(part) for part in different}
        total = sum(map(visible.__getitem__, parts))
        repeated = total - sum(visible.values())
        detail = f"{repeated} of {total} characters, at most {most_characters:.0%}"
        yield f"characters in duplicate {what}", repeated > most_characters * total, detail
    grams = WordGrams(text.split())
    for size, limit in spec.max_top_ngram.items():
        covered, times, words = grams.top(size)
        detail = f"{times} times '{' '.join(words)}': {covered} of {grams.total} characters"
        applies = covered > limit * grams.total
        yield f"top {size}-gram", applies, f"{detail}, at most {limit:.0%}"
    for size, limit in spec.max_duplicate_ngrams.items():
        covered = grams.duplicate(size)
        detail = f"{covered} of {grams.total} characters, at most {limit:.0%}"
        yield f"duplicate {size}-grams", covered > limit * grams.total, detail


def _visible(text: str) -> int:
    return sum(map(len, text.split()))


class WordGrams:
    """The n-grams of a list of words that come twice or more, each size found among those of the one below.

    Number of the n-gram at i = rank of (number of the (n-1)-gram at i, number of the word at
    i + n - 1), so that n-grams are compared exactly and no hashes can collide. One that comes twice
    begins with one that does, so that few places are left to look at as n grows.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        known = {word: number for number, word in enumerate(dict.fromkeys(words))}
        numbers = map(known.__getitem__, words)
        self.numbers: Ints = np.fromiter(numbers, np.int64, len(words))
        self.lengths: Ints = np.fromiter(map(len, words), np.int64, len(words))
        self.total = int(self.lengths.sum())
        self._ends = np.concatenate([[0], np.cumsum(self.lengths)])
        self._sizes: dict[int, tuple[Ints, Ints, Ints]] = {}

    def _repeated(self, size: int) -> tuple[Ints, Ints, Ints]:
        """Places of the n-grams that repeat, rising; their numbers; how often each number occurs."""
        found = self._sizes.get(size)
        if found is not None:
            return found
        if size == 1:
            places, keys = np.arange(len(self.words)), self.numbers
        else:
            places, shorter, _ = self._repeated(size - 1)
            inside = places <= len(self.words) - size
            places, shorter = places[inside], shorter[inside]
            keys = shorter * len(self.words) + self.numbers[places + size - 1]
        _, numbers, counts = np.unique(keys, return_inverse=True, return_counts=True)
        twice = counts[numbers] > 1
        ranks = np.cumsum(counts > 1) - 1
        self._sizes[size] = places[twice], ranks[numbers[twice]], counts[counts > 1]
        return self._sizes[size]

    def top(self, size: int) -> tuple[int, int, Sequence[str]]:
        """Characters covered by the most frequent n-gram, its count, its words; 0 if none repeats.

        Of several that are as frequent, the one that covers the most.
        """
        places, numbers, counts = self._repeated(size)
        if not len(places):
            return 0, int(len(self.words) >= size), ()
        most = int(counts.max())
        chosen = counts[numbers] == most
        places, numbers = places[chosen], numbers[chosen]
        order = np.argsort(numbers, kind="stable")
        places, numbers = places[order], numbers[order]
        again = np.zeros(len(places), dtype=bool)
        again[1:] = numbers[1:] == numbers[:-1]
        begin = places.copy()  # behind the end of the one before, where the two overlap
        begin[1:] = np.where(again[1:], np.maximum(places[1:], places[:-1] + size), places[1:])
        covered = (self._ends[places + size] - self._ends[begin]).reshape(-1, most).sum(axis=1)
        best = int(covered.argmax())
        place = int(places[best * most])
        return int(covered[best]), most, self.words[place : place + size]

    def duplicate(self, size: int) -> int:
        """Characters covered by n-grams that occurred before, each character once."""
        places, numbers, _ = self._repeated(size)
        if not len(places):
            return 0
        again = np.ones(len(places), dtype=bool)
        again[np.unique(numbers, return_index=True)[1]] = False
        return self._covered(places[again], size)

    def _covered(self, places: Ints, size: int) -> int:
        edges = np.zeros(len(self.words) + 1, np.int64)
        np.add.at(edges, places, 1)
        np.add.at(edges, places + size, -1)
        return int(self.lengths[np.cumsum(edges[:-1]) > 0].sum())


def plain_top(words: Sequence[str], size: int) -> int:
    """`WordGrams.top` as a loop: characters that the most frequent n-gram covers."""
    grams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    counts = Counter(grams)
    most = max(counts.values(), default=0)
    if most < 2:
        return 0
    return max(
        _plain_covered(words, size, [i for i, other in enumerate(grams) if other == gram])
        for gram, count in counts.items()
        if count == most
    )


def plain_duplicate(words: Sequence[str], size: int) -> int:
    """`WordGrams.duplicate` as a loop: characters in n-grams that occurred before."""
    seen: set[tuple[str, ...]] = set()
    again = []
    for place in range(len(words) - size + 1):
        gram = tuple(words[place : place + size])
        if gram in seen:
            again.append(place)
        seen.add(gram)
    return _plain_covered(words, size, again)


def _plain_covered(words: Sequence[str], size: int, places: Iterable[int]) -> int:
    covered = {index for place in places for index in range(place, place + size)}
    return sum(len(words[index]) for index in covered)
