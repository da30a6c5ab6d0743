"""Writes a GGUF file, a tensor at a time, whole or not at all."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.core.files import atomic_writer
from glassbox.formats.gguf.blocks import FORMATS, QUANTIZE
from glassbox.formats.gguf.reader import ARRAY, DEFAULT_ALIGNMENT, MAGIC, SCALARS, STRING
from glassbox.formats.tensor_source import row_chunks

_CODES = {letter: code for code, letter in SCALARS.items()}
_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
WRITABLE = (*_FLOATS, *QUANTIZE)


@dataclass(frozen=True)
class Number:
    """A number of a type of its own; plain ints are written as uint32, floats as float32."""

    letter: str
    value: float


def write_gguf(
    path: Path | str, metadata: Mapping[str, Any], tensors: Mapping[str, tuple[str, Tensor]]
) -> None:
    """Write metadata and tensors; each tensor comes with its type: F32, F16, BF16, Q8_0, Q4_0 or Q4_1.

    A metadata value is a string, a bool, an int, a float, a `Number`, or a list of one kind.
    Raises UserError naming a tensor that the type cannot hold.
    """
    with atomic_writer(path) as stream:
        stream.write(MAGIC + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
        for key, value in metadata.items():
            stream.write(_string(key) + _value(value))
        offset = 0
        for name, (type_name, tensor) in tensors.items():
            form = FORMATS[type_name]
            assert type_name in WRITABLE, type_name
            assert tensor.shape[-1] % form.block_size == 0, name
            dims = tuple(tensor.shape)[::-1]
            place = struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, form.code, offset)
            stream.write(_string(name) + place)
            size = tensor.numel() // form.block_size * form.block_bytes
            offset += size + -size % DEFAULT_ALIGNMENT
        stream.write(bytes(-stream.tell() % DEFAULT_ALIGNMENT))
        for name, (type_name, tensor) in tensors.items():
            try:
                _write_tensor(stream, type_name, tensor)
            except UserError as error:
                raise UserError(f"tensor '{name}' cannot be written: {error}") from None
            stream.write(bytes(-stream.tell() % DEFAULT_ALIGNMENT))


def _write_tensor(stream: BinaryIO, type_name: str, tensor: Tensor) -> None:
    rows = tensor.detach().reshape(-1, tensor.shape[-1])
    for start, stop in row_chunks(rows.shape, 4 * rows.shape[1]):
        piece = rows[start:stop].cpu()
        if type_name in QUANTIZE:
            raw = QUANTIZE[type_name](piece)
        else:
            raw = _narrowed(piece, _FLOATS[type_name]).contiguous().view(torch.uint8)
        stream.write(raw.numpy().tobytes())


def _narrowed(piece: Tensor, dtype: torch.dtype) -> Tensor:
    narrow = piece.to(dtype)
    if dtype == torch.float16 and bool((narrow.isinf() & ~piece.isinf()).any()):
        raise UserError(
            f"it holds {float(piece.abs().max()):g}, too large for f16; use f32 or bf16"
        )
    return narrow


def _string(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _kind(value: Any) -> int:
    if isinstance(value, str):
        return STRING
    return _CODES[_letter(value)]


def _letter(value: Any) -> str:
    if isinstance(value, Number):
        return value.letter
    return "?" if isinstance(value, bool) else "I" if isinstance(value, int) else "f"


def _bare(value: Any) -> bytes:
    if isinstance(value, str):
        return _string(value)
    return struct.pack("<" + _letter(value), value.value if isinstance(value, Number) else value)


def _value(value: Any) -> bytes:
    if isinstance(value, Sequence) and not isinstance(value, str):
        kind = _kind(value[0]) if value else STRING
        head = struct.pack("<IIQ", ARRAY, kind, len(value))
        return head + b"".join(map(_bare, value))
    return struct.pack("<I", _kind(value)) + _bare(value)
