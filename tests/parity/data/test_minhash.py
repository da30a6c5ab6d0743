"""MinHash beside datasketch: the same sets, the same bands, the same curve."""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter, defaultdict
from pathlib import Path

import datasketch
import numpy as np
import pytest

from glassbox.data.curation.clusters import UnionFind
from glassbox.data.curation.minhash import (
    MinHashSpec,
    NearDuplicates,
    estimate,
    find_probability,
    jaccard,
    minima,
)
from glassbox.data.curation.shingles import plain_words
from glassbox.data.curation.step import Record

TRIALS, SIZE, PERMUTATIONS = 250, 150, 128


def pairs(similarity: float, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    shared = round(2 * SIZE * similarity / (1 + similarity))
    found = []
    for _ in range(TRIALS):
        values = rng.integers(0, 2**63, 2 * SIZE - shared).astype(np.uint64)
        found.append((np.sort(values[:SIZE]), np.sort(values[SIZE - shared :])))
    return found


def sketch_of(values: np.ndarray) -> datasketch.MinHash:
    sketch = datasketch.MinHash(num_perm=PERMUTATIONS)
    sketch.update_batch([value.tobytes() for value in values])
    return sketch


@pytest.mark.parametrize("similarity", [0.3, 0.7, 0.85])
def test_estimates_and_candidates_agree_in_distribution(similarity: float) -> None:
    """Two unbiased estimators over 250 pairs: means within 5 standard errors of their difference,
    deviations within a fifth (a sample deviation of 250 has a relative error of 4.5%), and
    shares of pairs found by the same bands within 5 standard errors."""
    step = MinHashSpec(permutations=PERMUTATIONS).build()
    assert isinstance(step, NearDuplicates)
    ours, theirs, our_hits, their_hits = [], [], 0, 0
    for one, other in pairs(similarity, 7):
        small = minima(one, PERMUTATIONS), minima(other, PERMUTATIONS)
        sketches = sketch_of(one), sketch_of(other)
        ours.append(estimate(*small))
        theirs.append(sketches[0].jaccard(sketches[1]))
        our_hits += bool((step.band_keys(small[0]) == step.band_keys(small[1])).any())
        index = datasketch.MinHashLSH(num_perm=PERMUTATIONS, params=(step.num_bands, step.rows))
        index.insert("one", sketches[0])
        their_hits += bool(index.query(sketches[1]))
    true = jaccard(one, other)
    error = (2 * true * (1 - true) / PERMUTATIONS / TRIALS) ** 0.5
    assert abs(np.mean(ours) - np.mean(theirs)) < 5 * error
    assert np.std(ours) == pytest.approx(np.std(theirs), rel=0.2)
    chance = find_probability(true, step.num_bands, step.rows)
    spread = (2 * chance * (1 - chance) / TRIALS) ** 0.5
    assert abs(our_hits - their_hits) / TRIALS < 5 * spread + 2 / TRIALS


def test_structured_values_are_estimated_as_random_ones_are() -> None:
    """Shingles of a running text are hashed first, so neighbouring words are no harder than noise."""
    words = [f"{i:05d}" for i in range(700)]
    step = MinHashSpec(permutations=1024).build()
    assert isinstance(step, NearDuplicates)
    one, other = (step.shingles(" ".join(part)) for part in (words[:500], words[100:600]))
    found = estimate(minima(one, 1024), minima(other, 1024))
    true = jaccard(one, other)
    assert true == pytest.approx(396 / 596)
    assert abs(found - true) < 4 * (true * (1 - true) / 1024) ** 0.5


def edited(words: list[str], share: float, rng: random.Random, vocabulary: list[str]) -> str:
    """A text with this share of its words replaced, removed or followed by another."""
    words = list(words)
    for place in rng.sample(range(len(words)), round(share * len(words))):
        other = rng.choice(vocabulary)
        words[place] = rng.choice([other, "", f"{words[place]} {other}"])
    return " ".join(words)


def string_shingles(text: str) -> set[str]:
    words = plain_words(text)
    size = min(5, len(words))
    return {" ".join(words[i : i + size]) for i in range(len(words) - size + 1)}


@pytest.mark.realdata
@pytest.mark.skipif("GLASSBOX_TESTDATA" not in os.environ, reason="GLASSBOX_TESTDATA is not set")
def test_known_edits_of_encyclopedia_and_web_text() -> None:
    """Labels are exact Jaccard similarities of sets of strings, which know nothing of hashes.

    Recall of pairs at 0.8 and of documents to drop at least 95% (theory: 98% exactly at 0.8, more
    above); no document is dropped that has no like.
    """
    folder = Path(os.environ["GLASSBOX_TESTDATA"]) / "llama-factory"
    texts = (folder / "wiki_demo.txt").read_text(encoding="utf-8").splitlines()
    rows = (folder / "c4_demo.jsonl").read_text(encoding="utf-8").splitlines()
    texts += [json.loads(row)["text"] for row in rows]
    rng = random.Random(11)
    documents = [re.findall(r"\S+", text)[:400] for text in texts if len(text) > 200]
    documents = rng.sample(documents, 150)
    vocabulary = sorted({word for words in documents for word in words})
    shares = (0.0, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1)
    texts = [edited(words, share, rng, vocabulary) for words in documents for share in shares]
    rng.shuffle(texts)

    sets = [string_shingles(text) for text in texts]
    holders: dict[str, list[int]] = defaultdict(list)
    union, near = UnionFind(len(texts)), []
    for later, shingles in enumerate(sets):
        shared = Counter(earlier for shingle in shingles for earlier in holders[shingle])
        for shingle in shingles:
            holders[shingle].append(later)
        for earlier, count in shared.items():
            similarity = count / (len(shingles) + len(sets[earlier]) - count)
            if similarity >= 0.8:
                union.join(earlier, later)
                near.append((earlier, later, similarity))
    step = MinHashSpec(threshold=0.8).build()
    assert isinstance(step, NearDuplicates)
    records = [Record(text, str(number)) for number, text in enumerate(texts)]
    signatures = step.signatures(records)
    keys = [np.frombuffer(s, "<u8", step.num_bands, offset=4) for s in signatures]
    for least, most in ((0.8, 1.0), (0.8, 0.83)):
        found = [bool((keys[i] == keys[j]).any()) for i, j, s in near if least <= s <= most]
        assert len(found) > 100
        assert np.mean(found) >= 0.95
    dropped = {
        int(name)
        for name in step.decide([(r.id, s) for r, s in zip(records, signatures, strict=True)])
    }
    expected = {i for i in range(len(texts)) if union.find(i) != i}
    assert dropped <= expected
    assert len(dropped) >= 0.95 * len(expected)
