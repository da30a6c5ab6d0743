"""A GGUF file opened: its metadata, and its tensors read a few rows at a time.

Layout: "GGUF", version, two counts; metadata (key, type, value); tensors (name, dimensions with the
innermost first, type, offset); padding; data. All little-endian. Source: ggml's `docs/gguf.md`.
Nothing is believed: every length is held against the file's size before anything is allocated, and,
since a file with holes can be larger than any memory, against limits for the header as a whole.
Tested against: the gguf package's reader and writer; damaged files, by property.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import torch
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.core.files import open_regular
from glassbox.formats.gguf.blocks import FORMATS, UNREAD, Format
from glassbox.formats.tensor_source import TensorSource, row_chunks

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
MAX_HEADER_BYTES = 128 << 20
"""Most bytes of metadata and tensors' names together; a vocabulary of 262,144 takes about 12 MB."""
MAX_VALUES = 1 << 21
"""Most values of metadata, those in arrays counted; Gemma 3's vocabulary takes 1.3 million."""
MAX_TENSORS = 1 << 17

SCALARS: Mapping[int, str] = MappingProxyType(
    {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
)
"""Types of metadata values by their numbers, in `struct`'s letters."""
STRING, ARRAY = 8, 9

_BY_CODE = {form.code: name for name, form in FORMATS.items()}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's place: shape as torch has it, format, first byte and length in the file."""

    shape: tuple[int, ...]
    type_name: str
    start: int
    num_bytes: int

    @property
    def format(self) -> Format:
        """How its numbers are laid out."""
        return FORMATS[self.type_name]


class GGUFFile(TensorSource):
    """A GGUF file's metadata and tensors, under the names they have there; a context manager.

    Raises UserError, in one line, for what is no GGUF file, is truncated, or contradicts itself.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.where = f"'{self.path}'"
        try:
            self._stream = open_regular(self.path)
        except FileNotFoundError:
            raise UserError(f"no file {self.where}; check the path") from None
        except OSError as error:
            raise UserError(f"{self.where} cannot be read: {error.strerror}") from None
        try:
            self._size = self.path.stat().st_size
            self.metadata, self.tensors = self._read_header()
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()

    # ---- tensors ----------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """All tensors."""
        return sorted(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, the innermost dimension last."""
        return self.tensors[name].shape

    def dtype(self, name: str) -> str:
        """What a tensor is read as: its own float type, or F32 where it is in blocks."""
        type_name = self.tensors[name].type_name
        return type_name if type_name in ("F16", "BF16") else "F32"

    def copy_into(self, name: str, out: Tensor) -> None:
        """Decode a tensor into one of its shape, a few megabytes at a time."""
        info = self.tensors[name]
        assert tuple(out.shape) == info.shape, name
        length = info.shape[-1]
        flat = out.view(-1, length) if out.is_contiguous() else None
        rows = torch.empty(math.prod(info.shape) // length, length) if flat is None else flat
        row_bytes = info.format.row_bytes(length)
        self._stream.seek(info.start)
        for start, stop in row_chunks(rows.shape, 32 * row_bytes):  # decoding takes room as well
            blocks = self._read(row_bytes * (stop - start), f"tensor '{name}'")
            raw = torch.frombuffer(blocks, dtype=torch.uint8)
            decoded = info.format.decode(raw.view(-1, info.format.block_bytes))
            rows[start:stop].copy_(decoded.view(stop - start, length))
        if flat is None:
            out.copy_(rows.view(info.shape))

    def raw(self, name: str) -> Tensor:
        """A tensor's blocks as they are, (blocks, bytes of one)."""
        info = self.tensors[name]
        self._stream.seek(info.start)
        content = self._read(info.num_bytes, f"tensor '{name}'")
        return torch.frombuffer(content, dtype=torch.uint8).view(-1, info.format.block_bytes)

    # ---- header -----------------------------------------------------------------------------

    def _read_header(self) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
        magic = self._stream.read(4)
        if magic != MAGIC:
            raise UserError(
                f"{self.where} is no GGUF file: it begins with {magic!r}, not {MAGIC!r}"
            )
        self._bytes_left, self._values_left = MAX_HEADER_BYTES, MAX_VALUES
        version = self._number("I", "the version")
        if version not in VERSIONS:
            hint = " (big-endian?)" if version & 0xFFFF == 0 else ""
            raise UserError(f"{self.where} is GGUF version {version}{hint}; known: 2 and 3")
        num_tensors = self._count("the number of tensors", at_least=24)
        if num_tensors > MAX_TENSORS:
            raise UserError(
                f"{self.where} has {num_tensors:,} tensors; it may have {MAX_TENSORS:,}"
            )
        num_keys = self._values(self._count("the number of keys", at_least=13), "the metadata")
        metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            key = self._string("a key")
            if key in metadata:
                raise UserError(f"{self.where} has the key '{key}' twice; the file is damaged")
            metadata[key] = self._value(self._number("I", f"the type of '{key}'"), f"'{key}'")
        entries = [self._tensor_entry() for _ in range(num_tensors)]
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment & alignment - 1:
            raise UserError(
                f"{self.where}: 'general.alignment' = {alignment!r}; it is a power of two"
            )
        return metadata, self._place(entries, alignment)

    def _tensor_entry(self) -> tuple[str, tuple[int, ...], str, int]:
        name = self._string("a tensor's name")
        what = f"tensor '{name[:80]}'"
        num_dims = self._number("I", what)
        if not 1 <= num_dims <= MAX_DIMENSIONS:
            raise UserError(f"{self.where}: {what} has {num_dims} dimensions; expected 1 to 4")
        shape = tuple(self._number("Q", what) for _ in range(num_dims))[::-1]
        code = self._number("I", what)
        if code not in _BY_CODE:
            raise UserError(
                f"{self.where}: {what} is of type {UNREAD.get(code, code)}, which is not read; known: "
                f"{', '.join(FORMATS)}; convert the original with one of these"
            )
        return name, shape, _BY_CODE[code], self._number("Q", what)

    def _place(
        self, entries: list[tuple[str, tuple[int, ...], str, int]], alignment: int
    ) -> dict[str, TensorInfo]:
        start = (self._stream.tell() + alignment - 1) // alignment * alignment
        tensors: dict[str, TensorInfo] = {}
        for name, shape, type_name, offset in entries:
            form = FORMATS[type_name]
            what = f"{self.where}: tensor '{name[:80]}' of shape {shape} and type {type_name}"
            if name in tensors:
                raise UserError(f"{what} is there twice; the file is damaged")
            if 0 in shape or shape[-1] % form.block_size:
                raise UserError(f"{what}: expected rows of a multiple of {form.block_size} numbers")
            if offset % alignment:
                raise UserError(f"{what} begins at {offset}, which is no multiple of {alignment}")
            num_bytes = math.prod(shape[:-1]) * form.row_bytes(shape[-1])
            if start + offset + num_bytes > self._size:
                raise UserError(
                    f"{what} ends at byte {start + offset + num_bytes}, the file at {self._size}; "
                    "it is truncated: copy it again"
                )
            tensors[name] = TensorInfo(shape, type_name, start + offset, num_bytes)
        end, before = 0, ""
        for name, info in sorted(tensors.items(), key=lambda item: item[1].start):
            if info.start < end:
                raise UserError(f"{self.where}: tensors '{before}' and '{name}' overlap")
            end, before = info.start + info.num_bytes, name
        return tensors

    def _value(self, kind: int, what: str) -> Any:
        if kind == STRING:
            return self._string(what)
        if kind == ARRAY:
            return self._array(what)
        if kind not in SCALARS:
            raise UserError(f"{self.where}: {what} is of unknown type {kind}; the file is damaged")
        return self._number(SCALARS[kind], what)

    def _array(self, what: str) -> list[Any]:
        kind = self._number("I", what)
        if kind == STRING:
            count = self._values(self._count(what, at_least=8), what)
            return [self._string(what) for _ in range(count)]
        if kind not in SCALARS:
            raise UserError(f"{self.where}: {what} is an array of type {kind}, which is not known")
        size = struct.calcsize(SCALARS[kind])
        count = self._values(self._count(what, at_least=size), what)
        return list(struct.unpack(f"<{count}{SCALARS[kind]}", self._header(size * count, what)))

    def _count(self, what: str, *, at_least: int) -> int:
        """A count of things of `at_least` so many bytes, which the rest of the file can hold."""
        count = self._number("Q", what)
        left = self._size - self._stream.tell()
        if count > left // at_least:
            raise UserError(
                f"{self.where}: {what} counts {count}, but {left} bytes are left; "
                "the file is truncated or damaged"
            )
        return count

    def _values(self, count: int, what: str) -> int:
        """The count, taken from what the header may still hold."""
        self._values_left -= count
        if self._values_left < 0:
            raise UserError(
                f"{self.where}: its metadata has more than {MAX_VALUES:,} values ({what})"
            )
        return count

    def _string(self, what: str) -> str:
        raw = self._header(self._count(what, at_least=1), what)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{self.where}: {what} is no UTF-8; the file is damaged") from None

    def _number(self, letter: str, what: str) -> Any:
        return struct.unpack("<" + letter, self._header(struct.calcsize("<" + letter), what))[0]

    def _header(self, size: int, what: str) -> bytearray:
        """The next bytes of the header, which is limited as a whole."""
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise UserError(
                f"{self.where}: its metadata has more than {MAX_HEADER_BYTES:,} bytes ({what[:100]})"
            )
        return self._read(size, what)

    def _read(self, size: int, what: str) -> bytearray:
        content = bytearray(size)
        if self._stream.readinto(content) != size:
            raise UserError(f"{self.where} ends within {what}; it is truncated: copy it again")
        return content
