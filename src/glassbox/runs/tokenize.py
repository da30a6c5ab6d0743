"""Text tokenized once, for many runs: shards, or plain ids as other programs read them."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from glassbox.core.errors import UserError
from glassbox.core.files import atomic_writer, remove_leftovers, write_json
from glassbox.core.progress import ProgressLine
from glassbox.data.shards import read_shard, write_shard
from glassbox.data.sources import find_data
from glassbox.data.text import Split, is_heldout, read_documents
from glassbox.data.text import heldout_share as heldout_share_of
from glassbox.data.token_files import write_token_file
from glassbox.data.tokenize import Ids, encode_in_order
from glassbox.tokenizers import Tokenizer

NOTE = "tokens.json"
PART_TOKENS = 1 << 24


def tokenize_corpus(
    sources: Sequence[str],
    tokenizer: Tokenizer,
    out: Path,
    *,
    form: Literal["shard", "bin"] = "shard",
    split: Split = "passages",
    heldout_share: float = 0.005,
    workers: int = 1,
) -> dict[str, tuple[int, int]]:
    """Write OUT/train and OUT/heldout (bin: train.bin, val.bin) and the tokenizer; documents and
    ids of each.

    Whether a document is held out depends on its text only, as in training. Complete files are not
    written again. After a kill, a shard is rewritten and a `bin` is resumed after its last part of
    about PART_TOKENS, with identical bytes. OUT/tokens.json records the sources and settings.
    Raises UserError for a folder made of something else, and for sources without a document.
    """
    paths = [find_data(source) for source in sources]
    settings = {
        "sources": list(sources),
        "tokenizer": tokenizer.fingerprint,
        "format": form,
        "split": split,
        "heldout_share": heldout_share,
    }

    def texts() -> Iterator[str]:
        return itertools.chain.from_iterable(read_documents(path, split=split) for path in paths)

    note = _claim(out, settings)
    tokenizer.save(out / "tokenizer")
    share = heldout_share_of(texts(), heldout_share) if heldout_share else 0.0
    names = {"train": "train", "heldout": "heldout"} if form == "shard" else {
        "train": "train.bin", "heldout": "val.bin"
    }  # fmt: skip
    report: dict[str, tuple[int, int]] = {}
    for part, name in names.items():
        if part == "heldout" and not heldout_share:
            continue
        if name in note["files"]:
            documents, tokens = note["files"][name]
            report[name] = documents, tokens
            continue
        chosen = (text for text in texts() if is_heldout(text, share) == (part == "heldout"))
        report[name] = _write(out / name, chosen, tokenizer, form, workers)
        if part == "train" and not report[name][0]:
            raise UserError(f"there is no text in {', '.join(sources)}; name files that hold text")
        note["files"][name] = list(report[name])
        write_json(out / NOTE, note)
        shutil.rmtree(_parts_folder(out / name), ignore_errors=True)
    return report


def _claim(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    path = out / NOTE
    if path.exists():
        try:
            note: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            old = note["settings"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"'{path}' is damaged; name another folder as --out") from None
        for key, value in settings.items():
            if old.get(key) != value:
                raise UserError(
                    f"'{out}' was made with {key} = {old.get(key)}, not {value}; name another folder"
                )
        return note
    if out.exists() and any(out.iterdir()):
        raise UserError(f"'{out}' is not empty; name another folder as --out")
    out.mkdir(parents=True, exist_ok=True)
    note = {"settings": settings, "files": {}}
    write_json(path, note)
    return note


def _write(
    path: Path, documents: Iterator[str], tokenizer: Tokenizer, form: str, workers: int
) -> tuple[int, int]:
    with ProgressLine(f"tokenize {path.name}", float("inf")) as line:

        def show(characters: int) -> None:
            line.update(characters, f"{characters / 1e6:,.1f} million characters")

        if form == "bin":
            parts = _Parts(_parts_folder(path))
            remaining = itertools.islice(documents, parts.documents, None)
            encoded = encode_in_order(remaining, tokenizer, workers=workers, progress=show)
            parts.add_all(encoded, tokenizer)
            return parts.join(path)
        encoded = encode_in_order(documents, tokenizer, workers=workers, progress=show)
        eos = tokenizer.eos_id
        info = write_shard(
            path,
            ([eos, *ids.tolist(), eos] for ids in encoded),
            vocab_size=tokenizer.vocab_size,
            fingerprint=tokenizer.fingerprint,
        )
    read_shard(path, fingerprint=tokenizer.fingerprint)
    return int(info["num_documents"]), int(info["num_tokens"])


def _parts_folder(path: Path) -> Path:
    return path.with_name(f"{path.name}.parts")


class _Parts:
    """Finished parts of a file of ids. A part's name tells its place and how many documents it holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        self.counts: list[tuple[int, int]] = []
        self.paths: list[Path] = []
        for path in sorted(folder.glob("part-*.bin")):
            _, _, documents, tokens = path.stem.split("-")
            self._add(path, int(documents), int(tokens))

    def _add(self, path: Path, documents: int, tokens: int) -> None:
        self.paths.append(path)
        self.counts.append((documents, tokens))

    @property
    def documents(self) -> int:
        """How many documents the parts hold."""
        return sum(documents for documents, _ in self.counts)

    def add_all(self, encoded: Iterator[Ids], tokenizer: Tokenizer) -> None:
        """Write what follows, a part for about PART_TOKENS ids."""
        written = self.folder / "next"
        for first in encoded:
            documents, tokens = write_token_file(
                written,
                _take(first, encoded, PART_TOKENS),
                vocab_size=tokenizer.vocab_size,
                eos_id=tokenizer.eos_id,
            )
            path = self.folder / f"part-{len(self.paths):06d}-{documents}-{tokens}.bin"
            os.replace(written, path)
            self._add(path, documents, tokens)

    def join(self, path: Path) -> tuple[int, int]:
        """All parts as one file; documents and ids."""
        with atomic_writer(path) as stream:
            for part in self.paths:
                with part.open("rb") as content:
                    shutil.copyfileobj(content, stream, 1 << 20)
        return self.documents, sum(tokens for _, tokens in self.counts)


def _take(first: Ids, others: Iterator[Ids], tokens: int) -> Iterator[Ids]:
    """Documents until they have so many ids together, at least the first."""
    yield first
    total = len(first)
    while total < tokens and (ids := next(others, None)) is not None:
        yield ids
        total += len(ids)
