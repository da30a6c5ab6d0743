"""The story world as files: what a run trains and evaluates on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glassbox.core.files import atomic_writer, write_json
from glassbox.data.storyworld.config import CorpusSizes, StoryWorldConfig
from glassbox.data.storyworld.generate import generate
from glassbox.data.storyworld.records import Document, json_line

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
CorpusProgress = Callable[[str, int, int], None]


def corpus_plan(sizes: CorpusSizes) -> list[tuple[str, str, str, dict[str, int]]]:
    """The files to write: (name, kind of item, split, how much)."""
    return [
        ("train.jsonl", "document", "train", {"num_bytes": sizes.train_bytes}),
        ("heldout.jsonl", "document", "heldout", {"count": sizes.heldout}),
        ("unseen.jsonl", "document", "unseen", {"count": sizes.unseen}),
        ("chats.train.jsonl", "chat", "train", {"count": sizes.chats_train}),
        ("chats.heldout.jsonl", "chat", "heldout", {"count": sizes.chats_heldout}),
        ("questions.heldout.jsonl", "question", "heldout", {"count": sizes.questions_heldout}),
        ("arithmetic.train.jsonl", "problem", "train", {"count": sizes.arithmetic_train}),
        ("arithmetic.heldout.jsonl", "problem", "heldout", {"count": sizes.arithmetic_heldout}),
        ("preferences.train.jsonl", "preference", "train", {"count": sizes.preferences_train}),
        (
            "preferences.heldout.jsonl",
            "preference",
            "heldout",
            {"count": sizes.preferences_heldout},
        ),
    ]


def write_corpus(
    config: StoryWorldConfig,
    folder: Path | str,
    sizes: CorpusSizes | None = None,
    *,
    workers: int = 1,
    progress: CorpusProgress | None = None,
) -> dict[str, Any]:
    """Write every file of the world and `manifest.json` last; return the manifest.

    Files are written atomically and are the same bytes for any number of workers, so a run that
    was interrupted is simply run again; a folder finished under the same settings is left alone.
    `progress(file, done, total)`.
    """
    sizes = sizes or CorpusSizes()
    folder = Path(folder)
    settings = {"world": config.model_dump(mode="json"), "sizes": sizes.model_dump(mode="json")}
    finished = read_manifest(folder)
    if finished is not None and finished["settings"] == settings and _intact(folder, finished):
        return finished
    files: dict[str, dict[str, Any]] = {}
    for name, kind, split, amount in corpus_plan(sizes):
        report = None if progress is None else _named(progress, name)
        files[name] = _write_file(config, folder / name, kind, split, amount, workers, report)
    manifest = {
        "format": FORMAT_VERSION,
        "seed": config.seed,
        "language": config.language,
        "settings": settings,
        "files": files,
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def read_manifest(folder: Path | str) -> dict[str, Any] | None:
    """The manifest of a finished corpus, or None where there is none that this version reads."""
    path = Path(folder) / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    current = isinstance(manifest, dict) and manifest.get("format") == FORMAT_VERSION
    return manifest if current else None


def _intact(folder: Path, manifest: dict[str, Any]) -> bool:
    return all(
        (folder / name).exists() and (folder / name).stat().st_size == entry["file_bytes"]
        for name, entry in manifest["files"].items()
    )


def _named(progress: CorpusProgress, name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(name, done, total)


def _write_file(
    config: StoryWorldConfig,
    path: Path,
    kind: str,
    split: str,
    amount: dict[str, int],
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    count = text_bytes = file_bytes = 0
    nats: list[float] = []
    kinds: dict[str, int] = {}
    items = generate(
        config,
        kind,
        split,
        count=amount.get("count"),
        num_bytes=amount.get("num_bytes"),
        workers=workers,
        progress=progress,
    )
    with atomic_writer(path) as stream:
        for item in items:
            line = json_line(item.to_json())
            stream.write(line)
            count += 1
            file_bytes += len(line)
            if isinstance(item, Document):
                text_bytes += len(item.text.encode("utf-8"))
                nats.append(-item.log_prob)
                kinds[item.kind] = kinds.get(item.kind, 0) + 1
    entry: dict[str, Any] = {"kind": kind, "split": split, "count": count, "file_bytes": file_bytes}
    if nats:
        entry |= {"text_bytes": text_bytes, "total_nats": math.fsum(nats), "kinds": kinds}
    return entry
