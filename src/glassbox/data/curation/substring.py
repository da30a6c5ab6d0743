"""Exact substring deduplication: removes every exact repetition of at least n characters.

Documents may differ and still share long passages (licences, quotations, pages behind one
template).
Two stretches of n characters are the same when they are in the same class of such stretches.
Classes of
single characters are known; those of length 2 m follow from pairs of classes of length m, and those
of
n from the two that cover it. That is exact, not a hash, and is the doubling by which suffix arrays
are built,
stopped at n: what is longer is a row of stretches of n.

Source of the doubling: Karp, Miller and Rosenberg (1972); of the use: Lee et al.
(arXiv:2107.06499).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from glassbox.core.errors import UserError
from glassbox.data.curation.step import Dropped, Record, RevisingStep, StepSpec

Classes = npt.NDArray[np.int64]
Span = tuple[int, int]

BYTES_A_CHARACTER = 80


class SubstringSpec(StepSpec):
    """Take out passages that an earlier document, or the same one, had already."""

    kind: Literal["repeated_passages"] = "repeated_passages"
    min_characters: int = Field(200, ge=8, description="minimum length of a repeated passage")
    max_corpus_characters: int = Field(
        25_000_000,
        gt=0,
        description="maximum number of characters of the corpus; each takes about 80 bytes of memory",
    )

    def build(self) -> RevisingStep:
        """Build the step."""
        return RepeatedPassages(self.min_characters, self.max_corpus_characters)


def plain_repeated(texts: list[str], length: int) -> list[list[Span]]:
    """For each text the stretches to take out: every window that came before, neighbours joined."""
    seen: set[str] = set()
    result: list[list[Span]] = []
    for text in texts:
        spans: list[Span] = []
        for start in range(len(text) - length + 1):
            window = text[start : start + length]
            if window not in seen:
                seen.add(window)
            elif spans and spans[-1][1] >= start:
                spans[-1] = (spans[-1][0], start + length)
            else:
                spans.append((start, start + length))
        result.append(spans)
    return result


def window_classes(codes: npt.NDArray[np.uint32], length: int) -> Classes:
    """A number for every window of `length`: equal numbers for equal windows and no others.

    O(N log N log length) time, about 80 bytes of memory for each of N characters.
    """
    classes: Classes = codes.astype(np.int64)
    size = 1
    while size < length:
        reach = min(size, length - size)
        first, second = classes[: len(classes) - reach], classes[reach:]
        count = int(classes.max(initial=0)) + 1
        # classes are below 2^31 (there are fewer than 2^31 characters): the pair fits in 63 bits
        classes = _ranks(first * count + second)
        size += reach
    return classes


def _ranks(keys: Classes) -> Classes:
    order = np.argsort(keys)
    ordered = keys[order]
    fresh = np.empty(len(keys), bool)
    fresh[:1] = False
    np.not_equal(ordered[1:], ordered[:-1], out=fresh[1:])
    ranks = np.empty(len(keys), np.int64)
    ranks[order] = np.cumsum(fresh)
    return ranks


def repeated(texts: list[str], length: int) -> list[list[Span]]:
    """`plain_repeated` in O(N log N log length). Tested against: the plain version."""
    sizes = np.array([len(text) for text in texts], np.int64)
    borders = np.concatenate([[0], np.cumsum(sizes)])
    encoded = "".join(texts).encode("utf-32-le", "surrogatepass")
    if len(encoded) < 4 * length:
        return [[] for _ in texts]
    classes = window_classes(np.frombuffer(encoded, "<u4"), length)
    # windows that reach over the end of a text are none
    starts = np.arange(len(classes))
    ends = np.repeat(borders[1:], sizes)[: len(classes)]
    valid = np.flatnonzero(starts + length <= ends)
    _, first = np.unique(classes[valid], return_index=True)
    later = np.ones(len(valid), bool)
    later[first] = False
    places = valid[later]
    owners = np.searchsorted(borders, places, side="right") - 1
    result: list[list[Span]] = [[] for _ in texts]
    if not len(places):
        return result
    # a stretch ends where the next window begins behind it, or in another text
    breaks = np.flatnonzero((np.diff(places) > length) | (np.diff(owners) > 0)) + 1
    begins = places[np.concatenate([[0], breaks])]
    lasts = places[np.concatenate([breaks - 1, [len(places) - 1]])]
    kept = owners[np.concatenate([[0], breaks])]
    for owner, begin, last in zip(kept.tolist(), begins.tolist(), lasts.tolist(), strict=True):
        offset = int(borders[owner])
        result[owner].append((begin - offset, last - offset + length))
    return result


@dataclass(frozen=True)
class RepeatedPassages:
    """The step of a SubstringSpec. A signature is the text; `decide` holds the whole corpus."""

    min_characters: int = 200
    max_corpus_characters: int = 25_000_000

    def signature(self, record: Record) -> bytes:
        """The text."""
        return record.text.encode("utf-8", "surrogatepass")

    def decide(self, signatures: Iterable[tuple[str, bytes]]) -> Mapping[str, Dropped | bytes]:
        """For each id the stretches to take out. Raises UserError for too large a corpus."""
        ids: list[str] = []
        texts: list[str] = []
        total = 0
        for record_id, signature in signatures:
            ids.append(record_id)
            texts.append(signature.decode("utf-8", "surrogatepass"))
            total += len(texts[-1])
            if total > self.max_corpus_characters:
                raise UserError(
                    f"repeated_passages: the corpus has more than max_corpus_characters = "
                    f"{self.max_corpus_characters:,}; raise it if there is memory ({BYTES_A_CHARACTER} "
                    "bytes a character), or curate the corpus in parts"
                )
        return {
            record_id: np.array(spans, "<u4").tobytes()
            for record_id, spans in zip(ids, repeated(texts, self.min_characters), strict=True)
            if spans
        }

    def revise(self, record: Record, note: bytes) -> Record | Dropped:
        """The record without the stretches of the note."""
        spans = np.frombuffer(note, "<u4").reshape(-1, 2).tolist()
        text = "".join(_outside(record.text, spans)).strip()
        if not text:
            return Dropped(
                "nothing but repeated passages",
                f"{len(record.text):,} characters, all of which stood in the corpus before",
            )
        return replace(record, text=text)


def _outside(text: str, spans: list[list[int]]) -> Iterator[str]:
    end = 0
    for start, stop in spans:
        yield text[end:start]
        end = stop
    yield text[end:]
