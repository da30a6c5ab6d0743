"""MinHash beside datasketch: the same sets, the same bands, the same curve."""

from __future__ import annotations

import datasketch
import numpy as np
import pytest

from glassbox.data.curation.minhash import (
    MinHashSpec,
    NearDuplicates,
    estimate,
    find_probability,
    jaccard,
    minima,
)

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
