"""Contamination: which documents of a task stand in the shards that a model was trained on.

A token of a document is contaminated if it lies in a run of n tokens (10) that a training document
holds too. A document's overlap is the share of contaminated tokens; below 20% it counts as clean,
from 80% on as contaminated. Source: Touvron et al., Llama 2 (arXiv:2307.09288), appendix A.6,
without its skipped tokens.

The n-grams of the task are a table of 64-bit hashes; the shards are read once, block by block, in
bounded memory. Two different n-grams are taken for one with a probability of about
(n-grams of the tasks) x (tokens of the shards) / 2^64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glassbox.core.errors import UserError
from glassbox.core.progress import ProgressLine
from glassbox.data.shards import Shard, read_shard
from glassbox.data.token_files import is_shard
from glassbox.tokenizers import Tokenizer

NGRAM = 10
CLEAN_BELOW, CONTAMINATED_FROM = 0.2, 0.8
BLOCK = 1 << 20
AUTO = "auto"
_FILTER_BITS = 22

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class TrainingShards:
    """Shards that a model was trained on, by their paths, as ids of its tokenizer."""

    shards: Mapping[str, Shard]
    tokenizer: Tokenizer
    ngram: int = NGRAM

    def overlaps(
        self, docs: Sequence[Mapping[str, Any]], *, show_progress: bool = False
    ) -> list[float | None]:
        """Each document's share of contaminated tokens; None where no text of it has n tokens.

        Texts of a document are all strings in it, with and without a space before them, since a
        tokenizer may join it to the first word: the larger share counts.
        """
        texts = [self._variants(doc) for doc in docs]
        hashes = [
            ngram_hashes(np.asarray(ids), self.ngram)
            for variants in texts
            for pair in variants
            for ids in pair
        ]
        wanted = np.unique(np.concatenate([np.empty(0, np.uint64), *hashes]))
        found = wanted[self._seen(wanted, show_progress)]
        shares: list[float | None] = []
        for variants in texts:
            pairs = [[covered(ids, found, self.ngram) for ids in pair] for pair in variants]
            best = [max(pair, key=lambda one: one[0] / one[1]) for pair in pairs]
            total = sum(length for _, length in best)
            shares.append(sum(count for count, _ in best) / total if total else None)
        return shares

    def overlaps_of(
        self, docs: Mapping[str, Sequence[Mapping[str, Any]]], *, show_progress: bool = False
    ) -> dict[str, list[float | None]]:
        """`overlaps` of several tasks' documents by name, for which the shards are read once."""
        together = [doc for some in docs.values() for doc in some]
        shares = iter(self.overlaps(together, show_progress=show_progress))
        return {name: [next(shares) for _ in some] for name, some in docs.items()}

    def _variants(self, doc: Mapping[str, Any]) -> list[list[list[int]]]:
        """Ids of each text of a document in both forms, of those that are long enough."""
        found = []
        for text in dict.fromkeys(strings(doc)):
            both = [self.tokenizer.encode(text.strip()), self.tokenizer.encode(" " + text.strip())]
            long = [ids for ids in both if len(ids) >= self.ngram]
            if long:
                found.append(long)
        return found

    def _seen(self, wanted: Hashes, show_progress: bool) -> NDArray[np.bool_]:
        """Of sorted hashes, which ones an n-gram of the shards has."""
        seen = np.zeros(len(wanted), dtype=np.bool_)
        if not len(wanted):
            return seen
        shift = np.uint64(64 - _FILTER_BITS)
        maybe = np.zeros(1 << _FILTER_BITS, dtype=np.bool_)
        maybe[wanted >> shift] = True
        total = sum(shard.num_tokens for shard in self.shards.values())
        with ProgressLine("contamination", max(1, total), enabled=show_progress) as line:
            done = 0
            for shard in self.shards.values():
                for hashes, read in shard_hashes(shard, self.ngram):
                    hashes = hashes[maybe[hashes >> shift]]
                    seen[np.searchsorted(wanted, hashes[_among(hashes, wanted)])] = True
                    line.update(done + read, f"{done + read:,} tokens")
                done += shard.num_tokens
        return seen


def ngram_hashes(ids: NDArray[Any], ngram: int) -> Hashes:
    """A 64-bit hash of each n neighbouring ids; none for fewer than n.

    sum of mix(id[i + j]) * p^(n - 1 - j) modulo 2^64, mixed again, where mix is SplitMix64's.
    """
    count = len(ids) - ngram + 1
    if count < 1:
        return np.empty(0, np.uint64)
    mixed = _mix(ids.astype(np.uint64))
    total = np.zeros(count, np.uint64)
    for place in range(ngram):
        total *= np.uint64(0x9E3779B97F4A7C15)
        total += mixed[place : place + count]
    return _mix(total)


def _mix(values: Hashes) -> Hashes:
    """SplitMix64's finalizer: every bit of the result depends on every bit of the value."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def shard_hashes(shard: Shard, ngram: int, block: int = BLOCK) -> Iterator[tuple[Hashes, int]]:
    """The hashes of all n-grams within documents, a block at a time, and the tokens read so far."""
    for start in range(0, shard.num_tokens, block):
        end = min(start + block, shard.num_tokens)
        hashes = ngram_hashes(shard.ids[start : min(end + ngram - 1, shard.num_tokens)], ngram)
        inside = np.ones(len(hashes), dtype=np.bool_)
        first = np.searchsorted(shard.offsets, start, side="right")
        last = np.searchsorted(shard.offsets, end + ngram - 1, side="left")
        borders = np.asarray(shard.offsets[first:last]) - start
        for back in range(1, ngram):  # an n-gram that begins before a border and ends behind it
            places = borders - back
            inside[places[(places >= 0) & (places < len(hashes))]] = False
        yield hashes[inside], end


def covered(ids: Sequence[int], found: Hashes, ngram: int) -> tuple[int, int]:
    """How many ids lie in an n-gram whose hash is among sorted ones, and how many there are."""
    marks = np.zeros(len(ids), dtype=np.bool_)
    for place in np.flatnonzero(_among(ngram_hashes(np.asarray(ids), ngram), found)):
        marks[place : place + ngram] = True
    return int(marks.sum()), len(ids)


def _among(hashes: Hashes, ordered: Hashes) -> NDArray[np.bool_]:
    """Which hashes are among sorted ones: by bisection, without sorting the table again."""
    if not len(ordered):
        return np.zeros(len(hashes), dtype=np.bool_)
    places = np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)
    return np.asarray(ordered[places] == hashes)


def strings(value: Any) -> Iterator[str]:
    """All texts in a document: strings in it, its lists and its mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from strings(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from strings(one)


def is_clean(share: float | None) -> bool:
    """Whether a document counts as clean; one that is too short to be judged does not."""
    return share is not None and share < CLEAN_BELOW


def summary(shares: Sequence[float | None]) -> dict[str, Any]:
    """Counts of a task's documents by overlap, and the mean overlap of those that were judged."""
    judged = [share for share in shares if share is not None]
    return {
        "judged": len(judged),
        "too_short": len(shares) - len(judged),
        "clean": sum(map(is_clean, judged)),
        "contaminated": sum(share >= CONTAMINATED_FROM for share in judged),
        "mean_overlap": float(np.mean(judged)) if judged else None,
    }


def open_training_shards(
    names: Sequence[str], model_folder: Path | None, tokenizer: Tokenizer
) -> TrainingShards:
    """The shards of names: `auto` (of the run that the model lies in), runs, or paths of shards.

    Raises UserError for a name without a shard, and for ids of another tokenizer.
    """
    shards = {}
    for name in names:
        if name == AUTO:
            path = None if model_folder is None else _near(model_folder)
        else:
            places = (Path(name), Path(name) / "train", Path(name) / "data" / "train")
            path = next((place for place in places if is_shard(place)), None)
        if path is None:
            where = model_folder if name == AUTO else name
            raise UserError(
                f"--contamination {name}: no training shard at '{where}'; give a run with "
                "data/train.bin, or the path of a shard"
            )
        shards[str(path)] = read_shard(path, fingerprint=tokenizer.fingerprint)
    return TrainingShards(shards, tokenizer)


def _near(folder: Path) -> Path | None:
    """The training shard of the run that a checkpoint lies in: RUN/checkpoints/step-N."""
    for parent in (folder, *folder.parents[:2]):
        if is_shard(parent / "data" / "train"):
            return parent / "data" / "train"
    return None
