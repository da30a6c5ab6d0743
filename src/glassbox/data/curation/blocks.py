"""A file block by block: decompressed, decoded, up to where it breaks off."""

from __future__ import annotations

import codecs
import lzma
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from glassbox.data.curation.encodings import (
    COMPRESSIONS,
    SAMPLE_BYTES,
    decompressed,
    detect_encoding,
    text_encoding,
)
from glassbox.data.curation.limits import RECORD_BYTES
from glassbox.data.curation.pieces import Corrupt, one_line, printable

FORMATS = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
}
"""Which endings are read, and as what."""

BLOCK = 1 << 20


def file_format(path: Path) -> str | None:
    """The format of a file by its ending, behind that of a compression; None: not known.

    >>> file_format(Path("web/a.jsonl.zst")), file_format(Path("a.doc"))
    ('jsonl', None)
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        name = FORMATS.get(suffixes[-2]) if len(suffixes) > 1 else None
        return name if name in ("text", "jsonl", "csv") else None
    return FORMATS.get(suffixes[-1]) if suffixes else None


@dataclass(frozen=True)
class Cutting:
    """A file, and how to cut it: into pieces of about `size` bytes, no record of them above `largest`."""

    path: Path
    label: str
    text_field: str | None
    encoding: str
    size: int
    largest: int = RECORD_BYTES

    def find_encoding(self) -> str:
        """The encoding, by the first megabyte unless it is named. Raises UserError for odd names."""
        if self.encoding != "auto":
            return text_encoding(self.encoding)
        sample = b"".join(Blocks(self.path, SAMPLE_BYTES))
        whole = len(sample) < SAMPLE_BYTES
        return detect_encoding(sample, where=f"'{printable(self.path)}'", whole=whole)


@dataclass
class Blocks:
    """The bytes of a file, decompressed, a megabyte at a time.

    position: how many bytes of the file itself are behind us. problem: why it broke off, if it did.
    """

    path: Path
    limit: int = 1 << 62
    position: int = 0
    problem: str = ""

    def __iter__(self) -> Iterator[bytes]:
        held = bytearray()
        left = self.limit
        try:
            with self.path.open("rb") as raw, decompressed(raw, self.path) as stream:
                # read1, since a read that meets the end of a broken file gives nothing at all
                while left > 0 and (part := stream.read1(min(BLOCK, left))):  # type: ignore[attr-defined]
                    left -= len(part)
                    held += part
                    self.position = raw.tell()
                    if len(held) >= BLOCK:
                        yield bytes(held)
                        held.clear()
        except (OSError, EOFError, zlib.error, lzma.LZMAError, MemoryError) as error:
            self.problem = one_line(error)
        except Exception as error:  # zstandard's own, which only its module could name
            if type(error).__module__.partition(".")[0] != "zstandard":
                raise
            self.problem = one_line(error)
        if held:
            yield bytes(held)


@dataclass
class TextBlocks:
    """The text of a file, block by block, and what was met on the way."""

    cutting: Cutting
    encoding: str
    repaired: Counter[str] = field(default_factory=Counter)
    line: int = 1

    def __post_init__(self) -> None:
        self.blocks = Blocks(self.cutting.path)
        self._taken = 0

    def __iter__(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder(self.encoding)("replace")
        utf = self.encoding.startswith("utf")
        if not utf:
            self.repaired[f"read as {self.encoding}"] += 1
        for block in self.blocks:
            text = decoder.decode(block)
            if utf and "\ufffd" in text and not self._meant(text, block):
                self.repaired["damaged characters"] += 1
            self.line += text.count("\n")
            if text:
                yield text
        if not self.blocks.problem and (rest := decoder.decode(b"", final=True)):
            self.repaired["damaged characters"] += 1
            yield rest

    def _meant(self, text: str, block: bytes) -> bool:
        """Whether all U+FFFD of a block were U+FFFD in the file already."""
        return self.encoding.startswith("utf-8") and text.count("\ufffd") <= block.count(
            b"\xef\xbf\xbd"
        )

    def corrupt(self) -> tuple[Corrupt, ...]:
        """Where the file broke off, once all blocks are read."""
        if not self.blocks.problem:
            return ()
        problem = f"the file breaks off: {self.blocks.problem}"
        return (Corrupt(printable(self.cutting.path), self.line, problem),)

    def take_bytes(self) -> int:
        """Bytes of the file read since the last call."""
        taken, self._taken = self._taken, self.blocks.position
        return self._taken - taken

    def take_repairs(self) -> dict[str, int]:
        """Repairs since the last call."""
        repairs = dict(self.repaired)
        self.repaired.clear()
        return repairs
