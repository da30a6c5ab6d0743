"""Near-duplicates by SimHash: 64 bits a document, alike where few bits differ."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from glassbox.data.curation.clusters import Matches, buckets
from glassbox.data.curation.shingles import (
    Hashes,
    character_hashes,
    shingle_hashes,
    word_hashes,
)
from glassbox.data.curation.step import CorpusStep, Dropped, Record, StepSpec

BITS = 64


class SimHashSpec(StepSpec):
    """Drop documents whose SimHash differs from an earlier one's in few bits."""

    kind: Literal["simhash_duplicates"] = "simhash_duplicates"
    radius: int = Field(3, ge=0, le=15, description="maximum number of differing bits, of 64")
    unit: Literal["words", "characters"] = "words"
    shingle: int = Field(3, ge=1, le=64, description="units per feature")
    min_features: int = Field(
        16, ge=1, description="minimum number of features; shorter documents are kept"
    )

    def build(self) -> CorpusStep:
        """Build the step."""
        return SimHashDuplicates(self.radius, self.unit, self.shingle, self.min_features)


def plain_simhash(features: list[int]) -> int:
    """Bit i is one where more than half of the features' hashes have a one there."""
    bits = [2 * sum(f >> i & 1 for f in features) > len(features) for i in range(BITS)]
    return sum(1 << i for i, bit in enumerate(bits) if bit)


def simhash(features: Hashes) -> int:
    """`plain_simhash` by one sum over a table of bits.

    Two documents' bits differ with a probability that grows with the angle between their features.
    Source: Charikar (2002), Similarity estimation techniques from rounding algorithms.
    Tested against: the plain version.
    """
    ones = np.zeros(BITS, np.int64)
    for start in range(0, len(features), 255):  # so many ones a byte can count
        part = features[start : start + 255].astype("<u8").view(np.uint8).reshape(-1, 8)
        ones += np.unpackbits(part, axis=1, bitorder="little").sum(axis=0, dtype=np.uint8)
    packed = np.packbits(2 * ones > len(features), bitorder="little")
    return int(packed.view("<u8")[0])


def close_pairs(fingerprints: Hashes, radius: int) -> Iterator[tuple[int, int]]:
    """All pairs (i < j) of fingerprints that differ in at most `radius` bits; some come twice.

    The 64 bits are cut into radius + 1 blocks. If at most `radius` bits differ, one block at least is
    the same in both, so it is enough to sort by each block and to compare those that share one: no
    pair is missed. Source: Manku, Jain and Das Sarma (2007), Detecting near-duplicates for web crawling.

    >>> list(close_pairs(np.array([0b0000, 0b0111, 0b1111], np.uint64), 1))
    [(1, 2)]
    """
    borders = np.linspace(0, BITS, radius + 2).astype(int).tolist()
    for low, high in itertools.pairwise(borders):
        width = high - low
        mask = np.uint64((1 << width) - 1)
        block = (fingerprints >> np.uint64(low)) & mask
        for rows in buckets(block):
            values = fingerprints[rows]
            for place in range(len(rows) - 1):
                near = count_ones(values[place + 1 :] ^ values[place]) <= radius
                for other in rows[place + 1 :][near].tolist():
                    yield int(rows[place]), other


def count_ones(values: Hashes) -> Hashes:
    """How many bits of each value are one.

    >>> count_ones(np.array([0, 255, 2**64 - 1], np.uint64)).tolist()
    [0, 8, 64]
    """
    halves = values - ((values >> np.uint64(1)) & np.uint64(0x5555555555555555))
    pairs = np.uint64(0x3333333333333333)
    quarters = (halves & pairs) + ((halves >> np.uint64(2)) & pairs)
    eighths = (quarters + (quarters >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (eighths * np.uint64(0x0101010101010101)) >> np.uint64(56)


@dataclass(frozen=True)
class SimHashDuplicates:
    """The step of a SimHashSpec. A signature is 8 bytes; `decide` holds little more a document."""

    radius: int = 3
    unit: Literal["words", "characters"] = "words"
    shingle: int = 3
    min_features: int = 16

    def signature(self, record: Record) -> bytes:
        """The fingerprint; of a short document, nothing."""
        units = word_hashes(record.text) if self.unit == "words" else character_hashes(record.text)
        features = shingle_hashes(units, self.shingle)
        if len(features) < self.min_features:
            return b""
        return simhash(features).to_bytes(8, "little")

    def decide(self, signatures: Iterable[tuple[str, bytes]]) -> Mapping[str, Dropped]:
        """All documents of each group of alike ones but the first."""
        ids: list[str] = []
        held: list[bytes] = []
        for record_id, signature in signatures:
            if signature:
                ids.append(record_id)
                held.append(signature)
        fingerprints = np.frombuffer(b"".join(held), "<u8").astype(np.uint64)
        # equal fingerprints are joined first: the index then holds each once
        unique, first, inverse = np.unique(fingerprints, return_index=True, return_inverse=True)

        def compare(one: int, other: int) -> str:
            return f"{int(fingerprints[one] ^ fingerprints[other]).bit_count()} bits differ"

        matches = Matches(len(ids), compare)
        for row, place in enumerate(inverse.reshape(-1).tolist()):
            if first[place] != row:
                matches.add_bucket([int(first[place]), row])
        for one, other in close_pairs(unique, self.radius):
            matches.add_bucket(sorted((int(first[one]), int(first[other]))))
        return matches.dropped(ids, "near duplicate")
