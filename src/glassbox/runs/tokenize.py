"""Text tokenized once, for many runs: shards, or plain ids as other programs read them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from glassbox.core.errors import UserError
from glassbox.core.files import write_json
from glassbox.core.progress import ProgressLine
from glassbox.data.shards import read_shard, write_shard
from glassbox.data.sources import find_data
from glassbox.data.text import Split, is_heldout, read_documents
from glassbox.data.text import heldout_share as heldout_share_of
from glassbox.data.token_files import write_token_file
from glassbox.data.tokenize import encode_in_order
from glassbox.tokenizers import Tokenizer

NOTE = "tokens.json"


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
    """Write OUT/train and OUT/heldout (bin: train.bin, val.bin) and the tokenizer; documents and ids of each.

    A document is held out by its text alone, as in training. A file that is finished is not made
    again; one that a kill broke off is made anew. OUT/tokens.json says what OUT was made of.
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

        encoded = encode_in_order(documents, tokenizer, workers=workers, progress=show)
        eos, size = tokenizer.eos_id, tokenizer.vocab_size
        if form == "bin":
            return write_token_file(path, encoded, vocab_size=size, eos_id=eos)
        info = write_shard(
            path,
            ([eos, *ids.tolist(), eos] for ids in encoded),
            vocab_size=size,
            fingerprint=tokenizer.fingerprint,
        )
    read_shard(path, fingerprint=tokenizer.fingerprint)
    return int(info["num_documents"]), int(info["num_tokens"])
