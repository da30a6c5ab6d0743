"""Text, JSON lines and pages cut into pieces; a damaged file gives what comes before the damage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from glassbox.data.curation.blocks import Blocks, Cutting, TextBlocks, file_format
from glassbox.data.curation.cleaning import replace_surrogates
from glassbox.data.curation.encodings import COMPRESSIONS, is_wide
from glassbox.data.curation.pieces import Corrupt, JsonLines, Pages, Piece, Rows
from glassbox.data.curation.step import Record
from glassbox.data.curation.tables import cut_csv, cut_parquet
from glassbox.data.text import SEPARATOR, split_passages

LONG_TEXT = 1 << 20
"""Characters of a text file without marks that are one document still; a longer one is a book."""


def cut_file(cutting: Cutting) -> Iterator[Piece]:
    """The pieces of a text, JSON lines, CSV or Parquet file."""
    cutters = {"text": cut_text, "jsonl": cut_lines, "csv": cut_csv, "parquet": cut_parquet}
    return cutters[str(file_format(cutting.path))](cutting)


def cut_lines(cutting: Cutting) -> Iterator[Piece]:
    """JSON lines, cut behind a line end: a plain file by its stretches, others with their bytes."""
    encoding = cutting.find_encoding()
    if is_wide(encoding):
        yield from _cut_wide_lines(cutting, encoding)
        return
    plain = cutting.path.suffix.lower() not in COMPRESSIONS
    blocks = Blocks(cutting.path)
    held: list[bytes] = []
    offset, length, line, newlines, behind = 0, 0, 1, 0, 0

    def piece() -> JsonLines:
        size = length if plain else blocks.position - behind
        data = None if plain else b"".join(held)
        return JsonLines(
            cutting.path, cutting.label, line, offset, size, encoding, cutting.text_field, data
        )

    for block in blocks:
        while length + len(block) >= cutting.size:
            end = block.find(b"\n", max(0, cutting.size - length - 1)) + 1
            if not end:
                break
            length += end
            newlines += block.count(b"\n", 0, end)
            if not plain:
                held.append(block[:end])
            yield piece()
            held.clear()
            offset, line, behind = offset + length, line + newlines, blocks.position
            block, length, newlines = block[end:], 0, 0
        length += len(block)
        newlines += block.count(b"\n")
        if not plain and block:
            held.append(block)
    if length:
        yield piece()
    if blocks.problem:
        problem = f"the file breaks off: {blocks.problem}"
        yield Rows(corrupt=(Corrupt(str(cutting.path), line + newlines, problem),))


def _cut_wide_lines(cutting: Cutting, encoding: str) -> Iterator[Piece]:
    """JSON lines in UTF-16 or UTF-32, handed on in UTF-8."""
    text = TextBlocks(cutting, encoding)
    held = ""
    line = 1

    def piece(content: str) -> JsonLines:
        data = content.encode("utf-8", "replace")
        size = text.take_bytes()
        return JsonLines(
            cutting.path, cutting.label, line, 0, size, "utf-8", cutting.text_field, data
        )

    for block in text:
        held += block
        if len(held) >= cutting.size and (end := held.rfind("\n") + 1):
            yield piece(held[:end])
            line += held.count("\n", 0, end)
            held = held[end:]
    if held:
        yield piece(held)
    if text.corrupt() or text.repaired:
        yield Rows(corrupt=text.corrupt(), repaired=text.take_repairs())


def cut_text(cutting: Cutting) -> Iterator[Piece]:
    """Plain text: what stands between `<|endoftext|>` marks; else the file, or passages of a book."""
    text = TextBlocks(cutting, cutting.find_encoding())
    records: list[Record] = []
    size = 0
    for number, document in enumerate(_documents(text), start=1):
        records.append(Record(replace_surrogates(document), f"{cutting.label}:{number}"))
        size += len(document.encode("utf-8", "replace"))
        if size >= cutting.size:
            yield Rows(tuple(records), (), text.take_repairs(), text.take_bytes())
            records, size = [], 0
    corrupt = text.corrupt()
    if records or corrupt or text.repaired:
        yield Rows(tuple(records), corrupt, text.take_repairs(), text.take_bytes())


def _documents(blocks: Iterable[str]) -> Iterator[str]:
    rest, marked, book = "", False, False
    for block in blocks:
        *whole, rest = (rest + block).replace("\r\n", "\n").split(SEPARATOR)
        marked = marked or bool(whole)
        yield from (text for part in whole if (text := part.strip("\n\r ")))
        if not marked and len(rest) > LONG_TEXT:
            *passages, rest = split_passages(rest)
            book = True
            yield from passages
    if book and not marked:
        yield from split_passages(rest)
    elif text := rest.strip("\n\r "):
        yield text


def cut_pages(
    files: Sequence[tuple[Path, str, int]], size: int, html: Literal["text", "raw"], encoding: str
) -> Iterator[Piece]:
    """HTML files, many small ones together."""
    if html == "text":
        from glassbox.data.curation.html import need_parser

        need_parser("a source of HTML files")
    held: list[tuple[Path, str]] = []
    total = 0
    for path, label, length in files:
        held.append((path, label))
        total += length
        if total >= size:
            yield Pages(tuple(held), total, html, encoding)
            held, total = [], 0
    if held:
        yield Pages(tuple(held), total, html, encoding)
