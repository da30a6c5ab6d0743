"""Text, JSON lines and pages cut into pieces; a damaged file gives what comes before the damage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from glassbox.data.curation.blocks import Blocks, Cutting, TextBlocks, file_format
from glassbox.data.curation.cleaning import replace_surrogates
from glassbox.data.curation.encodings import COMPRESSIONS, is_wide
from glassbox.data.curation.limits import TooLarge, bound_lines
from glassbox.data.curation.pieces import Corrupt, JsonLines, Pages, Piece, Rows, printable
from glassbox.data.curation.step import Record
from glassbox.data.curation.tables import cut_csv, cut_parquet
from glassbox.data.passages import SEPARATOR, split_passages

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

    for block in blocks if plain else bound_lines(blocks, cutting.largest, b"\n"):
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
        yield Rows(corrupt=(Corrupt(printable(cutting.path), line + newlines, problem),))


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

    for block in bound_lines(text, cutting.largest, "\n"):
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
    large: list[TooLarge] = []
    size = 0
    for number, document in enumerate(_documents(text, cutting.largest), start=1):
        name = f"{cutting.label}:{number}"
        if document is None:
            detail = f"a document of more than {cutting.largest:,} characters"
            large.append(TooLarge(name, detail))
            continue
        records.append(Record(replace_surrogates(document), name))
        size += len(document.encode("utf-8", "replace"))
        if size >= cutting.size:
            repairs, taken = text.take_repairs(), text.take_bytes()
            yield Rows(tuple(records), (), repairs, taken, tuple(large))
            records, large, size = [], [], 0
    corrupt = text.corrupt()
    if records or corrupt or large or text.repaired:
        repairs, taken = text.take_repairs(), text.take_bytes()
        yield Rows(tuple(records), corrupt, repairs, taken, tuple(large))


def _documents(blocks: Iterable[str], largest: int) -> Iterator[str | None]:
    """The documents; None for one between marks of more than `largest` characters."""
    rest, marked, book, skipping = "", False, False, False
    for block in blocks:
        *whole, rest = (rest + block).replace("\r\n", "\n").split(SEPARATOR)
        marked = marked or bool(whole)
        for part in whole:
            if skipping or len(part) > largest:
                skipping = False
                yield None
            elif text := part.strip("\n\r "):
                yield text
        if not marked and len(rest) > LONG_TEXT:
            *passages, rest = split_passages(rest)
            book = True
            yield from _without_edges(passages)
        elif marked and (skipping or len(rest) > largest):
            skipping, rest = True, rest[-len(SEPARATOR) :]  # which may hold the half of a mark
    if skipping:
        yield None
    elif book and not marked:
        yield from _without_edges(split_passages(rest))
    elif text := rest.strip("\n\r "):
        yield text


def _without_edges(passages: Iterable[str]) -> Iterator[str]:
    return (text for passage in passages if (text := passage.strip("\n\r ")))


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
