"""Token shards: the ids of many documents, end to end in one file, memory-mapped for reading.

A shard is a folder entry of up to four files, `NAME.json` written last:
  NAME.bin        ids, uint16 where the vocabulary has at most 65,536 entries, else uint32, little-endian
  NAME.offsets.npy  where each document begins, and the end of the last (num_documents + 1 values)
  NAME.mask.bin   optional: 1 for every id that is trained on, 0 for those only read
  NAME.json       dtype, counts, the fingerprint of the tokenizer that made the ids, and the size
                  and checksum of the other files
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
from glassbox.core.files import atomic_writer, checksum, write_json

SCHEMA = 1
BUFFERED_IDS = 1 << 20


@dataclass(frozen=True)
class Shard:
    """Documents as ids. `ids[offsets[i] : offsets[i + 1]]` is document i; `mask` says what is trained.

    overlap: 1 where the id behind a document's last is its own too and the first of the next one, as
    an end-of-text id is in files that have a single one between documents.
    """

    ids: NDArray[Any]
    offsets: NDArray[np.int64]
    mask: NDArray[np.uint8] | None
    info: dict[str, Any]
    overlap: int = 0

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
    buffered: list[int] = []
    buffered_mask: list[int] = []
    mask_iterator = None if masks is None else iter(masks)
    _header(path).unlink(missing_ok=True)
    _beside(path, ".mask.bin").unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:
        ids_stream = stack.enter_context(atomic_writer(_beside(path, ".bin")))
        mask_stream = (
            None
            if masks is None
            else stack.enter_context(atomic_writer(_beside(path, ".mask.bin")))
        )

        def flush() -> None:
            block = np.asarray(buffered, dtype=np.int64)
            if block.size and (block.min() < 0 or block.max() >= vocab_size):
                bad = int(block.min() if block.min() < 0 else block.max())
                raise ValueError(f"id {bad} is outside the vocabulary of {vocab_size}")
            ids_stream.write(block.astype(dtype).tobytes())
            if mask_stream is not None:
                mask_stream.write(np.asarray(buffered_mask, dtype=np.bool_).tobytes())
            buffered.clear()
            buffered_mask.clear()

        for document in documents:
            buffered.extend(document)
            offsets.append(offsets[-1] + len(document))
            if mask_iterator is not None:
                mask = next(mask_iterator, ())
                if len(mask) != len(document):
                    raise ValueError(f"a mask of {len(mask)} for a document of {len(document)} ids")
                buffered_mask.extend(mask)
            if len(buffered) >= BUFFERED_IDS:
                flush()
        flush()
    with atomic_writer(_beside(path, ".offsets.npy")) as stream:
        np.save(stream, np.asarray(offsets, dtype=np.int64), allow_pickle=False)
    suffixes = [".bin", ".offsets.npy", *([] if masks is None else [".mask.bin"])]
    info = {
        "schema": SCHEMA,
        "dtype": dtype.str,
        "num_documents": len(offsets) - 1,
        "num_tokens": offsets[-1],
        "vocab_size": vocab_size,
        "tokenizer": fingerprint,
        "files": {suffix: checksum(_beside(path, suffix)) for suffix in suffixes},
        **(extra or {}),
    }
    write_json(_header(path), info)
    return info


def _header(path: Path) -> Path:
    return _beside(path, ".json")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def read_shard(path: Path | str, *, fingerprint: str | None = None, verify: bool = True) -> Shard:
    """Map a shard into memory, after comparing every file with the checksum in its header.

    Without `verify` (a rank whose files another one has read) their sizes alone are compared.

    `fingerprint` is the tokenizer's that will read it. Raises UserError where a file is missing, cut
    short, altered or another shard's, or where another tokenizer made the ids.
    """
    path = Path(path)
    try:
        info = json.loads(_header(path).read_text(encoding="utf-8"))
        schema, dtype, files = info["schema"], info["dtype"], dict(info["files"])
        num_tokens, num_documents = int(info["num_tokens"]), int(info["num_documents"])
        if schema != SCHEMA or dtype not in ("<u2", "<u4"):
            raise ValueError(f"schema {schema}, dtype {dtype}; this version reads schema {SCHEMA}")
    except FileNotFoundError:
        raise UserError(
            f"no finished shard at '{path}' ('{_header(path).name}' is missing)"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"shard header '{_header(path)}' is damaged ({error}); write the shard again"
        ) from None
    if fingerprint is not None and info.get("tokenizer") != fingerprint:
        raise UserError(
            f"shard '{path}' was made by tokenizer {info.get('tokenizer')}, not by {fingerprint}; "
            "tokenize the text again with this tokenizer, or name the one that made it"
        )
    for suffix, written in files.items():
        file = _beside(path, suffix)
        found = None
        if file.is_file():
            found = (
                checksum(file) if verify else f"{file.stat().st_size}-{written.partition('-')[2]}"
            )
        if found != written:
            what = (
                "is missing" if found is None else f"is damaged or swapped ({found}, not {written})"
            )
            raise UserError(f"'{file}' {what}; write the shard again")
    offsets = np.load(_beside(path, ".offsets.npy"), mmap_mode="r", allow_pickle=False)
    if offsets.shape != (num_documents + 1,) or int(offsets[-1]) != num_tokens:
        raise UserError(f"shard header '{_header(path)}' does not fit its files; write it again")
    mask = _map(_beside(path, ".mask.bin"), np.dtype(np.uint8)) if ".mask.bin" in files else None
    ids = _map(_beside(path, ".bin"), np.dtype(dtype))
    return Shard(ids=ids, offsets=offsets, mask=mask, info=info)


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    if path.stat().st_size == 0:  # which cannot be mapped
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")
