"""Cutting texts: at marks between documents, or into passages after blank lines."""

from __future__ import annotations

import re
from collections.abc import Iterator

SEPARATOR = "<|endoftext|>"
PASSAGE_CHARACTERS = 4000


def split_passages(text: str, size: int = PASSAGE_CHARACTERS) -> list[str]:
    """Cut a long text into passages after blank lines (or line ends, or sentences).

    Each has about `size` characters, at most 2 `size` and the white space behind it; joined they
    are
    the text, character by character.

    >>> split_passages("one\\n\\ntwo\\n\\nthree", size=7)
    ['one\\n\\n', 'two\\n\\n', 'three']
    """
    passages: list[str] = []
    start = end = 0
    for length in _paragraph_lengths(text, size):
        if end > start and end - start + length > size:
            passages.append(text[start:end])
            start = end
        end += length
    if end > start:
        passages.append(text[start:end])
    return passages


_BLANK_LINES = re.compile(r"\n\s*\n")


def _paragraph_lengths(text: str, size: int) -> Iterator[int]:
    """Lengths of paragraphs, the blank lines behind each included; of an endless one, of its parts."""
    start = 0
    while start < len(text):
        found = _BLANK_LINES.search(text, start)
        end = found.end() if found else len(text)
        content_end = found.start() if found else end
        while content_end - start > 2 * size:
            cut = _cut_behind(text, start, start + size)
            yield cut - start
            start = cut
        yield end - start
        start = end


def _cut_behind(text: str, start: int, end: int) -> int:
    """Where to cut text[start:end]: behind its last line end, else its last sentence, else `end`."""
    if (line := text.rfind("\n", start, end)) >= start:
        return line + 1
    sentence = max(text.rfind(mark, start, end) for mark in ".!?。！？")
    if sentence < start:
        return end
    cut = sentence + 1
    while cut < end and text[cut].isspace():
        cut += 1
    return cut
