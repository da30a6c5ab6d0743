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

from glassbox.data.curation.quality import Check, first_fault
from glassbox.data.curation.step import Dropped, Record, RecordStep, StepSpec

Ints = npt.NDArray[np.int64]

_PARAGRAPHS = re.compile(r"\n\s*\n")
_ODD = np.int64(0x2545F4914F6CDD1D)


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
        """Build the step."""
        return partial(gopher_repetition, spec=self)


def gopher_repetition(record: Record, *, spec: GopherRepetitionSpec) -> Record | Dropped:
    """The record if it keeps Gopher's rules of repetition. Tested against: the plain loops below."""
    return first_fault(record, _checks(record, spec))


def _checks(record: Record, spec: GopherRepetitionSpec) -> Iterable[Check]:
    paragraphs = [part for piece in _PARAGRAPHS.split(record.text) if (part := piece.strip())]
    for what, parts, most, most_characters in (
        ("lines", record.lines, spec.max_duplicate_lines, spec.max_duplicate_line_characters),
        (
            "paragraphs",
            paragraphs,
            spec.max_duplicate_paragraphs,
            spec.max_duplicate_paragraph_characters,
        ),
    ):
        different = set(parts)
        repeated = len(parts) - len(different)
        if not repeated:
            continue
        detail = f"{repeated} of {len(parts)}, at most {most:.0%}"
        yield f"duplicate {what}", repeated > most * len(parts), detail
        total = sum(map(_visible, parts))
        repeated = total - sum(map(_visible, different))
        detail = f"{repeated} of {total} characters, at most {most_characters:.0%}"
        yield f"characters in duplicate {what}", repeated > most_characters * total, detail
    bounds = GramBounds(record.words)
    grams: WordGrams | None = None
    for size, limit in spec.max_top_ngram.items():
        if bounds.top(size, enough=limit * bounds.total) <= limit * bounds.total:
            continue
        grams = grams or WordGrams(record.words)
        covered, times, words = grams.top(size)
        detail = f"{times} times '{' '.join(words)}': {covered} of {grams.total} characters"
        applies = covered > limit * grams.total
        yield f"top {size}-gram", applies, f"{detail}, at most {limit:.0%}"
    for size, limit in spec.max_duplicate_ngrams.items():
        if bounds.duplicate(size, enough=limit * bounds.total) <= limit * bounds.total:
            continue
        grams = grams or WordGrams(record.words)
        covered = grams.duplicate(size)
        bounds.covered[size] = covered
        detail = f"{covered} of {grams.total} characters, at most {limit:.0%}"
        yield f"duplicate {size}-grams", covered > limit * grams.total, detail


def _visible(text: str) -> int:
    return sum(map(len, text.split()))


class GramBounds:
    """What n-grams cover at most: for nearly all documents enough to know that no limit is passed.

    n-grams are sums of hashes of their words, so that one sort tells how many come again. Two that are
    equal have equal sums; two that differ and share one only make a bound looser.
    covered: what n-grams that came before cover, or at most cover, by n.
    Tested against: `plain_top` and `plain_duplicate`, which never are more.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._hashes: Ints = np.fromiter(map(hash, words), np.int64, len(words))
        self._ends: Ints = np.zeros(len(words) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, words), np.int64, len(words)), out=self._ends[1:])
        self.total = int(self._ends[-1])
        self.covered: dict[int, int] = {}
        self._counts: dict[int, int] = {}

    def _sorted(self, size: int) -> Ints:
        """The sums of all n-grams in their order."""
        count = max(0, len(self._hashes) - size + 1)
        sums = self._hashes[:count].copy()
        for k in range(1, size):
            sums *= _ODD
            sums += self._hashes[k : k + count]
        sums.sort()
        return sums

    def _longest(self, size: int) -> int:
        return int((self._ends[size:] - self._ends[:-size]).max(initial=0))

    def _most(self, size: int) -> int:
        """At least how often the most frequent n-gram occurs."""
        if size not in self._counts:
            sums = self._sorted(size)
            edges = np.flatnonzero(sums[1:] != sums[:-1])
            runs = np.diff(edges, prepend=-1, append=len(sums) - 1)
            self._counts[size] = int(runs.max(initial=0))
        return self._counts[size]

    def top(self, size: int, *, enough: float = 0) -> int:
        """At least what the most frequent n-gram covers; a bound of `enough` or less is not made tighter.

        How often one occurs, times the longest. None occurs more often than the most frequent pair of
        words, which is looked at first, since it does for all sizes.
        """
        for shorter in (min(size, 2), size):
            most = self._most(shorter)
            bound = most * self._longest(size) if most > 1 else 0
            if bound <= enough:
                break
        return bound

    def duplicate(self, size: int, *, enough: float = 0) -> int:
        """At least what n-grams cover that came before; a bound of `enough` or less is not made tighter.

        One that came before holds shorter ones that did, which cover all of it.
        """
        known = [covered for n, covered in self.covered.items() if n <= size]
        bound = min([self.total, *known])
        if bound > enough:
            sums = self._sorted(size)
            again = int(np.count_nonzero(sums[1:] == sums[:-1]))
            bound = self.covered[size] = min(bound, again * self._longest(size))
        return bound


class WordGrams:
    """The n-grams of a list of words as numbers, each size made from the one below it.

    Number of the n-gram at i = rank of (number of the (n-1)-gram at i, number of the word at
    i + n - 1), so that n-grams are compared exactly and no hashes can collide.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        known: dict[str, int] = {}
        numbers = (known.setdefault(word, len(known)) for word in words)
        self.numbers: Ints = np.fromiter(numbers, np.int64, len(words))
        self.lengths: Ints = np.fromiter(map(len, words), np.int64, len(words))
        self.total = int(self.lengths.sum())
        self._sizes: dict[int, tuple[Ints, Ints]] = {}

    def _grams(self, size: int) -> tuple[Ints, Ints]:
        """Numbers of the n-grams by place, and how often each number occurs."""
        found = self._sizes.get(size)
        if found is not None:
            return found
        if size == 1:
            numbers = self.numbers
        else:
            shorter, counts = self._grams(size - 1)
            if not len(counts) or counts.max() < 2:  # so no longer one comes twice either
                numbers = np.arange(max(0, len(self.words) - size + 1))
            else:
                pairs = shorter[:-1] * len(self.words) + self.numbers[size - 1 :]
                numbers = np.unique(pairs, return_inverse=True)[1].reshape(-1)
        self._sizes[size] = numbers, np.bincount(numbers)
        return self._sizes[size]

    def top(self, size: int) -> tuple[int, int, Sequence[str]]:
        """Characters covered by the most frequent n-gram, its count, its words; 0 if none repeats.

        Of several that are as frequent, the one that covers the most.
        """
        numbers, counts = self._grams(size)
        most = int(counts.max()) if len(counts) else 0
        if most < 2:
            return 0, most, ()
        order = np.argsort(numbers, kind="stable")
        order = order[counts[numbers[order]] == most]
        again = np.zeros(len(order), dtype=bool)
        again[1:] = numbers[order[1:]] == numbers[order[:-1]]
        begin = order.copy()  # behind the end of the one before, where the two overlap
        begin[1:] = np.where(again[1:], np.maximum(order[1:], order[:-1] + size), order[1:])
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        covered = (ends[order + size] - ends[begin]).reshape(-1, most).sum(axis=1)
        best = int(covered.argmax())
        place = int(order[best * most])
        return int(covered[best]), most, self.words[place : place + size]

    def duplicate(self, size: int) -> int:
        """Characters covered by n-grams that occurred before, each character once."""
        numbers, counts = self._grams(size)
        if not len(counts) or counts.max() < 2:
            return 0
        first = np.unique(numbers, return_index=True)[1]
        again = np.ones(len(numbers), dtype=bool)
        again[first] = False
        return self._covered(np.flatnonzero(again), size)

    def _covered(self, places: npt.NDArray[np.intp], size: int) -> int:
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
