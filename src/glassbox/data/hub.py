"""Data sets of the hub: the files of a split, downloaded once with resume and checksums.

The library huggingface_hub downloads (HF_ENDPOINT sets a mirror, HF_TOKEN a token), resumes after a
lost connection, and retries. This module selects the files of a split and verifies each file's
checksum.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from glassbox.core.errors import UserError
from glassbox.core.files import write_json
from glassbox.data.curation.blocks import file_format

COMPLETE = "complete.json"
PATTERN = re.compile(r"([\w.-]+/[\w.-]+)((?:/[\w.=@+-]+)*)(?::([\w.-]+))?")
Progress = Callable[[int, int], None]
_SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval"),
}
_ORDER = ("parquet", "jsonl", "json", "csv", "text")
_CONVERTED = "refs/convert/parquet"


@dataclass(frozen=True)
class HubName:
    """`owner/name[/folder][:split]`; folder is a configuration's name, a folder or a file of the set."""

    repo: str
    folder: str
    split: str

    def __str__(self) -> str:
        return f"hf:{self.repo}{'/' * bool(self.folder)}{self.folder}:{self.split}"


def parse_name(name: str, split: str = "train") -> HubName:
    """The parts of a name, with or without `hf:`. Raises UserError.

    >>> parse_name("hf:openai/gsm8k/main:test")
    HubName(repo='openai/gsm8k', folder='main', split='test')
    """
    found = PATTERN.fullmatch(name.removeprefix("hf:"))
    if found is None or ".." in name:
        raise UserError(
            f"'{name}' is no name of a data set; write hf:owner/name or hf:owner/name:split"
        )
    return HubName(found[1], found[2].strip("/"), found[3] or split)


@dataclass(frozen=True)
class HubFile:
    """A file of a data set. sha256: of its bytes; git: the name of a blob that holds them."""

    path: str
    size: int
    sha256: str = ""
    git: str = ""

    def matches(self, file: Path) -> bool:
        """Whether a file on disk is this one, to the byte."""
        if file.stat().st_size != self.size:
            return False
        kind = "sha256" if self.sha256 else "sha1"
        digest = hashlib.new(kind, usedforsecurity=False)
        if not self.sha256:
            digest.update(b"blob %d\0" % self.size)
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        return digest.hexdigest() == (self.sha256 or self.git or digest.hexdigest())


def fetch_split(
    name: HubName, target: Path, *, progress: Progress = lambda done, all_: None
) -> Path:
    """Download the files of a split into `target` and return it; nothing is downloaded if all are
    complete.

    Partial files are resumed, complete ones are not downloaded again. `target`/complete.json,
    written last, names the revision and every checksum.
    Raises UserError if the data set, split or folder does not exist or has no file of a supported
    format, if a checksum differs twice, and if the hub cannot be reached.
    """
    if (target / COMPLETE).exists():
        return target
    api = _api()
    commit, files = _find_files(api, name)
    total, done = sum(file.size for file in files), 0
    known = _read_json(target / "partial.json")
    known = known if known.get("commit") == commit else {"commit": commit, "files": {}}
    for file in files:
        progress(done, total)
        place = target / file.path
        entry = [file.size, file.sha256 or file.git]
        whole = known["files"].get(file.path) == entry and place.is_file()
        if not whole or place.stat().st_size != file.size:
            _fetch_file(name, commit, file, target)
            known["files"][file.path] = entry
            target.mkdir(parents=True, exist_ok=True)
            write_json(target / "partial.json", known)
        done += file.size
    progress(done, total)
    write_json(target / COMPLETE, {"name": str(name), **known})
    (target / "partial.json").unlink(missing_ok=True)
    return target


def _api() -> Any:
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise UserError(
            'data of the hub need the package huggingface_hub; pip install "glassbox-lm[hub]"'
        ) from None
    # read here, since the library reads it when it is first imported
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)


def _fetch_file(name: HubName, commit: str, file: HubFile, target: Path) -> None:
    from huggingface_hub import hf_hub_download

    for attempt in range(2):
        try:
            found = hf_hub_download(
                name.repo,
                file.path,
                repo_type="dataset",
                revision=commit,
                local_dir=target,
                endpoint=os.environ.get("HF_ENDPOINT") or None,
                force_download=attempt > 0,
                tqdm_class=_silent(),
            )
        except Exception as error:  # the library's and its HTTP client's own classes
            raise _unreachable(name, error) from None
        if file.matches(Path(found)):
            return
        Path(found).unlink()
    raise UserError(
        f"'{file.path}' of {name} has another checksum than the hub names, twice; the file was "
        "removed: try again later, or without the mirror in HF_ENDPOINT"
    )


def _silent() -> Any:
    from huggingface_hub.utils.tqdm import tqdm

    class Silent(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})

    return Silent


def _unreachable(name: HubName, error: Exception) -> UserError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")[:300]
    return UserError(
        f"{name} cannot be fetched: {reason}; check the name and the network (HF_ENDPOINT names a "
        "mirror, HF_TOKEN a key for sets behind a gate), then run the same command again"
    )


def _find_files(api: Any, name: HubName) -> tuple[str, list[HubFile]]:
    """The revision, and the files of the split in it."""
    try:
        commit = str(api.dataset_info(name.repo).sha)
        files = _tree(api, name.repo, commit)
        chosen = choose_files(name, files, _declared(api, name, commit, files))
        if not chosen:  # a set that is a program: the hub keeps a copy in Parquet
            revision = api.dataset_info(name.repo, revision=_CONVERTED).sha
            chosen = choose_files(name, _tree(api, name.repo, revision), [])
            commit = str(revision)
    except UserError:
        raise
    except Exception as error:
        raise _unreachable(name, error) from None
    if not chosen:
        seen = sorted({Path(file.path).suffix or file.path for file in files})
        raise UserError(
            f"{name}: no file of that split that can be read (endings there: {', '.join(seen[:12])}); "
            "name another split or folder, hf:owner/name/folder:split"
        )
    return commit, chosen


def _tree(api: Any, repo: str, revision: str) -> list[HubFile]:
    entries = api.list_repo_tree(repo, recursive=True, revision=revision, repo_type="dataset")
    return [
        HubFile(entry.path, entry.size, getattr(entry.lfs, "sha256", "") or "", entry.blob_id or "")
        for entry in entries
        if hasattr(entry, "size")
    ]


def _declared(api: Any, name: HubName, commit: str, files: Sequence[HubFile]) -> list[str]:
    """The patterns that the set's card names for the split; none where it names none."""
    if not any(file.path == "README.md" and file.size < 1 << 22 for file in files):
        return []
    card = Path(api.hf_hub_download(name.repo, "README.md", repo_type="dataset", revision=commit))
    return card_patterns(card.read_text(encoding="utf-8", errors="replace"), name)


def card_patterns(card: str, name: HubName) -> list[str]:
    """What the header of a card says of a configuration's files for a split.

    >>> card = "---\\nconfigs:\\n- config_name: a\\n  data_files:\\n  - {split: train, path: a/*}\\n---"
    >>> card_patterns(card, HubName("o/n", "", "train"))
    ['a/*']
    """
    head = re.match(r"---\r?\n(.*?)\r?\n---", card, re.DOTALL)
    try:
        configs = (yaml.safe_load(head[1]) or {}).get("configs") if head else None
    except (yaml.YAMLError, AttributeError):
        return []
    if not isinstance(configs, list):
        return []
    entries = [entry for entry in configs if isinstance(entry, dict)]
    named = [entry for entry in entries if entry.get("config_name") == name.folder]
    if name.folder and not named:
        return []
    marked = [entry for entry in entries if entry.get("default")]
    chosen = (named or marked or entries or [{}])[0].get("data_files")
    if isinstance(chosen, str):
        chosen = [{"split": "train", "path": chosen}]
    patterns: list[str] = []
    for part in chosen if isinstance(chosen, list) else []:
        if isinstance(part, dict) and part.get("split") == name.split:
            path = part.get("path")
            patterns += [path] if isinstance(path, str) else list(path or [])
    return patterns


def choose_files(name: HubName, files: Sequence[HubFile], patterns: Sequence[str]) -> list[HubFile]:
    """The files of a split, sorted: those that the card's patterns name, or by their own names.

    By names: files under the folder, of one format (Parquet before JSON before text), whose path has the
    split as a word; all of them as `train` where no path has any split as a word.
    """
    if patterns:
        return sorted(
            (f for f in files if any(_matches(f.path, pattern) for pattern in patterns)),
            key=lambda file: file.path,
        )
    exact = [f for f in files if f.path == name.folder]
    if exact:
        return exact
    held = [f for f in files if f.path.startswith(f"{name.folder}/" if name.folder else "")]
    kinds: dict[str, list[HubFile]] = {}
    for file in held:
        kind = "json" if file.path.endswith(".json") else file_format(Path(file.path))
        if kind in _ORDER and not Path(file.path).name.lower().startswith(
            ("readme", "license", ".")
        ):
            kinds.setdefault(str(kind), []).append(file)
    for kind in _ORDER:
        if kind in kinds:
            return sorted(_of_split(name, kinds[kind]), key=lambda file: file.path)
    return []


def _matches(path: str, pattern: str) -> bool:
    if pattern.endswith("/**"):
        return path.startswith(pattern[:-2])
    return fnmatch.fnmatchcase(path, pattern.replace("**/", "*"))


def _of_split(name: HubName, files: Sequence[HubFile]) -> list[HubFile]:
    inside = len(name.folder)
    wanted = [f for f in files if _has_word(f.path[inside:], name.split)]
    if wanted or name.split != "train":
        return wanted
    others = {word for words in _SPLIT_WORDS.values() for word in words}
    named = any(_has_word(f.path[inside:], word) for f in files for word in others)
    return [] if named else list(files)


def _has_word(path: str, split: str) -> bool:
    words = _SPLIT_WORDS.get(split, (split,))
    return any(re.search(rf"(?<![a-zA-Z]){re.escape(w)}(?![a-zA-Z_])", path) for w in words)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("files"), dict) else {}
