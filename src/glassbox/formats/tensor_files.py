"""Safetensors files, one or several with an index: checked before use, read a tensor at a time."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.core.files import open_regular, read_limited, sync_folder, write_json
from glassbox.formats.tensor_source import TORCH_DTYPES, TensorSource, row_chunks

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_RAW_DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {
        **TORCH_DTYPES,
        "F8_E4M3": torch.float8_e4m3fn,  # this and the next three: parts of narrow weights
        "F8_E8M0": torch.uint8,
        "U8": torch.uint8,
        "I8": torch.int8,
    }
)


MAX_JSON_BYTES = 4 << 20
"""Largest config.json and the like; published ones have a few kilobytes."""
MAX_HEADER_BYTES = 48 << 20
"""Largest header of a safetensors file and largest index; safetensors' own limit is twice that."""
MAX_TENSORS = 1 << 18
"""Most tensors of a model; DeepSeek-V3, of 256 experts in 58 layers, has 91,991 in FP8."""
MAX_FILES = 500
"""Most safetensors files of a model; each is held open. Published models have up to 200."""
_MAX_DIMS = 8


def read_json(path: Path, most: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON mapping in an ordinary file of at most `most` bytes.

    Raises UserError naming the file and the line where it breaks.
    """
    try:
        content = json.loads(read_limited(path, most).decode("utf-8"))
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"'{path.parent}' has no {path.name}; is it a model's folder?") from None
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"'{path}' is no UTF-8 text; the file is damaged") from None
    except json.JSONDecodeError as error:
        raise UserError(f"'{path}' is not valid JSON, line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise UserError(f"'{path}' is not valid JSON: it is nested too deeply") from None
    except ValueError:  # what else Python refuses: an integer of thousands of digits
        raise UserError(
            f"'{path}' holds a number of too many digits; the file is damaged"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"'{path}' holds a {type(content).__name__}; expected a mapping of keys")
    return content


@dataclass(frozen=True)
class _Entry:
    """One tensor: where it lies in which file."""

    file: str
    stream: io.BufferedReader
    dtype: str
    shape: tuple[int, ...]
    start: int
    num_bytes: int


class TensorFiles(TensorSource):
    """All tensors of a model's folder, by name; a context manager that closes the files.

    Files are read, not memory-mapped, since mapped pages would count as memory of this process.
    Raises UserError for a folder without safetensors (pickles are never opened), for files that
    are truncated or otherwise damaged, and for an index that names what is not there.
    """

    def __init__(self, folder: Path, single: str = SINGLE) -> None:
        self.folder = folder
        self.single = single
        self.where = f"'{folder / single}'" if (folder / single).exists() else f"'{folder}'"
        self._stack = contextlib.ExitStack()
        self._entries: dict[str, _Entry] = {}
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise

    def _open(self) -> None:
        if (self.folder / self.single).is_file():
            self._entries = self._open_one(self.single)
            return
        if not (self.folder / INDEX).is_file():
            raise UserError(self._no_weights())
        weight_map = read_json(self.folder / INDEX, MAX_HEADER_BYTES).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError(f"'{self.folder / INDEX}' has no 'weight_map'; the file is damaged")
        self._limit(len(weight_map))
        opened: set[str] = set()
        for name, file in weight_map.items():
            if not _is_file_name(file):
                raise UserError(
                    f"'{self.folder / INDEX}': tensor '{name}' is said to be in {reprlib.repr(file)}, "
                    "which is no file name"
                )
            if file not in opened:
                opened.add(file)
                if len(opened) > MAX_FILES:
                    raise UserError(
                        f"'{self.folder / INDEX}' names more than {MAX_FILES} files; save the model "
                        "again in fewer"
                    )
                self._entries |= self._open_one(file)
            if name not in self._entries or self._entries[name].file != file:
                raise UserError(
                    f"'{self.folder / INDEX}' says that tensor '{name}' is in {file}, which lacks it"
                )
        self._limit(len(self._entries))

    def _limit(self, count: int) -> None:
        if count > MAX_TENSORS:
            raise UserError(
                f"'{self.folder}' has {count:,} tensors; a model may have {MAX_TENSORS:,}"
            )

    def _open_one(self, file: str) -> dict[str, _Entry]:
        path = self.folder / file
        try:
            stream = self._stack.enter_context(open_regular(path))
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(8), "little")
            if MAX_HEADER_BYTES < length <= size:
                raise UserError(
                    f"'{path}' has a header of {length:,} bytes; it may have {MAX_HEADER_BYTES:,}"
                )
            with safetensors.safe_open(path, framework="pt"):  # it checks sizes, types and offsets
                pass
            header = json.loads(stream.read(length))
        except FileNotFoundError:
            raise UserError(f"'{path}' is missing; copy the whole model again") from None
        except (safetensors.SafetensorError, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.EMFILE:
                raise UserError(
                    f"'{path}' cannot be opened: {error.strerror}; raise the limit with ulimit -n"
                ) from None
            size = path.stat().st_size if path.is_file() else 0
            raise UserError(
                f"'{path}' ({size} bytes) is no whole safetensors file: "
                f"{_first_beyond(path, size) or error}; it may be truncated: copy it again"
            ) from None
        header.pop("__metadata__", None)
        self._limit(len(header))
        for name, entry in header.items():
            if len(entry["shape"]) > _MAX_DIMS:
                raise UserError(f"'{path}': tensor '{name}' has {len(entry['shape'])} dimensions")
        return {
            name: _Entry(
                file,
                stream,
                entry["dtype"],
                tuple(entry["shape"]),
                8 + length + entry["data_offsets"][0],
                entry["data_offsets"][1] - entry["data_offsets"][0],
            )
            for name, entry in header.items()
        }

    def _no_weights(self) -> str:
        pickles = sorted([*self.folder.glob("*.bin"), *self.folder.glob("*.pt*")])
        if pickles:
            return (
                f"'{self.folder}' holds its weights only as '{pickles[0].name}', a pickle, which can "
                "run code when it is opened; open it once where you trust it with transformers and "
                "write it again with save_pretrained, which makes model.safetensors"
            )
        return f"'{self.folder}' has neither {self.single} nor {INDEX}; it holds no weights"

    def __enter__(self) -> TensorFiles:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def names(self) -> list[str]:
        """All tensors."""
        return sorted(self._entries)

    def file(self, name: str) -> str:
        """The file that a tensor is in, quoted."""
        return f"'{self.folder / self._entries[name].file}'"

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        return self._entries[name].shape

    def dtype(self, name: str) -> str:
        """A tensor's type in safetensors' words (F32, BF16, I64), without reading it."""
        return self._entries[name].dtype

    def rows(self, name: str, start: int, stop: int, columns: int) -> Tensor:
        """Some rows of a tensor, in its own type, seen as a matrix of so many columns."""
        entry = self._entries[name]
        dtype = _RAW_DTYPES[entry.dtype]
        row_bytes = columns * dtype.itemsize
        content = bytearray(row_bytes * (stop - start))
        entry.stream.seek(entry.start + start * row_bytes)
        if entry.stream.readinto(content) != len(content):
            raise UserError(f"{self.file(name)} ends within tensor '{name}'; copy it again")
        if not content:
            return torch.empty(stop - start, columns, dtype=dtype)
        return torch.frombuffer(content, dtype=dtype).view(stop - start, columns)

    def copy_into(self, name: str, out: Tensor) -> None:
        """Read a tensor into one of its shape, in pieces of a few megabytes."""
        entry = self._entries[name]
        assert tuple(out.shape) == entry.shape, name
        rows = out if out.dim() else out.unsqueeze(0)
        columns = rows[0].numel() if len(rows) else 0
        row_bytes = columns * _RAW_DTYPES[entry.dtype].itemsize
        for start, stop in row_chunks(rows.shape, row_bytes):
            piece = self.rows(name, start, stop, columns)
            rows[start:stop].copy_(piece.view(rows[start:stop].shape))

    def get(self, name: str) -> Tensor:
        """Read one tensor whole, in its own type."""
        out = torch.empty(self.shape(name), dtype=_RAW_DTYPES[self.dtype(name)])
        self.copy_into(name, out)
        return out


def _is_file_name(name: object) -> bool:
    if not isinstance(name, str) or not name.isprintable() or len(name) > 250:
        return False
    return Path(name).name == name != ".."


def _first_beyond(path: Path, size: int) -> str:
    """Which tensor of a file reaches beyond its end; nothing where that cannot be told."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, size, MAX_HEADER_BYTES)))
        header.pop("__metadata__", None)
        ends = {name: 8 + length + entry["data_offsets"][1] for name, entry in header.items()}
        name = min((name for name in ends if ends[name] > size), key=lambda name: ends[name])
        shape = tuple(header[name]["shape"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ""
    return (
        f"tensor '{name}' of shape {shape} and type {header[name]['dtype']} is expected to end at "
        f"byte {ends[name]}, found the file's end at {size}"
    )


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file atomically."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        safetensors.torch.save_file(ready, temporary, metadata={"format": "pt"})
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except safetensors.SafetensorError as error:
        temporary.unlink(missing_ok=True)
        number = re.search(r"os error (\d+)", str(error))  # it is written in Rust
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_sharded(folder: Path, tensors: Mapping[str, Tensor], *, max_bytes: int) -> None:
    """Write model.safetensors, or where it would pass `max_bytes` several files and their index.

    A tensor is never cut, so a file with a single one may be larger.
    """
    shards: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if shards[-1] and used + size > max_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = tensor
        used += size
    if len(shards) == 1:
        write_tensors(folder / SINGLE, tensors)
        (folder / INDEX).unlink(missing_ok=True)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_tensors(folder / file, shard)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / INDEX, index)
    (folder / SINGLE).unlink(missing_ok=True)  # it would be read in their place
