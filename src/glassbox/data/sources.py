"""Resolves data sources by name, for all stages: a path, a named set, or a data set of the hub.

A name may be
- a file or a folder: text, JSON lines, JSON, CSV, Parquet, compressed or not; a folder that
  `glassbox data curate` wrote; for pre-training also ids (`train.bin`, `train.npy`, a shard);
- `NAME` or `NAME:split` of the catalogue: `glassbox data get --list`;
- `hf:owner/name`, `hf:owner/name:split`, `hf:owner/name/folder:split`: a data set of the hub.

What has to be fetched lies in the folder that GLASSBOX_CACHE names (else ~/.cache/glassbox), once.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterator
from pathlib import Path

from glassbox.core.errors import UserError
from glassbox.core.progress import ProgressLine
from glassbox.data.catalogue import CATALOGUE, NamedSet
from glassbox.data.curation.blocks import FORMATS, file_format
from glassbox.data.curation.download import download
from glassbox.data.curation.encodings import COMPRESSIONS
from glassbox.data.hub import COMPLETE, HubName, fetch_split, parse_name
from glassbox.data.token_files import is_shard

GIVE = "give a file, a folder, hf:owner/name[:split], or a set by its name (`glassbox data get --list`)"


def cache_folder() -> Path:
    """The folder of downloaded data."""
    named = os.environ.get("GLASSBOX_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(base) / "glassbox"


def find_data(name: str) -> Path:
    """Return the file or folder of a name, downloading it if needed.

    Raises UserError for a name that is none, and for what cannot be fetched.
    """
    path = Path(name)
    with contextlib.suppress(OSError, ValueError):  # a name too long, or with a zero in it
        if path.exists():
            return path
        if is_shard(path):
            return path
    if name.startswith("hf:"):
        return fetch_hub(parse_name(name))
    entry, split = named_set(name)
    if entry is not None:
        return fetch_named(entry, split)
    close = difflib.get_close_matches(name.partition(":")[0], CATALOGUE, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    raise UserError(f"no data at '{name}'{hint or '; ' + GIVE}")


def named_set(name: str) -> tuple[NamedSet | None, str]:
    """The catalogue's entry for NAME or NAME:split, and the split."""
    base, _, split = name.partition(":")
    entry = CATALOGUE.get(base)
    if entry is None or (split and not entry.hub):
        return None, ""
    return entry, split or entry.split


def is_named(name: str) -> bool:
    """Whether a name is a set's, and no path that is there."""
    with contextlib.suppress(OSError, ValueError):
        if Path(name).exists():
            return False
    return name.startswith("hf:") or named_set(name)[0] is not None


def fetch_named(entry: NamedSet, split: str = "", target: Path | None = None) -> Path:
    """Fetch a named set: its folder, or its file. Raises UserError."""
    if entry.hub:
        return fetch_hub(parse_name(entry.hub, split or entry.split), target)
    folder = target or cache_folder() / "data" / entry.name
    with _one_at_a_time(folder), _shown(entry.name) as line:
        return download(
            entry.url,
            folder,
            sha256=entry.sha256 or None,
            progress=lambda done, total: line.update(done / max(total, done, 1), _size(done)),
        )


def fetch_hub(name: HubName, target: Path | None = None) -> Path:
    """Fetch a split of a data set of the hub: its folder. Raises UserError."""
    slug = "--".join(part for part in (name.repo, name.folder, name.split) if part)
    folder = target or cache_folder() / "data" / slug.replace("/", "--")
    if (folder / COMPLETE).exists():
        return folder
    with _one_at_a_time(folder), _shown(str(name)) as line:
        return fetch_split(
            name,
            folder,
            progress=lambda done, total: line.update(done / max(total, 1), _size(done)),
        )


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _shown(what: str) -> ProgressLine:
    return ProgressLine(f"fetch {what}", 1)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Of several processes, such as the ranks of a run, one fetches and the others wait for it."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f".{folder.name}.lock", "w", encoding="ascii") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def data_format(path: Path) -> str | None:
    """text, jsonl, json, csv, parquet or html by the ending, behind that of a compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    plain = suffixes[:-1] if suffixes and suffixes[-1] in COMPRESSIONS else suffixes
    return "json" if plain and plain[-1] == ".json" else file_format(path)


def data_files(path: Path, formats: tuple[str, ...]) -> list[Path]:
    """The files of a path that are of these formats, sorted: itself, or all in a folder.

    Files and folders whose names begin with a dot are passed over. A file that is named itself is taken
    whatever it is called. Raises UserError for a folder without any, a pipe or a device.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"'{path}' is no file and no folder; {GIVE}")
    found = sorted(
        file
        for file in path.rglob("*")
        if not any(part.startswith(".") for part in file.relative_to(path).parts)
        and file.name != COMPLETE
        and data_format(file) in formats
        and file.is_file()
    )
    if not found:
        endings = [ending for ending, kind in FORMATS.items() if kind in formats]
        endings += [".json"] * ("json" in formats)
        raise UserError(
            f"'{path}' holds no file ending in {', '.join(endings)} (also with "
            f"{', '.join(COMPRESSIONS)})"
        )
    return found
