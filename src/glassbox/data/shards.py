"""Token shards: the ids of many documents, end to end in one file, memory-mapped for reading.

A shard is a folder entry of up to four files, `NAME.json` written last:
  NAME.bin        ids, uint16 where the vocabulary has at most 65,536 entries, else uint32, little-endian
  NAME.offsets.npy  where each document begins, and the end of the last (num_documents + 1 values)
  NAME.mask.bin   optional: 1 for every id that is trained on, 0 for those only read
  NAME.json       dtype, counts, and the fingerprint of the tokenizer that made the ids
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassbox.core.errors import UserError
from glassbox.core.files import atomic_writer, write_json

SCHEMA = 1
BUFFERED_IDS = 1 << 20


@dataclass(frozen=True)
class Shard:
    """Documents as ids. `ids[offsets[i] : offsets[i + 1]]` is document i; `mask` says what is trained."""

    ids: NDArray[Any]
    offsets: NDArray[np.int64]
    mask: NDArray[np.uint8] | None
    info: dict[str, Any]

    @property
    def num_documents(self) -> int:
        """How many documents."""
        return len(self.offsets) - 1

    @property
    def num_tokens(self) -> int:
        """How many ids over all documents."""
        return int(self.offsets[-1])


def write_shard(
    path: Path | str,
    documents: Iterable[Sequence[int]],
    *,
    vocab_size: int,
    fingerprint: str,
    masks: Iterable[Sequence[int]] | None = None,
    extra: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write documents as `path`.bin and its companions, in bounded memory; return the header.

    `masks`, where given, runs beside `documents`. The header comes last: a shard without one is
    unfinished and never read. Raises ValueError for ids outside the vocabulary.
    """
    path = Path(path)
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    offsets = [0]
    _header(path).unlink(missing_ok=True)
    mask_path = path.with_name(path.name + ".mask.bin")
    mask_path.unlink(missing_ok=True)
    buffered: list[int] = []
    buffered_mask: list[int] = []
    mask_iterator = None if masks is None else iter(masks)
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(atomic_writer(path.with_name(path.name + ".bin")))
        mask_stream = None if masks is None else stack.enter_context(atomic_writer(mask_path))

        def flush() -> None:
            block = np.asarray(buffered, dtype=np.int64)
            if block.size and (block.min() < 0 or block.max() >= vocab_size):
                bad = int(block.min() if block.min() < 0 else block.max())
                raise ValueError(f"id {bad} is outside the vocabulary of {vocab_size}")
            stream.write(block.astype(dtype).tobytes())
            if mask_stream is not None:
                mask_stream.write(np.asarray(buffered_mask, dtype=np.uint8).tobytes())
            buffered.clear()
            buffered_mask.clear()

        for document in documents:
            buffered.extend(document)
            offsets.append(offsets[-1] + len(document))
            if mask_iterator is not None:
                mask = next(mask_iterator)
                if len(mask) != len(document):
                    raise ValueError(f"a mask of {len(mask)} for a document of {len(document)} ids")
                buffered_mask.extend(mask)
            if len(buffered) >= BUFFERED_IDS:
                flush()
        flush()
    with atomic_writer(path.with_name(path.name + ".offsets.npy")) as offsets_stream:
        np.save(offsets_stream, np.asarray(offsets, dtype=np.int64), allow_pickle=False)
    info = {
        "schema": SCHEMA,
        "dtype": dtype.str,
        "num_documents": len(offsets) - 1,
        "num_tokens": offsets[-1],
        "vocab_size": vocab_size,
        "tokenizer": fingerprint,
        "masked": masks is not None,
        **(extra or {}),
    }
    write_json(_header(path), info)
    return info


def _header(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def read_shard(path: Path | str, *, fingerprint: str | None = None) -> Shard:
    """Map a shard into memory. `fingerprint` is the tokenizer's that will read it.

    Raises UserError where a file is missing, cut short, or made by another tokenizer.
    """
    path = Path(path)
    try:
        info = json.loads(_header(path).read_text(encoding="utf-8"))
        dtype = np.dtype(info["dtype"])
        num_tokens, num_documents = int(info["num_tokens"]), int(info["num_documents"])
    except FileNotFoundError:
        raise UserError(
            f"no finished shard at '{path}' ('{_header(path).name}' is missing)"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"shard header '{_header(path)}' is damaged ({error}); write it again"
        ) from None
    if fingerprint is not None and info.get("tokenizer") != fingerprint:
        raise UserError(
            f"shard '{path}' was made by tokenizer {info.get('tokenizer')}, not by {fingerprint}; "
            "tokenize the text again with this tokenizer, or name the one that made it"
        )
    ids = _map(path.with_name(path.name + ".bin"), dtype, num_tokens)
    mask = None
    if info.get("masked"):
        mask = _map(path.with_name(path.name + ".mask.bin"), np.dtype(np.uint8), num_tokens)
    offsets_path = path.with_name(path.name + ".offsets.npy")
    try:
        offsets = np.load(offsets_path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"'{offsets_path}' cannot be read ({error}); write the shard again"
        ) from None
    if offsets.shape != (num_documents + 1,) or int(offsets[-1]) != num_tokens:
        raise UserError(f"'{offsets_path}' does not fit its header; write the shard again")
    return Shard(ids=ids, offsets=offsets, mask=mask, info=info)


def _map(path: Path, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    try:
        size = path.stat().st_size
    except OSError:
        raise UserError(f"'{path}' is missing; write the shard again") from None
    if size != count * dtype.itemsize:
        raise UserError(
            f"'{path}' has {size} bytes, its header says {count * dtype.itemsize}; "
            "it is cut short or swapped: write the shard again"
        )
    return np.memmap(path, dtype=dtype, mode="r") if count else np.empty(0, dtype=dtype)
