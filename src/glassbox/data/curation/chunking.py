"""Long documents cut into chunks: by characters, sentences, paragraphs or tokens, with overlap."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from glassbox.data.curation.step import Record, RecordStep, StepSpec

if TYPE_CHECKING:
    from glassbox.tokenizers import Tokenizer

Span = tuple[int, int]

# a sentence ends behind . ! ? and closing marks before a space, behind 。！？ anywhere, or at a line end
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)\s*|[。！？]+[”’」』）]*\s*|\n+\s*")
_PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n\s*")


class ChunkSpec(StepSpec):
    """Cut documents into chunks."""

    kind: Literal["chunk"] = "chunk"
    by: Literal["fixed", "sentence", "paragraph", "tokens"] = "paragraph"
    size: int = Field(
        4000, gt=0, description="maximum length of a chunk, in characters (by tokens: in tokens)"
    )
    overlap: int = Field(
        0, ge=0, description="overlap of neighbouring chunks, in characters (or tokens)"
    )
    tokenizer: str | None = Field(None, description="by tokens: a folder or tokenizer.json")

    @model_validator(mode="after")
    def _fits(self) -> ChunkSpec:
        if self.overlap >= self.size:
            raise ValueError(
                f"overlap = {self.overlap} must be smaller than size = {self.size}; lower it"
            )
        if self.by == "tokens" and self.tokenizer is None:
            raise ValueError("by = tokens needs 'tokenizer'; name a folder or a tokenizer.json")
        return self

    def build(self) -> RecordStep:
        """The step. Raises UserError where the tokenizer cannot be loaded."""
        tokenizer = None
        if self.by == "tokens":
            from glassbox.tokenizers import Tokenizer

            assert self.tokenizer is not None
            tokenizer = Tokenizer.load(self.tokenizer)
        return Chunk(self.by, self.size, self.overlap, tokenizer)

    def contents(self) -> dict[str, str]:
        """The tokenizer, by all that decides its ids."""
        if self.by != "tokens" or self.tokenizer is None:
            return {}
        from glassbox.tokenizers import Tokenizer

        return {self.tokenizer: Tokenizer.load(self.tokenizer).fingerprint}


@dataclass(frozen=True)
class Chunk:
    """The step of a ChunkSpec. Chunks are named ID#1, ID#2 ...; `start` is where one begins."""

    by: Literal["fixed", "sentence", "paragraph", "tokens"]
    size: int
    overlap: int = 0
    tokenizer: Tokenizer | None = None

    def __call__(self, record: Record) -> Record | Sequence[Record]:
        """The record itself where it fits into one chunk, else its chunks."""
        text, spans = self._spans(record.text)
        if len(spans) == 1:
            return record
        return [
            replace(
                record,
                text=text[start:end],
                id=f"{record.id}#{number}",
                metadata={**record.metadata, "chunk": number, "start": start},
            )
            for number, (start, end) in enumerate(spans, start=1)
        ]

    def _spans(self, text: str) -> tuple[str, list[Span]]:
        if self.by == "tokens":
            assert self.tokenizer is not None
            text, borders = token_borders(text, self.tokenizer)
            spans = token_windows(borders, self.size, self.overlap)
            return text, [span for span in spans if span[0] < span[1]]
        if self.by == "fixed":
            return text, fixed_windows(len(text), self.size, self.overlap)
        pattern = _SENTENCE_END if self.by == "sentence" else _PARAGRAPH_END
        return text, pack(units(text, pattern, self.size), self.size, self.overlap, text)


def fixed_windows(length: int, size: int, overlap: int) -> list[Span]:
    """Windows of `size` that start `size` - `overlap` apart; the last one ends with the text.

    >>> fixed_windows(10, 4, 1)
    [(0, 4), (3, 7), (6, 10)]
    """
    spans = [(0, min(size, length))]
    while spans[-1][1] < length:
        start = spans[-1][1] - overlap
        spans.append((start, min(start + size, length)))
    return spans


def units(text: str, end: re.Pattern[str], size: int) -> list[Span]:
    """The sentences or paragraphs of a text, its white space included; endless ones are cut hard.

    >>> units("One. Two! 三。四", _SENTENCE_END, 100)
    [(0, 5), (5, 10), (10, 12), (12, 13)]
    """
    borders = [0, *(match.end() for match in end.finditer(text)), len(text)]
    found: list[Span] = []
    for start, stop in itertools.pairwise(borders):
        while stop - start > size:
            cut = text.rfind(" ", start + 1, start + size) + 1 or start + size
            found.append((start, cut))
            start = cut
        if start < stop:
            found.append((start, stop))
    return found


def pack(parts: Sequence[Span], size: int, overlap: int, text: str) -> list[Span]:
    """Neighbouring units together in chunks of at most `size`, white space at their ends cut off.

    As many last units of a chunk as `overlap` holds begin the next one, if a new unit still fits.
    """
    ends = [start + len(text[start:end].rstrip()) for start, end in parts]
    spans: list[Span] = []
    first = 0
    while first < len(parts):
        last = first
        while last + 1 < len(parts) and ends[last + 1] - parts[first][0] <= size:
            last += 1
        span = _trimmed(text, parts[first][0], parts[last][1])
        if span[0] < span[1]:
            spans.append(span)
        following = last + 1
        if following < len(parts):
            back = following
            while (
                parts[back - 1][0] > span[0]
                and ends[last] - parts[back - 1][0] <= overlap
                and ends[following] - parts[back - 1][0] <= size
            ):
                back -= 1
            following = back
        first = following
    return spans or [(0, len(text))]


def _trimmed(text: str, start: int, end: int) -> Span:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())


def token_borders(text: str, tokenizer: Tokenizer) -> tuple[str, list[int]]:
    """The text as the tokenizer gives it back, and for 0 ... n tokens the characters they hold whole.

    A token that ends inside a character adds nothing: the character belongs to the token that ends it.
    """
    decoder = tokenizer.stream_decoder()
    parts = [decoder.push(token) for token in tokenizer.encode(text)]
    parts.append(decoder.flush())
    borders = [0, *itertools.accumulate(len(part) for part in parts[:-1])]
    decoded = "".join(parts)
    borders[-1] = len(decoded)
    return decoded, borders


def token_windows(borders: Sequence[int], size: int, overlap: int) -> list[Span]:
    """Windows of `size` tokens as stretches of characters, none of them half."""
    tokens = len(borders) - 1
    return [(borders[start], borders[end]) for start, end in fixed_windows(tokens, size, overlap)]
