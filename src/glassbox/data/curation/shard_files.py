"""The files that curation writes: shards of documents, dropped documents, signatures, verdicts."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from glassbox.core.errors import UserError
from glassbox.core.files import atomic_writer, write_json
from glassbox.data.curation.blocks import Blocks
from glassbox.data.curation.cleaning import replace_surrogates
from glassbox.data.curation.encodings import need_zstandard
from glassbox.data.curation.pieces import json_value
from glassbox.data.curation.step import Dropped, Record

Format = Literal["jsonl", "jsonl.gz", "jsonl.zst", "parquet"]
Write = Callable[[Record], None]

SETTINGS = "curated.json"
DOCUMENTS = "documents"
_PARQUET_ROWS = 1024
_HEAD = struct.Struct("<II")


def json_line(content: Mapping[str, Any]) -> bytes:
    """One line of JSON in UTF-8, the same bytes for the same content."""
    try:
        line = json.dumps(content, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError):
        line = json.dumps(json_value(content), ensure_ascii=False, allow_nan=False)
    try:
        return line.encode("utf-8") + b"\n"
    except UnicodeEncodeError:
        return replace_surrogates(line).encode("utf-8") + b"\n"


def _content(record: Record) -> dict[str, Any]:
    return {"text": record.text, "id": record.id, "metadata": record.metadata}


@contextlib.contextmanager
def document_writer(path: Path, format: Format) -> Iterator[Write]:
    """A function that writes records to `path`, which holds all of them in the end, or stays away.

    Same records, same bytes: compressed streams carry no time and no name.
    """
    with atomic_writer(path) as stream:
        if format == "parquet":
            with _parquet_writer(stream, str(path)) as write:
                yield write
            return
        packed = _compressor(stream, format, str(path))
        yield lambda record: _discard(packed.write(json_line(_content(record))))
        if packed is not stream:
            packed.close()


def _discard(_: object) -> None: ...


def _compressor(stream: BinaryIO, format: Format, where: str) -> Any:
    if format == "jsonl.gz":
        return gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=stream, mtime=0)
    if format == "jsonl.zst":
        compressor: Any = need_zstandard(where).ZstdCompressor(level=3, write_checksum=True)
        return compressor.stream_writer(stream, closefd=False)
    return stream


@contextlib.contextmanager
def _parquet_writer(stream: BinaryIO, where: str) -> Iterator[Write]:
    """Columns text, id, metadata (JSON), in row groups of a thousand."""
    need_pyarrow(where)
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(name, pyarrow.string()) for name in ("text", "id", "metadata")])
    rows: list[dict[str, str]] = []
    with pyarrow.parquet.ParquetWriter(stream, schema, compression="zstd") as writer:

        def flush() -> None:
            if rows:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
                rows.clear()

        def write(record: Record) -> None:
            text, name = replace_surrogates(record.text), replace_surrogates(record.id)
            metadata = json_line(record.metadata).decode("utf-8").rstrip("\n")
            rows.append({"text": text, "id": name, "metadata": metadata})
            if len(rows) == _PARQUET_ROWS:
                flush()

        yield write
        flush()


def need_pyarrow(where: str) -> None:
    """Raise UserError, naming what needs it, where pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError(
            f"'{where}' needs the package pyarrow; pip install \"glassbox-lm[data]\""
        ) from None


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file that `document_writer` wrote."""
    if path.suffix == ".parquet":
        need_pyarrow(str(path))
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for row in batch.to_pylist():
                    yield Record(row["text"], row["id"], json.loads(row["metadata"]))
        return
    blocks = Blocks(path)
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            row = json.loads(line)
            yield Record(row["text"], row["id"], row["metadata"])
    if blocks.problem or rest:
        raise UserError(f"'{path}' is damaged ({blocks.problem or 'cut off'}); curate it anew")


def is_curated(folder: Path) -> bool:
    """Whether `glassbox data curate` wrote, or began to write, this folder."""
    return (folder / SETTINGS).is_file() and (folder / DOCUMENTS).is_dir()


def read_curated(folder: Path) -> Iterator[Record]:
    """The documents of a curated folder. Raises UserError while it is unfinished."""
    if not (folder / "DONE.json").exists():
        raise UserError(
            f"'{folder}' is not finished; run the same `glassbox data curate` again to go on with it"
        )
    for path in sorted((folder / DOCUMENTS).iterdir()):
        if not path.name.startswith("."):
            yield from read_records(path)


def write_signatures(stream: BinaryIO, record_id: str, signature: bytes) -> None:
    """Append one (id, signature)."""
    name = record_id.encode("utf-8", "surrogatepass")
    stream.write(_HEAD.pack(len(name), len(signature)) + name + signature)


@dataclass(frozen=True)
class Signatures:
    """(id, signature) of all records, from files in their order; may be walked through many times."""

    files: Sequence[Path]

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        for path in self.files:
            with path.open("rb", buffering=1 << 20) as stream:
                while head := stream.read(_HEAD.size):
                    name_length, length = _HEAD.unpack(head)
                    name = stream.read(name_length).decode("utf-8", "surrogatepass")
                    yield name, stream.read(length)


def write_verdicts(path: Path, verdicts: Mapping[str, Dropped | bytes]) -> None:
    """Keep what was decided about the records of one shard."""
    content = {
        name: [verdict.reason, verdict.detail]
        if isinstance(verdict, Dropped)
        else base64.b64encode(verdict).decode("ascii")
        for name, verdict in verdicts.items()
    }
    write_json(path, content, indent=None)


def read_verdicts(path: Path) -> dict[str, Dropped | bytes]:
    """What `write_verdicts` kept."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: base64.b64decode(verdict) if isinstance(verdict, str) else Dropped(*verdict)
        for name, verdict in content.items()
    }


class LateFile:
    """A file that comes into being with its first byte, and is whole or not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stack = contextlib.ExitStack()
        self._stream: BinaryIO | io.BytesIO | None = None

    def __enter__(self) -> LateFile:
        return self

    def write(self, content: bytes) -> None:
        """Append."""
        if self._stream is None:
            self._stream = self._stack.enter_context(atomic_writer(self.path))
        self._stream.write(content)

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
        if self._stream is None and error[0] is None:
            self.path.unlink(missing_ok=True)  # one of an earlier attempt
