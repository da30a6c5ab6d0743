"""Where documents come from: files of many formats, folders of them, addresses, `datasets`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.data.curation.blocks import FORMATS, Cutting, file_format
from glassbox.data.curation.cutting import cut_file, cut_pages
from glassbox.data.curation.download import MOST_BYTES, download, file_name
from glassbox.data.curation.encodings import text_encoding
from glassbox.data.curation.limits import RECORD_BYTES
from glassbox.data.curation.pieces import Corrupt, Piece, Rows, json_value, printable, split_row
from glassbox.data.curation.step import Record
from glassbox.data.python_source import PythonSource

DATASET_ROWS = 1000


def _known_encoding(name: str) -> str:
    return name if name == "auto" else text_encoding(name)


class Reading(Spec):
    """How files are read, whatever place they come from."""

    text_field: str | None = Field(
        None, description="key or column of the text; a dot separates nested keys; null: detected"
    )
    encoding: Annotated[str, AfterValidator(_known_encoding)] = Field(
        "auto", description="auto, or a name as Python knows it: utf-8, latin-1"
    )
    html: Literal["text", "raw"] = Field(
        "text", description="extract the text of HTML files, or keep them as they are"
    )


class FilesSource(Reading):
    """A file, or all files of known formats under a folder, sorted by name; or a set by its name."""

    kind: Literal["files"] = "files"
    path: str


class UrlSource(Reading):
    """A file to download first."""

    kind: Literal["url"] = "url"
    url: str
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    max_bytes: int = Field(MOST_BYTES, gt=0, description="maximum file size in bytes")


class DatasetSource(Spec):
    """A data set of the library `datasets`: a name on the hub, or a folder that it can read."""

    kind: Literal["dataset"] = "dataset"
    name: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    streaming: bool = True
    text_field: str | None = None


SourceConfig = Annotated[
    FilesSource | UrlSource | DatasetSource | PythonSource, Field(discriminator="kind")
]


def _as_list(value: Any) -> Any:
    """A path, an address or a mapping alone is a list of one."""
    items = [value] if isinstance(value, (str, dict)) else value
    if not isinstance(items, (list, tuple)):
        return value
    return tuple(_from_word(item) if isinstance(item, str) else item for item in items)


def _from_word(word: str) -> dict[str, str]:
    if word.startswith(("http://", "https://")):
        return {"kind": "url", "url": word}
    return {"kind": "files", "path": word}


SourceList = Annotated[tuple[SourceConfig, ...], BeforeValidator(_as_list), Field(min_length=1)]
"""What a recipe's `source` may be: a path, an address, a mapping with `kind`, or a list of these."""


@dataclass(frozen=True)
class SourceFile:
    """A file to read: where it lies, what it is called in ids, and how to read it."""

    path: Path
    label: str
    reading: Reading
    size: int
    modified: int


@dataclass(frozen=True)
class Sources:
    """All that a run reads, in its order."""

    parts: tuple[SourceFile | DatasetSource | PythonSource, ...]
    ignored: dict[str, int]
    """How many files of which unknown endings were passed over."""

    @property
    def total_bytes(self) -> float:
        """Bytes of all files; infinite where the size of a source is not known."""
        sizes = [part.size for part in self.parts if isinstance(part, SourceFile)]
        return sum(sizes) if len(sizes) == len(self.parts) else math.inf

    def manifest(self) -> list[Any]:
        """What has to be the same when a run goes on: names, sizes and times of files."""
        return [
            [part.label, part.size, part.modified]
            if isinstance(part, SourceFile)
            else {**part.model_dump(mode="json"), "digest": part.digest()}
            if isinstance(part, PythonSource)
            else part.model_dump(mode="json")
            for part in self.parts
        ]

    def pieces(self, size: int, largest: int = RECORD_BYTES) -> Iterator[Piece]:
        """Pieces of about `size` bytes, the same for every run over the same files.

        largest: bytes of a record beyond which it is passed over and counted.
        """
        pages: list[SourceFile] = []
        for part in self.parts:
            if isinstance(part, SourceFile) and file_format(part.path) == "html":
                if pages and pages[0].reading != part.reading:
                    yield from _cut_pages(pages, size)
                    pages = []
                pages.append(part)
                continue
            yield from _cut_pages(pages, size)
            pages = []
            if isinstance(part, DatasetSource):
                yield from dataset_rows(part)
            elif isinstance(part, PythonSource):
                yield from python_rows(part)
            else:
                reading = part.reading
                yield from cut_file(
                    Cutting(
                        part.path, part.label, reading.text_field, reading.encoding, size, largest
                    )
                )
        yield from _cut_pages(pages, size)


def _cut_pages(pages: Sequence[SourceFile], size: int) -> Iterator[Piece]:
    if pages:
        reading = pages[0].reading
        files = [(page.path, page.label, page.size) for page in pages]
        yield from cut_pages(files, size, reading.html, reading.encoding)


def find_sources(
    configs: Sequence[FilesSource | UrlSource | DatasetSource | PythonSource],
    *,
    downloads: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sources:
    """Find every file that a recipe names; addresses are downloaded into `downloads` first.

    Raises UserError for a path that is not there and a folder without a file of a known format.
    """
    parts: list[SourceFile | DatasetSource | PythonSource] = []
    ignored: dict[str, int] = {}
    labels: set[str] = set()
    for config in configs:
        if isinstance(config, PythonSource):
            config.check()
        if isinstance(config, DatasetSource | PythonSource):
            parts.append(config)
            continue
        if isinstance(config, UrlSource):
            _check_format(Path(file_name(config.url)))
            path = download(
                config.url,
                downloads,
                sha256=config.sha256,
                max_bytes=config.max_bytes,
                progress=progress,
            )
        else:
            path = _place(config.path)
        for file in _files(path, ignored):
            label = path.name if file == path else f"{path.resolve().name}/{_relative(file, path)}"
            label = printable(label)
            while label in labels:  # two folders of one name
                label += "~"
            labels.add(label)
            status = file.stat()
            parts.append(SourceFile(file, label, config, status.st_size, status.st_mtime_ns))
    return Sources(tuple(parts), dict(sorted(ignored.items())))


def _place(name: str) -> Path:
    """A path, or where a set by its name (`tinystories`, `hf:owner/name`) is once it is fetched."""
    from glassbox.data.sources import find_data, is_named

    return find_data(name) if is_named(name) else Path(name)


def _relative(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


def _files(path: Path, ignored: dict[str, int]) -> list[Path]:
    if path.is_file():
        _check_format(path)
        return [path]
    if not path.is_dir():
        raise UserError(f"source: nothing at '{path}'; give a file, a folder or an http address")
    found = []
    for folder, names, files in os.walk(path):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in files:
            file = Path(folder) / name
            if name.startswith("."):
                continue
            if file_format(file) is None or not file.is_file():
                ending = printable(file.suffix.lower()) or "(none)"
                if file_format(file) is not None:
                    ending = "(no regular file)"  # a pipe, a device, a link that leads nowhere
                ignored[ending] = ignored.get(ending, 0) + 1
            else:
                found.append(file)
    if not found:
        raise UserError(f"source: '{printable(path)}' holds no file ending in {', '.join(FORMATS)}")
    return sorted(found, key=lambda file: file.relative_to(path).parts)


def _check_format(path: Path) -> None:
    if file_format(path) is None:
        raise UserError(
            f"source: '{path}' is of no known format; rename it to end in one of "
            f"{', '.join(FORMATS)} (also with .gz, .zst, .bz2, .xz)"
        )


def dataset_rows(source: DatasetSource) -> Iterator[Piece]:
    """The rows of a data set, a thousand a piece. Raises UserError where the extra is missing."""
    try:
        import datasets
    except ImportError:
        raise UserError(
            'a source of kind dataset needs the package datasets; pip install "glassbox-lm[datasets]"'
        ) from None
    try:
        rows = datasets.load_dataset(
            source.name,
            source.config,
            split=source.split,
            revision=source.revision,
            streaming=source.streaming,
        )
    except Exception as error:  # whatever the library raises for a wrong name, split or config
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"source: data set '{source.name}' cannot be opened: {reason}") from None
    label = Path(source.name).name if Path(source.name).exists() else source.name
    label = f"{label}/{source.split}"
    return _cut_rows(map(json_value, rows), label, source.text_field)


def python_rows(source: PythonSource) -> Iterator[Piece]:
    """The items of a user-defined source, a thousand a piece. Raises UserError where its code fails."""
    items = ({"text": item} if isinstance(item, str) else item for _, item in source.items())
    return _cut_rows(map(json_value, items), str(source), source.text_field)


def _cut_rows(rows: Iterator[Any], label: str, text_field: str | None) -> Iterator[Piece]:
    records: list[Record] = []
    corrupt: list[Corrupt] = []
    for number, row in enumerate(rows, start=1):
        found = (
            split_row(row, text_field)
            if isinstance(row, Mapping)
            else f"a {type(row).__name__}, not a mapping with 'text'"
        )
        if isinstance(found, str):
            corrupt.append(Corrupt(label, number, found))
        else:
            records.append(Record(found[0], f"{label}:{number}", found[1]))
        if len(records) + len(corrupt) >= DATASET_ROWS:
            yield _rows(records, corrupt)
            records, corrupt = [], []
    if records or corrupt:
        yield _rows(records, corrupt)


def _rows(records: list[Record], corrupt: list[Corrupt]) -> Rows:
    size = sum(len(record.text.encode("utf-8")) for record in records)
    return Rows(tuple(records), tuple(corrupt), size=size)
