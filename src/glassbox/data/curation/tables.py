"""CSV and Parquet cut into pieces."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence

from glassbox.core.errors import UserError
from glassbox.data.curation.blocks import Cutting, TextBlocks
from glassbox.data.curation.limits import TooLarge, bound_lines, memory_limit
from glassbox.data.curation.pieces import (
    BATCH_MEMORY,
    TEXT_FIELDS,
    Corrupt,
    ParquetRows,
    Piece,
    Rows,
    one_line,
    printable,
    split_row,
)
from glassbox.data.curation.step import Record

LONGEST_FIELD = 1 << 30


def text_column(columns: Sequence[str], wanted: str | None, texts: Sequence[str]) -> str:
    """Which column holds the text: the one wanted, one of a known name, or the only one of text.

    Raises LookupError that says what there is.
    """
    known = ", ".join(columns[:12]) or "none"
    if wanted is not None:
        if wanted.partition(".")[0] in columns or wanted in columns:
            return wanted
        raise LookupError(f"no column '{wanted}' among {known}; name another with text_field")
    for name in TEXT_FIELDS:
        if name in texts:
            return name
    if len(texts) == 1:
        return texts[0]
    raise LookupError(f"no text among the columns {known}; name it with text_field")


def _lines(blocks: Iterable[str]) -> Iterator[str]:
    rest = ""
    for block in blocks:
        *whole, rest = (rest + block).split("\n")
        yield from (line + "\n" for line in whole)
    if rest:
        yield rest


class _RowTooLarge(Exception):
    """The lines of one row are more than a record may be."""


class _BoundedLines:
    """Lines for a csv.reader, which holds a row however many lines a quoted field spans."""

    def __init__(self, lines: Iterator[str], largest: int) -> None:
        self._lines = lines
        self._largest = largest
        self._held = self._quotes = 0
        self.number = 0

    def begin_row(self) -> int:
        """The number of the line that the next row begins in."""
        self._held = self._quotes = 0
        return self.number + 1

    def __iter__(self) -> _BoundedLines:
        return self

    def __next__(self) -> str:
        line = self._next()
        if self._held > self._largest:
            while self._quotes % 2:  # to the end of what is quoted, where the next row begins
                self._next()
            raise _RowTooLarge
        return line

    def _next(self) -> str:
        line = next(self._lines)
        self.number += 1
        self._held += len(line)
        self._quotes += line.count('"')
        return line


def cut_csv(cutting: Cutting) -> Iterator[Piece]:
    """Tables with a header. A document is named by its line; a row of another length is corrupt."""
    text = TextBlocks(cutting, cutting.find_encoding())
    path = printable(cutting.path)
    # a document is a field, and Python's limit, one for the whole process, is 128 KiB
    csv.field_size_limit(LONGEST_FIELD)
    lines = _BoundedLines(_lines(bound_lines(text, cutting.largest, "\n", '"')), cutting.largest)
    delimiter = "\t" if ".tsv" in (suffix.lower() for suffix in cutting.path.suffixes) else ","
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        name = text_column(header, cutting.text_field, header)
    except (csv.Error, LookupError, _RowTooLarge) as error:
        yield Rows(corrupt=(Corrupt(path, 1, one_line(error)),))
        return
    large: list[TooLarge] = []
    records: list[Record] = []
    corrupt: list[Corrupt] = []
    size = listed = 0

    def rows() -> Rows:
        repairs, read = text.take_repairs(), text.take_bytes()
        return Rows(tuple(records), tuple(corrupt), repairs, read, tuple(large[listed:]))

    while True:
        line = lines.begin_row()
        try:
            row = next(reader, None)
        except _RowTooLarge:
            detail = f"a row of more than {cutting.largest:,} characters"
            large.append(TooLarge(f"{cutting.label}:{line}", detail))
            continue
        except csv.Error as error:
            corrupt.append(Corrupt(path, line, one_line(error)))
            continue
        if row is None:
            break
        if not row:
            continue
        if len(row) != len(header):
            problem = f"{len(row)} fields, the header has {len(header)}"
            corrupt.append(Corrupt(path, line, problem))
            continue
        found = split_row(dict(zip(header, row, strict=True)), name)
        if isinstance(found, str):
            corrupt.append(Corrupt(path, line, found))
            continue
        records.append(Record(found[0], f"{cutting.label}:{line}", found[1]))
        size += sum(map(len, row))
        if size >= cutting.size:
            yield rows()
            records, corrupt, size, listed = [], [], 0, len(large)
    corrupt += text.corrupt()
    if records or corrupt or large[listed:] or text.repaired:
        yield rows()


def cut_parquet(cutting: Cutting) -> Iterator[Piece]:
    """Row groups, several small ones together."""
    path = printable(cutting.path)
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"'{path}' needs the package pyarrow; pip install \"glassbox-lm[data]\""
        ) from None
    try:
        with memory_limit(BATCH_MEMORY), pyarrow.parquet.ParquetFile(cutting.path) as file:
            schema, metadata = file.schema_arrow, file.metadata
    except (pyarrow.ArrowException, OSError, MemoryError) as error:
        yield Rows(corrupt=(Corrupt(path, 1, one_line(error)),))
        return
    types = pyarrow.types
    texts = [f.name for f in schema if types.is_string(f.type) or types.is_large_string(f.type)]
    try:
        name = text_column(schema.names, cutting.text_field, texts)
    except LookupError as error:
        yield Rows(corrupt=(Corrupt(path, 1, str(error.args[0])),))
        return
    groups: list[int] = []
    size, packed, row, first = 0, 0, 1, 1
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        groups.append(number)
        size += group.total_byte_size
        packed += sum(group.column(i).total_compressed_size for i in range(group.num_columns))
        row += group.num_rows
        if size >= cutting.size or number == metadata.num_row_groups - 1:
            yield ParquetRows(cutting.path, cutting.label, tuple(groups), first, packed, name)
            groups, size, packed, first = [], 0, 0, row
