"""Corpus statistics: lengths, words, tokens, languages, duplicates, sample documents."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from glassbox.core.errors import UserError
from glassbox.data.curation.exact import ExactDuplicates
from glassbox.data.curation.minhash import MinHashSpec
from glassbox.data.curation.pieces import ReadLog
from glassbox.data.curation.shard_files import Signatures, write_signatures
from glassbox.data.curation.shingles import words
from glassbox.data.curation.sources import Sources
from glassbox.data.curation.step import CorpusStep, Dropped, Record

Floats = npt.NDArray[np.float64]

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
DIFFERENT_WORDS = 2_000_000
_PIECE = 4 << 20
_NEAR = 0.8


class Encoder(Protocol):
    """Protocol of the tokenizer methods used here."""

    @property
    def vocab_size(self) -> int:
        """How many different tokens there are."""

    def encode(self, text: str, /) -> Sequence[int]:
        """The ids of a text."""


@dataclass(frozen=True)
class PowerLaw:
    """y = scale x^exponent, and the share of log y's variance that it explains."""

    scale: float
    exponent: float
    explained: float


def fit_power_law(x: Floats, y: Floats) -> PowerLaw | None:
    """A straight line through (log x, log y) by least squares; None for fewer than three points.

    >>> fit_power_law(np.array([1.0, 10, 100]), np.array([5.0, 50, 500]))
    PowerLaw(scale=5.0, exponent=1.0, explained=1.0)
    """
    if len(x) < 3:
        return None
    log_x, log_y = np.log(x), np.log(y)
    exponent, offset = np.polyfit(log_x, log_y, 1)
    spread = float(np.sum((log_y - log_y.mean()) ** 2))
    rest = float(np.sum((log_y - offset - exponent * log_x) ** 2))
    explained = 1 - rest / spread if spread else 1.0
    return PowerLaw(*(round(float(v), 9) for v in (np.exp(offset), exponent, explained)))


def log_ranks(count: int, points: int = 200) -> npt.NDArray[np.int64]:
    """Ranks 1 ... count, evenly spaced in their logarithm, each once.

    >>> log_ranks(1000, 4).tolist()
    [1, 10, 100, 1000]
    """
    if not count:
        return np.zeros(0, np.int64)
    return np.unique(np.round(np.geomspace(1, count, points)).astype(np.int64))


def zipf_fit(frequencies: Floats, least: int = 5) -> PowerLaw | None:
    """Zipf's law f(r) = C r^-s by the frequencies in falling order, every decade of ranks with equal weight.

    Frequencies below `least` are left out: they are whole numbers and lie on steps.
    Source: Zipf (1949).
    """
    ranks = log_ranks(int(np.count_nonzero(frequencies >= least)))
    return fit_power_law(ranks.astype(float), frequencies[ranks - 1])


@dataclass
class Analysis:
    """Statistics of a corpus. Lengths have one entry per document, in corpus order."""

    bytes_: npt.NDArray[np.int64]
    words: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64] | None
    word_counts: Counter[str]
    token_counts: npt.NDArray[np.int64] | None
    growth: Floats
    """(words read, different words among them), evenly spaced in the logarithm of the former."""
    exact: int
    near: int
    examples: list[tuple[str, str]]
    """(id, what it is like) of some duplicates."""
    samples: list[tuple[float, int, Record]]
    """(quantile of lengths, its words, a document that long)."""
    languages: dict[str, int] = field(default_factory=dict)
    corrupt: list[str] = field(default_factory=list)
    num_corrupt: int = 0
    forgotten: int = 0
    """Number of rare distinct words dropped to bound memory."""

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.words)

    def zipf(self) -> PowerLaw | None:
        """Zipf's law through the word frequencies."""
        return zipf_fit(self.frequencies())

    def frequencies(self) -> Floats:
        """How often words occur, in falling order."""
        return np.sort(np.fromiter(self.word_counts.values(), float, len(self.word_counts)))[::-1]

    def heaps(self) -> PowerLaw | None:
        """Heaps' law V = K n^beta through the growth of the vocabulary. Source: Heaps (1978), 7.5."""
        rows = self.growth[self.growth[:, 0] >= 100]
        return fit_power_law(rows[:, 0], rows[:, 1])


def read_records(sources: Sources, log: ReadLog) -> Iterator[Record]:
    """All records with text."""
    for piece in sources.pieces(_PIECE):
        for record in piece.read(log):
            if record.text:
                yield record


def analyze(
    sources: Sources,
    *,
    tokenizer: Encoder | None = None,
    language_of: Callable[[str], str] | None = None,
    progress: Callable[[int], None] = lambda documents: None,
) -> Analysis:
    """Analyze a corpus in one pass, with a second pass to collect sample documents.

    Memory holds three numbers a document, the words with their counts (the rarest are forgotten when
    there are two million), and what deduplication needs; signatures lie in a temporary file.
    Raises UserError where there is no document.
    """
    log = ReadLog()
    sizes: list[int] = []
    lengths: list[int] = []
    token_lengths: list[int] = []
    counts: _WordCounts = _WordCounts()
    token_counts = np.zeros(tokenizer.vocab_size if tokenizer else 0, np.int64)
    languages: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        near, exact = MinHashSpec(threshold=_NEAR).build(), ExactDuplicates()
        assert isinstance(near, CorpusStep)
        files = Path(folder) / "near", Path(folder) / "exact"
        with files[0].open("wb") as near_file, files[1].open("wb") as exact_file:
            for record in read_records(sources, log):
                found = words(record.text)
                counts.add(found)
                sizes.append(len(record.text.encode("utf-8", "replace")))
                lengths.append(len(found))
                if tokenizer is not None:
                    ids = np.asarray(tokenizer.encode(record.text), np.int64)
                    token_counts += np.bincount(ids, minlength=len(token_counts))
                    token_lengths.append(len(ids))
                if language_of is not None:
                    languages[language_of(record.text)] += 1
                write_signatures(near_file, record.id, near.signature(record))
                write_signatures(exact_file, record.id, exact.signature(record))
                progress(len(lengths))
        if not lengths:
            raise UserError("there is no document to look at; name files that hold text")
        same = exact.decide(Signatures([files[1]]))
        alike = {k: v for k, v in near.decide(Signatures([files[0]])).items() if k not in same}
    return Analysis(
        bytes_=np.array(sizes),
        words=np.array(lengths),
        tokens=np.array(token_lengths) if tokenizer else None,
        word_counts=counts.counts,
        token_counts=token_counts if tokenizer else None,
        growth=counts.curve(),
        exact=len(same),
        near=len(alike),
        examples=_examples(same, alike),
        samples=_samples(sources, np.array(lengths)),
        languages=dict(languages.most_common()),
        corrupt=[str(problem) for problem in log.corrupt],
        num_corrupt=log.num_corrupt,
        forgotten=counts.forgotten,
    )


class _WordCounts:
    """Counts of words in bounded memory, and how the number of different ones grows."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.forgotten = 0
        self._total = 0
        self._growth: list[tuple[int, int]] = []
        self._next = 1.0

    def add(self, found: Sequence[str]) -> None:
        # cut where the curve wants a point, so that one long document has a curve too
        start = 0
        while start < len(found):
            end = min(len(found), start + max(1, int(self._next) - self._total))
            self.counts.update(found[start:end])
            self._total += end - start
            start = end
            if self._total >= self._next:
                self._growth.append((self._total, len(self.counts) + self.forgotten))
                self._next = max(self._next * 1.08, self._total + 1)
        if len(self.counts) > DIFFERENT_WORDS:
            kept = Counter(dict(self.counts.most_common(DIFFERENT_WORDS // 2)))
            self.forgotten += len(self.counts) - len(kept)
            self.counts = kept

    def curve(self) -> Floats:
        last = (self._total, len(self.counts) + self.forgotten)
        rows = self._growth if self._growth[-1:] == [last] else [*self._growth, last]
        return np.array(rows, float).reshape(-1, 2)


def _examples(same: Mapping[str, Dropped], alike: Mapping[str, Dropped]) -> list[tuple[str, str]]:
    found = [*list(same.items())[:5], *list(alike.items())[:5]]
    return [(name, verdict.detail) for name, verdict in found]


def _samples(sources: Sources, lengths: npt.NDArray[np.int64]) -> list[tuple[float, int, Record]]:
    """Documents at the quantiles of length, by another walk through the corpus."""
    order = np.argsort(lengths, kind="stable")
    wanted: dict[int, float] = {}
    for quantile in QUANTILES:
        wanted.setdefault(int(order[round(quantile * (len(order) - 1))]), quantile)
    found = []
    for number, record in enumerate(read_records(sources, ReadLog())):
        if number in wanted:
            found.append((wanted[number], int(lengths[number]), record))
            if len(found) == len(wanted):
                break
    return sorted(found, key=lambda entry: entry[0])
