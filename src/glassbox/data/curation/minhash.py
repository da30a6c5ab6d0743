"""Near-duplicates by MinHash and locality-sensitive hashing, each candidate verified.

The Jaccard similarity of two documents is that of their sets of shingles, J = |A and B| / |A or B|.
For a random permutation of all shingles, the smallest of A equals the smallest of B with
probability J; with k permutations the share of equal smallest ones estimates J with variance J (1 - J) / k.
Bands of r permutations that must all be equal, b of them, find a pair with probability
1 - (1 - J^r)^b: the S-curve. What it finds is then verified with the sets themselves, so that
it can miss a pair and never makes one up.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from glassbox.data.curation.clusters import Matches, all_buckets
from glassbox.data.curation.shingles import Hashes, Places, mix, shingle_set, shingle_sets
from glassbox.data.curation.step import CorpusStep, Dropped, Record, StepSpec

Minima = npt.NDArray[np.uint32]

_TABLE = 1 << 17  # images at once: half a megabyte, which the second cache holds
_SETS_BYTES = 64 << 20
_HEAD = struct.Struct("<I")


class MinHashSpec(StepSpec):
    """Drop documents that are nearly the same as an earlier one."""

    kind: Literal["near_duplicates"] = "near_duplicates"
    threshold: float = Field(
        0.8, gt=0, le=1, description="minimum Jaccard similarity of duplicates"
    )
    unit: Literal["words", "characters"] = "words"
    shingle: int = Field(5, ge=1, le=64, description="units per shingle")
    permutations: int = Field(128, ge=8, le=4096)
    recall: float = Field(
        0.98,
        gt=0,
        lt=1,
        description="minimum recall of pairs at the threshold, which determines the bands",
    )
    seed: int = Field(0, ge=0)

    def build(self) -> CorpusStep:
        """The step. Raises ValueError where so few permutations cannot reach the recall."""
        num_bands, rows = bands_for(self.threshold, self.permutations, self.recall)
        return NearDuplicates(
            self.threshold, self.unit, self.shingle, self.permutations, num_bands, rows, self.seed
        )


def find_probability(jaccard: float, num_bands: int, rows: int) -> float:
    """How likely bands find a pair of similarity J: 1 - (1 - J^r)^b.

    Source: Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4.2.

    >>> round(find_probability(0.8, 21, 6), 4)
    0.9983
    """
    return float(1 - (1 - jaccard**rows) ** num_bands)


def bands_for(threshold: float, permutations: int, recall: float) -> tuple[int, int]:
    """(bands, rows): as many rows a band as still find the share `recall` of pairs at the threshold.

    More rows find fewer pairs below the threshold, which only cost time, since pairs are verified.

    >>> bands_for(0.8, 128, 0.98)
    (18, 7)
    """
    for rows in range(permutations, 0, -1):
        if find_probability(threshold, permutations // rows, rows) >= recall:
            return permutations // rows, rows
    raise ValueError(
        f"permutations = {permutations} cannot find {recall:.0%} of pairs at threshold = "
        f"{threshold}; raise permutations or lower recall"
    )


@lru_cache(maxsize=8)
def permutations_of(count: int, seed: int) -> Minima:
    """The odd factors a of `count` permutations x -> a x modulo 2^32.

    An odd factor has an inverse modulo 2^32, so each is one to one, and uint32 computes it exactly:
    no two images that differ become equal. The numbers that they permute are mixed already.
    """
    rng = np.random.default_rng(seed)
    return rng.integers(0, 1 << 32, count, dtype=np.uint32) | np.uint32(1)


def plain_minima(shingles: Sequence[int], count: int, seed: int = 0) -> list[int]:
    """For each permutation the smallest image of the upper halves of the hashes."""
    return [
        min((int(a) * (h >> 32) % (1 << 32) for h in shingles), default=2**32 - 1)
        for a in permutations_of(count, seed)
    ]


def minima(shingles: Hashes, count: int, seed: int = 0) -> Minima:
    """`plain_minima`, fast; see `many_minima`."""
    if not len(shingles):
        return np.full(count, 0xFFFFFFFF, np.uint32)
    return many_minima(shingles, np.zeros(1, np.int64), count, seed)[0]


def many_minima(shingles: Hashes, starts: Places, count: int, seed: int = 0) -> Minima:
    """[sets, count]: the `plain_minima` of many sets, end to end, none of them empty.

    Some permutations of all shingles at once, about 25 ns a shingle for 128 of them.
    Source: Broder (1997), On the resemblance and containment of documents. Tested against: the plain
    version, and theory: mean J and variance J (1 - J) / k.
    """
    factors = permutations_of(count, seed)[:, None]
    images = (shingles >> np.uint64(32)).astype(np.uint32)
    smallest = np.empty((count, len(starts)), np.uint32)
    together = min(count, max(1, _TABLE // len(images)))
    table = np.empty((together, len(images)), np.uint32)
    for low in range(0, count, together):
        part = table[: count - low]
        np.multiply(images, factors[low : low + together], out=part)
        np.minimum.reduceat(part, starts, axis=1, out=smallest[low : low + together])
    return np.ascontiguousarray(smallest.T)


def estimate(one: Minima, other: Minima) -> float:
    """The share of permutations whose smallest images are equal, an unbiased estimate of J."""
    return float(np.mean(one == other))


def jaccard(one: Hashes, other: Hashes) -> float:
    """|A and B| / |A or B| of two sorted sets without repetition; 0 for two empty ones.

    >>> jaccard(np.array([1, 2, 3], np.uint64), np.array([2, 3, 4], np.uint64))
    0.5
    """
    total = len(one) + len(other)
    if not total:
        return 0.0
    both = np.concatenate([one, other])
    both.sort(kind="stable")  # which merges two sorted halves
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / (total - shared)


@dataclass(frozen=True)
class NearDuplicates:
    """The step of a MinHashSpec.

    A signature holds a 64-bit key for each band, and behind them the document's set of shingle
    hashes, 8 bytes each: on disk about as much as the text. `decide` walks through the signatures
    twice: for the keys of all documents (8 bytes a band: 144 by default), and then for the sets
    of those only that share a key with another. Of these it holds 64 MB in memory and the rest in a
    temporary file, so that memory grows by some 300 bytes a document, however long documents are.
    """

    threshold: float = 0.8
    unit: Literal["words", "characters"] = "words"
    shingle: int = 5
    permutations: int = 128
    num_bands: int = 18
    rows: int = 7
    seed: int = 0

    def shingles(self, text: str) -> Hashes:
        """The set that documents are compared by."""
        return shingle_set(text, self.shingle, self.unit)

    def band_keys(self, smallest: Minima) -> Hashes:
        """[..., bands]: a hash of each band's minima; smallest: [..., permutations]."""
        bands = smallest[..., : self.num_bands * self.rows]
        bands = bands.reshape(*smallest.shape[:-1], self.num_bands, self.rows)
        odd = permutations_of(2 * self.rows, self.seed).view("<u8") | np.uint64(1)
        return mix((bands * odd).sum(axis=-1, dtype=np.uint64))

    def signature(self, record: Record) -> bytes:
        """Keys and set; of a document without words, nothing."""
        return self.signatures([record])[0]

    def signatures(self, records: Sequence[Record]) -> list[bytes]:
        """`signature` of each record, several times as fast as one by one."""
        texts = [record.text for record in records]
        shingles, edges = shingle_sets(texts, self.shingle, self.unit)
        filled = edges[:-1][edges[:-1] < edges[1:]]
        if not len(filled):
            return [b""] * len(texts)
        keys = iter(self.band_keys(many_minima(shingles, filled, self.permutations, self.seed)))
        head = _HEAD.pack(self.num_bands)
        return [
            head + next(keys).tobytes() + shingles[low:high].tobytes() if low < high else b""
            for low, high in pairwise(edges.tolist())
        ]

    def decide(self, signatures: Iterable[tuple[str, bytes]]) -> Mapping[str, Dropped]:
        """All documents of each group of alike ones but the first."""
        ids: list[str] = []
        held = bytearray()
        start = _HEAD.size + 8 * self.num_bands
        for record_id, signature in signatures:
            if signature:
                ids.append(record_id)
                held += signature[_HEAD.size : start]
        keys = np.frombuffer(held, "<u8").reshape(len(ids), self.num_bands)
        groups = all_buckets(keys[:, band] for band in range(self.num_bands))
        wanted = {row for group in groups for row in group}
        with _Sets() as sets:
            filled = (signature for _, signature in signatures if signature)
            for row, signature in enumerate(filled):
                if row in wanted:
                    sets.add(row, signature[start:])

            def compare(one: int, other: int) -> str | None:
                # the smaller set has to hold enough of the larger for J to reach the threshold
                sizes = sets.size(one), sets.size(other)
                if min(sizes) < self.threshold * max(sizes):
                    return None
                found = jaccard(sets[one], sets[other])
                return f"Jaccard {found:.2f}" if found >= self.threshold else None

            matches = Matches(len(ids), compare)
            for group in groups:
                matches.add_bucket(group)
        return matches.dropped(ids, "near duplicate")


class _Sets:
    """Sets of hashes by row: the first in memory, all others in a file that is gone in the end."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._places: dict[int, tuple[int, int]] = {}
        self._end = 0

    def __enter__(self) -> _Sets:
        self._file = tempfile.TemporaryFile()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, row: int, content: bytes) -> None:
        """Keep a set; all are kept before one is read."""
        if self._end < _SETS_BYTES:
            self._held += content
        else:
            self._file.write(content)
        self._places[row] = self._end, len(content)
        self._end += len(content)

    def size(self, row: int) -> int:
        """How many bytes a set has."""
        return self._places[row][1]

    def __getitem__(self, row: int) -> Hashes:
        begin, length = self._places[row]
        held = len(self._held)
        if begin < held:
            return np.frombuffer(self._held, "<u8", length // 8, begin)
        self._file.seek(begin - held)
        return np.frombuffer(self._file.read(length), "<u8")
