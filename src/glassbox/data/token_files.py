"""Raw token files as written by other programs: memory-mapped for reading, and written.

- `NAME.bin`: ids end to end, uint16 or uint32, little-endian, no header: nanoGPT's `prepare.py`;
- `NAME.bin` with a header of 256 int32 (20240520: uint16, 20240801: uint32): llm.c's data;
- `NAME.npy`: one axis of whole numbers.
An end-of-text id ends each document; without any, the file is one document.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassbox.core.errors import UserError
from glassbox.core.files import atomic_writer, checksum
from glassbox.data.python_source import PythonSource
from glassbox.data.shards import Shard

SUFFIXES = (".bin", ".npy")
_BLOCK = 1 << 22
_HEADERS = {20240520: "<u2", 20240801: "<u4"}
_HEADER_BYTES = 1024


@dataclass(frozen=True)
class TokenFiles:
    """Ids to train on, and those held out, where there are any: a file each, or shards of ours."""

    train: Path
    heldout: Path | None = None

    @property
    def is_shard(self) -> bool:
        """Whether `train` is the path of a shard, without an ending."""
        return self.train.suffix not in SUFFIXES


def find_token_files(path: Path | PythonSource) -> TokenFiles | None:
    """The token files that a path means, None where it means text.

    A file that ends in .bin or .npy; FOLDER/train, the path of a shard, or its FOLDER/train.bin; a
    folder with train.bin, and val.bin or a shard `heldout` beside it.
    """
    if isinstance(path, PythonSource):
        return None
    if path.is_dir():
        found = find_token_files(path / "train.bin")
        if found is None or not (path / "train.bin").is_file():
            return None
        return found
    if is_shard(path):
        return TokenFiles(path, _beside(path, "heldout"))
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return None
    if path.suffix == ".bin" and is_shard(path.with_suffix("")):
        return find_token_files(path.with_suffix(""))
    heldout = path.with_name("val" + path.suffix)
    return TokenFiles(path, heldout if path.stem == "train" and heldout.is_file() else None)


def is_shard(path: Path) -> bool:
    """Whether a path is a finished shard's, as `write_shard` takes it."""
    return (
        path.with_name(path.name + ".json").is_file()
        and path.with_name(path.name + ".bin").is_file()
    )


def _beside(path: Path, name: str) -> Path | None:
    found = path.with_name(name)
    return found if path.name == "train" and is_shard(found) else None


def open_token_file(path: Path, *, vocab_size: int, eos_id: int) -> Shard:
    """Map a token file into memory as a shard, cut into documents behind each end-of-text id.

    The id that ends a document also begins the next one, as in the file, so that every id but the
    first is predicted once. Raises UserError for ids beyond the vocabulary, and for what is no such file.
    """
    ids = _map(path, vocab_size)
    if len(ids) < 2:
        raise UserError(f"'{path}' holds {len(ids)} ids; give a file with more")
    ends: list[NDArray[np.int64]] = []
    for start in range(0, len(ids), _BLOCK):
        block = ids[start : start + _BLOCK]
        low, high = int(block.min()), int(block.max())
        if low < 0 or high >= vocab_size:
            raise UserError(
                f"'{path}' has id {low if low < 0 else high}, and the tokenizer {vocab_size:,} tokens; "
                "name the tokenizer that made the file"
            )
        ends.append(np.flatnonzero(block == eos_id).astype(np.int64) + start)
    last = len(ids) - 1
    inside = np.concatenate(ends)
    inside = inside[(inside > 0) & (inside < last)]
    offsets = np.concatenate([[0], inside, [last]]).astype(np.int64)
    info = {
        "num_documents": len(offsets) - 1,
        "num_tokens": len(ids),
        "files": {".bin": checksum(path)},
    }
    return Shard(ids=ids, offsets=offsets, mask=None, info=info, overlap=1)


def _map(path: Path, vocab_size: int) -> NDArray[Any]:
    if path.suffix == ".npy":
        try:
            ids: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise UserError(f"'{path}' is no .npy file of numbers: {error}") from None
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise UserError(
                f"'{path}' is {ids.dtype} of {ids.ndim} axes; give one axis of whole numbers"
            )
        return ids
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = np.frombuffer(stream.read(_HEADER_BYTES)[:_HEADER_BYTES], np.uint8)
    words = head[: len(head) // 4 * 4].view("<i4")
    if len(words) == 256 and int(words[0]) in _HEADERS and not words[3:].any():
        dtype = np.dtype(_HEADERS[int(words[0])])
        held = size - _HEADER_BYTES
        if int(words[2]) != held // dtype.itemsize:
            raise UserError(
                f"'{path}' names {int(words[2]):,} ids in its header and holds "
                f"{held // dtype.itemsize:,}; fetch it anew"
            )
        return np.memmap(path, dtype=dtype, mode="r", offset=_HEADER_BYTES)
    dtype = _guess_dtype(path, size, vocab_size)
    if size % dtype.itemsize or not size:
        raise UserError(f"'{path}' has {size:,} bytes, no whole number of {dtype.name} ids")
    return np.memmap(path, dtype=dtype, mode="r")


def _guess_dtype(path: Path, size: int, vocab_size: int) -> np.dtype[Any]:
    """uint32 for a vocabulary beyond 65,536, or where every second half of a number is zero."""
    if vocab_size > 1 << 16:
        return np.dtype("<u4")
    with path.open("rb") as stream:
        sample = stream.read(1 << 20)
    halves = np.frombuffer(sample[: len(sample) // 4 * 4], "<u2")
    wide = size % 4 == 0 and len(halves) >= 8 and not halves[1::2].any() and halves[::2].any()
    return np.dtype("<u4" if wide else "<u2")


def part(shard: Shard, start: int, end: int, *, longest: int | None = None) -> Shard:
    """The ids `start` to `end` of a token file; `longest`: documents are cut into parts of so many."""
    inside = shard.offsets[(shard.offsets > start) & (shard.offsets < end - 1)]
    offsets = np.concatenate([[start], inside, [end - 1]])
    if longest is not None:
        steps = [np.arange(a, b, longest) for a, b in itertools.pairwise(offsets)]
        offsets = np.concatenate([*steps, [end - 1]])
    info = {**shard.info, "num_documents": len(offsets) - 1, "num_tokens": end - start}
    return replace(shard, offsets=offsets.astype(np.int64), info=info)


def split_heldout(shard: Shard, share: float, *, longest: int) -> tuple[Shard, Shard]:
    """The beginning of a token file, and its last `share`, from a document's border where one is near."""
    total = len(shard.ids)
    wanted = min(total - 2, max(2, round((1 - share) * total)))
    near = shard.offsets[np.abs(shard.offsets - wanted) <= share * total / 2]
    near = near[(near >= 2) & (near <= total - 2)]
    at = int(near[np.argmin(np.abs(near - wanted))]) if len(near) else wanted
    return part(shard, 0, at + 1), part(shard, at, total, longest=longest)


def write_token_file(
    path: Path, documents: Iterable[Sequence[int] | NDArray[Any]], *, vocab_size: int, eos_id: int
) -> tuple[int, int]:
    """Write documents as `path`, each with the end-of-text id behind it; how many documents and ids.

    uint16 where the vocabulary has at most 65,536 entries, else uint32: nanoGPT's `prepare.py`.
    """
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    count = total = 0
    with atomic_writer(path) as stream:
        for document in documents:
            ids = np.asarray([*document, eos_id], np.int64)
            if ids.min() < 0 or ids.max() >= vocab_size:
                raise ValueError(f"an id is outside the vocabulary of {vocab_size}")
            stream.write(ids.astype(dtype).tobytes())
            count += 1
            total += len(ids)
    return count, total
