"""Decontamination: finds documents that contain texts of evaluation sets.

A text of an evaluation set is in a document if they share n neighbouring words (13, as GPT-3 took),
or all
words of a text that has fewer, but at least `min_words`. Source: Brown et al. (arXiv:2005.14165),
appendix C.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from glassbox.core.errors import UserError
from glassbox.data.curation.encodings import decompressed
from glassbox.data.curation.shingles import (
    IDEOGRAPH,
    LETTER,
    SEPARATOR,
    Hashes,
    kind_of,
    shingle_hashes,
    word_hashes,
)
from glassbox.data.curation.step import Dropped, Record, RecordStep, StepSpec, digest_of

Span = tuple[int, int]
Owned = tuple[int, Hashes]

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".md", ".text")
_FEWEST_CHARACTERS = 200


class DecontaminateSpec(StepSpec):
    """Drop or trim documents that hold texts of evaluation sets."""

    kind: Literal["decontaminate"] = "decontaminate"
    sets: dict[str, str] = Field(
        min_length=1, description="name -> file or folder: JSONL, JSON, CSV or text"
    )
    fields: tuple[str, ...] = Field(
        (), description="keys or columns to compare; empty: all with text"
    )
    ngram: int = Field(
        13, ge=2, le=64, description="number of consecutive equal words that make a match"
    )
    min_words: int = Field(8, ge=2, description="texts of a set with fewer words are ignored")
    action: Literal["drop", "trim"] = "drop"
    margin: int = Field(200, ge=0, description="trim: characters removed on either side of a match")
    max_cuts: int = Field(10, ge=0, description="trim: documents with more matches are dropped")

    @model_validator(mode="after")
    def _fits(self) -> DecontaminateSpec:
        if self.min_words > self.ngram:
            raise ValueError(
                f"min_words = {self.min_words} is above ngram = {self.ngram}; lower it"
            )
        return self

    def build(self) -> RecordStep:
        """The step. Raises UserError for a set that cannot be read or has no text that is long enough."""
        found: dict[int, list[Owned]] = {}
        for number, (name, path) in enumerate(self.sets.items()):
            before = sum(map(len, found.values()))
            for text in read_texts(Path(path), self.fields):
                size, hashes = ngrams(text, self.ngram, self.min_words)
                if len(hashes):
                    found.setdefault(size, []).append((number, hashes))
            if sum(map(len, found.values())) == before:
                raise UserError(
                    f"decontaminate: set '{name}' has no text of {self.min_words} words; name its "
                    "fields or lower min_words"
                )
        tables = {size: Table.of(parts) for size, parts in sorted(found.items())}
        return Decontaminate(tables, tuple(self.sets), self.action, self.margin, self.max_cuts)

    def contents(self) -> dict[str, str]:
        """The evaluation sets."""
        for path in self.sets.values():
            _set_files(Path(path))
        return {path: digest_of(Path(path)) for path in self.sets.values()}


def ngrams(text: str, ngram: int, min_words: int) -> tuple[int, Hashes]:
    """The hashes of all n-grams of a text, or of a short one as a whole, and their number of words."""
    units = word_hashes(text)
    size = min(ngram, len(units))
    return size, shingle_hashes(units if size >= min_words else units[:0], size)


def read_texts(path: Path, fields: Sequence[str] = ()) -> Iterator[str]:
    """Every text of an evaluation set: strings of JSON, cells of CSV, lines of text files.

    Raises UserError naming the file, and the line of a row that cannot be read.
    """
    for file in _set_files(path):
        ending = _ending(file)
        if ending not in ENDINGS:
            raise UserError(f"decontaminate: '{file}' must end in one of {', '.join(ENDINGS)}")
        with file.open("rb") as raw, decompressed(raw, file) as stream:
            text = stream.read().decode("utf-8-sig", "replace")
        if ending in (".jsonl", ".ndjson"):
            for number, line in enumerate(text.split("\n"), start=1):
                if line.strip():
                    yield from _strings(_parsed(line, f"{file}:{number}"), fields)
        elif ending == ".json":
            yield from _strings(_parsed(text, str(file)), fields)
        elif ending in (".csv", ".tsv"):
            yield from _cells(text, "\t" if ending == ".tsv" else ",", fields)
        else:
            yield from text.splitlines()


def _set_files(path: Path) -> list[Path]:
    files = [path]
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.is_file() and _ending(f) in ENDINGS)
    if not path.exists() or not files:
        raise UserError(f"decontaminate: no evaluation set at '{path}'; give a file or a folder")
    return files


def _ending(path: Path) -> str:
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".zst", ".bz2", ".xz"):
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(
            f"decontaminate: {where} is not JSON ({error}); mend or remove it"
        ) from None


def _strings(value: Any, fields: Sequence[str]) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key in fields:
                yield from _strings(inner, ())
            elif not fields or not isinstance(inner, str):
                yield from _strings(inner, fields)
    elif isinstance(value, list):
        for inner in value:
            if not fields or not isinstance(inner, str):
                yield from _strings(inner, fields)


def _cells(text: str, delimiter: str, fields: Sequence[str]) -> Iterator[str]:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    wanted: list[int] | None = None
    for row in rows:
        if fields and wanted is None:
            wanted = [place for place, name in enumerate(row) if name in fields]
        elif wanted is not None:
            yield from (row[place] for place in wanted if place < len(row))
        else:  # without named columns the first row may be one of the set as well as its header
            yield from row


@dataclass(frozen=True)
class Table:
    """N-grams of one size: their sorted hashes, and the number of the set that had each first.

    That an n-gram that is none of them has the hash of one happens once in 2^64 comparisons.
    """

    hashes: Hashes
    owners: npt.NDArray[np.int32]

    @classmethod
    def of(cls, parts: Sequence[Owned]) -> Table:
        """From the hashes of texts and the numbers of their sets."""
        hashes, first = np.unique(np.concatenate([part for _, part in parts]), return_index=True)
        owners = np.repeat([number for number, _ in parts], [len(part) for _, part in parts])
        return cls(hashes, owners[first].astype(np.int32))

    def matches(self, units: Hashes, size: int) -> list[tuple[int, int]]:
        """(place, set) wherever an n-gram of a set begins in a row of words."""
        if len(units) < size:
            return []
        found = shingle_hashes(units, size)
        rows = np.minimum(np.searchsorted(self.hashes, found), len(self.hashes) - 1)
        places = np.flatnonzero(self.hashes[rows] == found)
        return list(zip(places.tolist(), self.owners[rows[places]].tolist(), strict=True))


@dataclass(frozen=True)
class Match:
    """An n-gram found: of which set, and the characters of the document that it covers."""

    gram: str
    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Decontaminate:
    """The step of a DecontaminateSpec."""

    tables: dict[int, Table] = field(repr=False)
    names: tuple[str, ...]
    action: Literal["drop", "trim"] = "drop"
    margin: int = 200
    max_cuts: int = 10

    def __call__(self, record: Record) -> Record | Dropped:
        """The record as it is, without what surrounds the matches, or refused."""
        matches = self.find(record.text)
        if not matches:
            return record
        first = matches[0]
        detail = f"'{first.gram}' is in {first.name}"
        if len(matches) > 1:
            detail += f"; {len(matches)} matches in all"
        reason = f"holds text of {first.name}"
        if self.action == "drop":
            return Dropped(reason, detail)
        kept, cuts = self._outside(record.text, matches)
        if cuts > self.max_cuts or not kept:
            return Dropped(reason, f"{detail}; {cuts} cuts leave too little")
        return replace(record, text="\n".join(kept))

    def find(self, text: str) -> list[Match]:
        """All n-grams of evaluation sets in a text, in its order."""
        units = word_hashes(text)
        places = {
            size: found
            for size, table in self.tables.items()
            if (found := table.matches(units, size))
        }
        if not places:
            return []
        words = positioned_words(text)
        matches = []
        for size, starts in places.items():
            for start, owner in starts:
                gram = words[start : start + size]
                phrase = " ".join(word for word, _, _ in gram)
                matches.append(Match(phrase, self.names[owner], gram[0][1], gram[-1][2]))
        return sorted(matches, key=lambda match: (match.start, match.end))

    def _outside(self, text: str, matches: Sequence[Match]) -> tuple[list[str], int]:
        """The pieces left between the matches and their margins, and the number of cuts."""
        cuts: list[Span] = []
        for match in matches:
            start, end = max(0, match.start - self.margin), match.end + self.margin
            if cuts and start <= cuts[-1][1]:
                cuts[-1] = (cuts[-1][0], max(end, cuts[-1][1]))
            else:
                cuts.append((start, end))
        pieces, behind = [], 0
        for start, end in [*cuts, (len(text), len(text))]:
            piece = text[behind:start].strip()
            if len(piece) >= _FEWEST_CHARACTERS:
                pieces.append(piece)
            behind = min(end, len(text))
        return pieces, len(cuts)


def positioned_words(text: str) -> list[tuple[str, int, int]]:
    """The words of a text, caseless, with where they begin and end in it.

    >>> positioned_words("An ODD cat")
    [('an', 0, 2), ('odd', 3, 6), ('cat', 7, 10)]
    """
    folded = [character.casefold() for character in text]
    # a capital may become two letters: places in the caseless text lead back to the text
    owners = [place for place, part in enumerate(folded) for _ in part]
    words: list[tuple[str, int, int]] = []
    before = SEPARATOR
    for place, character in enumerate("".join(folded)):
        kind = kind_of(character)
        owner = owners[place]
        if kind == LETTER and before == LETTER:
            words[-1] = (words[-1][0] + character, words[-1][1], owner + 1)
        elif kind in (LETTER, IDEOGRAPH):
            words.append((character, owner, owner + 1))
        before = kind
    return words
