"""Pieces of sources: what one worker reads at a time, cut the same way whatever the number of workers."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from glassbox.core.errors import UserError
from glassbox.data.curation.cleaning import replace_surrogates
from glassbox.data.curation.encodings import decode, decode_html
from glassbox.data.curation.limits import Limits, TooLarge, memory_limit
from glassbox.data.curation.step import Record

TEXT_FIELDS = ("text", "content", "raw_content", "body", "article", "document", "page_content")
"""Keys that may have a record's text, in order of preference, unless `text_field` is given."""

LISTED = 20


@dataclass(frozen=True)
class Corrupt:
    """A record, or a file from some line on, that cannot be read."""

    file: str
    line: int
    problem: str

    def __str__(self) -> str:
        return f"'{self.file}' line {self.line}: {self.problem}"


@dataclass
class ReadLog:
    """What went wrong while reading: all of it counted, the first twenty kept by name.

    strict: the first corrupt record raises UserError instead.
    """

    strict: bool = False
    limits: Limits = field(default_factory=Limits)
    num_corrupt: int = 0
    corrupt: list[Corrupt] = field(default_factory=list)
    repaired: Counter[str] = field(default_factory=Counter)
    num_large: int = 0
    large: list[TooLarge] = field(default_factory=list)
    """Records beyond the limit of bytes, which were not read: the first twenty."""

    def pass_over(self, large: TooLarge) -> None:
        """Count a record that is too large."""
        self.num_large += 1
        if len(self.large) < LISTED:
            self.large.append(large)

    def report(self, corrupt: Corrupt) -> None:
        """Count a corrupt record."""
        if self.strict:
            raise UserError(f"{corrupt}; mend it, or set strict: false to count it and go on")
        self.num_corrupt += 1
        if len(self.corrupt) < LISTED:
            self.corrupt.append(corrupt)


class Piece(Protocol):
    """Some records of a source. Pickled and sent to a worker; small, or a few megabytes at most."""

    @property
    def size(self) -> int:
        """How many bytes of the source stand behind it, for the progress line."""

    def read(self, log: ReadLog) -> Iterator[Record]:
        """Its records, in order."""


@dataclass(frozen=True)
class Rows:
    """Records that the reader itself has made, and what it met on the way."""

    records: tuple[Record, ...] = ()
    corrupt: tuple[Corrupt, ...] = ()
    repaired: Mapping[str, int] = field(default_factory=dict)
    size: int = 0
    large: tuple[TooLarge, ...] = ()

    def read(self, log: ReadLog) -> Iterator[Record]:
        """The records."""
        for problem in self.corrupt:
            log.report(problem)
        for entry in self.large:
            log.pass_over(entry)
        log.repaired.update(self.repaired)
        yield from self.records


@dataclass(frozen=True)
class JsonLines:
    """Lines of JSON: a stretch of a file, or bytes that were read from one."""

    path: Path
    label: str
    first_line: int
    offset: int
    size: int
    encoding: str
    text_field: str | None
    data: bytes | None = None

    def _lines(self, largest: int) -> Iterator[bytes | int]:
        """The lines; of one beyond `largest` bytes, only how many there are (or were kept)."""
        stream: BinaryIO = self.path.open("rb") if self.data is None else io.BytesIO(self.data)
        with stream:
            left = self.size if self.data is None else len(self.data)
            stream.seek(self.offset if self.data is None else 0)
            while left > 0 and (line := stream.readline(largest + 1)):
                left -= len(line)
                if len(line) <= largest or line.endswith(b"\n"):
                    yield line
                    continue
                size = len(line)
                while not line.endswith(b"\n") and (line := stream.readline(1 << 20)):
                    size += len(line)
                left -= size - largest - 1
                yield size

    def read(self, log: ReadLog) -> Iterator[Record]:
        """The records; a line that holds none is reported by its number."""
        largest = log.limits.record_bytes
        for number, line in enumerate(self._lines(largest), start=self.first_line):
            if isinstance(line, int):
                detail = f"a line of {line:,} bytes or more, at most {largest:,}"
                log.pass_over(TooLarge(f"{self.label}:{number}", detail))
                continue
            if not line.strip():
                continue
            content, repair = decode(line, self.encoding)
            found = parse_line(content, self.text_field)
            if isinstance(found, str):
                log.report(Corrupt(printable(self.path), number, found))
                continue
            if repair:
                log.repaired[repair] += 1
            text, metadata = found
            yield Record(text, f"{self.label}:{number}", metadata)


def parse_line(line: str, text_field: str | None) -> tuple[str, dict[str, Any]] | str:
    """The text and the other values of a line of JSON, or what is wrong with it.

    >>> parse_line('{"content": "hello", "n": 1}', None)
    ('hello', {'n': 1})
    """
    try:
        value = json.loads(line, parse_constant=lambda word: None)
    except RecursionError:
        return "nested too deep"
    except ValueError as error:
        return f"not JSON ({error})" if len(str(error)) < 120 else "not JSON"
    if isinstance(value, str):
        return replace_surrogates(value), {}
    if not isinstance(value, dict):
        return f"expected an object or a string, found {_json_kind(value)}"
    return split_row(value, text_field)


def _json_kind(value: Any) -> str:
    """What JSON calls a value.

    >>> _json_kind(None), _json_kind([1]), _json_kind(2.0)
    ('null', 'an array', 'a number')
    """
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, Mapping):
        return "an object"
    return "an array" if isinstance(value, (list, tuple)) else type(value).__name__


def split_row(row: Mapping[str, Any], text_field: str | None) -> tuple[str, dict[str, Any]] | str:
    """A row's text and its other values, or what is wrong with it. A dot leads into an object."""
    name: str | None
    if text_field is None:
        name = next((name for name in TEXT_FIELDS if isinstance(row.get(name), str)), None)
        if name is None:
            if (empty := next((name for name in TEXT_FIELDS if name in row), None)) is not None:
                return f"'{empty}' is {_json_kind(row[empty])}, no text"
            keys = ", ".join(map(str, list(row)[:8]))
            return f"no text among the keys {keys}; name it with text_field"
        text = row[name]
    else:
        name, text = text_field, row.get(text_field)
        if text_field not in row and "." in text_field:
            text = row
            for part in text_field.split("."):
                text = text.get(part) if isinstance(text, Mapping) else None
        if not isinstance(text, str):
            return f"'{text_field}' is {'missing' if text is None else _json_kind(text)}, no text"
    metadata: dict[str, Any] = {}
    for key, value in row.items():
        if key == name:
            continue
        if key == "metadata" and isinstance(value, Mapping):
            metadata.update(value)  # what Glassbox itself has written
        else:
            metadata[key] = value
    return replace_surrogates(text), metadata


@dataclass(frozen=True)
class ParquetRows:
    """Row groups of a Parquet file."""

    path: Path
    label: str
    groups: tuple[int, ...]
    first_row: int
    size: int
    text_field: str

    def read(self, log: ReadLog) -> Iterator[Record]:
        """The records; the number of a row counts from 1."""
        largest = log.limits.record_bytes
        for number, row in parquet_rows(self.path, self.groups, largest, self.first_row):
            if isinstance(row, str):
                log.report(Corrupt(printable(self.path), number, row))
                continue
            if isinstance(row, float):
                detail = f"a row of {row:,.0f} bytes, at most {largest:,}"
                log.pass_over(TooLarge(f"{self.label}:{number}", detail))
                continue
            found = split_row(row, self.text_field)
            if isinstance(found, str):
                log.report(Corrupt(printable(self.path), number, found))
            else:
                yield Record(found[0], f"{self.label}:{number}", found[1])


BATCH_BYTES = 64 << 20
BATCH_MEMORY = 2 << 30


def parquet_rows(
    path: Path, groups: Sequence[int] | None, largest: int, first_row: int = 1
) -> Iterator[tuple[int, dict[str, Any] | float | str]]:
    """(number, row) of a Parquet file's row groups (None: all), some hundred rows in memory at a time.

    Strings stay dictionaries where the file holds them so, and a row is measured before it is
    expanded: a file of 1 KB may name one string of megabytes in thousands of rows. In the place of a
    row stands its size where that is above `largest` bytes, and a text where the file is damaged there.
    """
    import pyarrow

    number = first_row - 1
    try:
        for batch in _parquet_batches(path, groups):
            sizes = row_bytes(batch)
            whole = batch.to_pylist() if sizes.sum() <= BATCH_BYTES else None
            for place, size in enumerate(sizes.tolist()):
                number += 1
                if size > largest:
                    yield number, float(size)
                elif whole is not None:
                    yield number, json_value(whole[place])
                else:
                    yield number, json_value(batch.slice(place, 1).to_pylist()[0])
    except MemoryError:
        yield number + 1, f"its rows need more than {BATCH_MEMORY >> 30} GB at once"
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        yield number + 1, one_line(error)


def _parquet_batches(path: Path, numbers: Sequence[int] | None) -> Iterator[Any]:
    import pyarrow.parquet

    with memory_limit(BATCH_MEMORY), pyarrow.parquet.ParquetFile(path) as file:
        metadata = file.metadata
    numbers = range(metadata.num_row_groups) if numbers is None else numbers
    groups = [metadata.row_group(number) for number in numbers]
    rows = max(1, sum(group.num_rows for group in groups))
    size = sum(group.total_byte_size for group in groups) // rows
    columns = [metadata.schema.column(n) for n in range(metadata.num_columns)]
    strings = [
        column.path
        for column in columns
        if column.physical_type == "BYTE_ARRAY" and column.logical_type.type != "DECIMAL"
    ]
    with pyarrow.parquet.ParquetFile(path, read_dictionary=strings) as file:
        rows_at_once = max(1, min(256, BATCH_BYTES // max(1, size)))
        batches = file.iter_batches(batch_size=rows_at_once, row_groups=list(numbers))
        while True:
            with memory_limit(BATCH_MEMORY):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


def row_bytes(batch: Any) -> NDArray[np.float64]:
    """How many bytes each row of an Arrow record batch takes once every value stands by itself."""
    total = np.zeros(batch.num_rows)
    for column in batch.columns:
        total += _value_bytes(column)
    return total


def _value_bytes(array: Any) -> NDArray[np.float64]:
    import pyarrow
    import pyarrow.compute

    types, kind = pyarrow.types, array.type
    if isinstance(array, pyarrow.ExtensionArray):
        return _value_bytes(array.storage)
    if types.is_dictionary(kind):
        sizes = np.append(_value_bytes(array.dictionary), 0.0)
        return sizes[array.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
    if any(test(kind) for test in (types.is_string, types.is_large_string, types.is_binary,
                                   types.is_large_binary)):  # fmt: skip
        lengths = pyarrow.compute.binary_length(array).fill_null(0)
        return np.asarray(lengths.to_numpy(zero_copy_only=False), np.float64)
    if types.is_struct(kind):
        fields = (_value_bytes(part) for part in array.flatten())
        return sum(fields, np.zeros(len(array)))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind):
        ends = np.asarray(array.offsets.to_numpy(zero_copy_only=False), np.int64)
        held = array.values if not types.is_map(kind) else None
        values = (
            _value_bytes(held)
            if held is not None
            else _value_bytes(array.keys) + _value_bytes(array.items)
        )
        sums = np.concatenate([[0.0], np.cumsum(values + 8)])
        spans: NDArray[np.float64] = sums[ends[1:]] - sums[ends[:-1]]
        return spans
    width = kind.list_size if types.is_fixed_size_list(kind) else 1
    return np.full(len(array), 8.0 * width)


@dataclass(frozen=True)
class Pages:
    """HTML files, a document each."""

    files: tuple[tuple[Path, str], ...]
    size: int
    html: Literal["text", "raw"]
    encoding: str

    def read(self, log: ReadLog) -> Iterator[Record]:
        """The pages as text, or as they are."""
        from glassbox.data.curation.page_parser import PAGE_SECONDS, PageFailed, PageParser

        parser = PageParser(min(PAGE_SECONDS, log.limits.record_seconds))
        largest = log.limits.record_bytes
        for path, label in self.files:
            try:
                with path.open("rb") as stream:
                    content = stream.read(largest + 1)
            except OSError as error:
                log.report(Corrupt(printable(path), 1, one_line(error)))
                continue
            if len(content) > largest:
                detail = f"a file of more than {largest:,} bytes"
                log.pass_over(TooLarge(f"{label}:1", detail))
                continue
            if self.encoding == "auto":
                text = decode_html(content, where=f"'{printable(path)}'")
            else:
                text = content.decode(self.encoding, "replace")
            metadata: dict[str, Any] = {}
            if self.html == "text":
                try:
                    text, title = parser(text)
                except PageFailed as error:
                    log.report(Corrupt(printable(path), 1, str(error)))
                    continue
                metadata = {"title": title} if title else {}
            yield Record(replace_surrogates(text), f"{label}:1", metadata)
        parser.close()


def json_value(value: Any) -> Any:
    """A value of a table as JSON can hold it: dates by ISO 8601, NaN as null, bytes as U+FFFD text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    with contextlib.suppress(AttributeError):
        return json_value(value.tolist())  # numpy's
    return str(value)


def printable(path: Path | str) -> str:
    """A path as text: bytes of a name that are no UTF-8 become U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def one_line(error: BaseException) -> str:
    """An error's message on one line, its class where it has none."""
    strerror = getattr(error, "strerror", None)
    return " ".join(str(strerror or error).split())[:200] or type(error).__name__
