"""Deduplication: fast versions against plain ones, estimates against theory, known edits found."""

from __future__ import annotations

import errno
import io
import itertools
import random
import tempfile
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.core.errors import explain_system
from glassbox.data.curation import minhash
from glassbox.data.curation import shingles as fast
from glassbox.data.curation.clusters import Matches, UnionFind, buckets
from glassbox.data.curation.exact import ExactSpec
from glassbox.data.curation.minhash import (
    MinHashSpec,
    NearDuplicates,
    bands_for,
    estimate,
    find_probability,
    jaccard,
    many_minima,
    minima,
    plain_minima,
)
from glassbox.data.curation.simhash import (
    SimHashSpec,
    close_pairs,
    count_ones,
    plain_simhash,
    simhash,
)
from glassbox.data.curation.step import CorpusStep, Dropped, Record

TEXTS = st.text(max_size=200) | st.text("ab_ ,.\n é好かー\u0301\U00020000", max_size=200)


def dropped(step: CorpusStep, texts: Sequence[str]) -> dict[int, Dropped]:
    pairs = [(f"d:{i}", step.signature(Record(t, f"d:{i}"))) for i, t in enumerate(texts)]
    return {int(name[2:]): verdict for name, verdict in step.decide(pairs).items()}


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_word_hashes_are_those_of_the_plain_version(text: str) -> None:
    words = fast.plain_words(text)
    assert fast.word_hashes(text).tolist() == [fast.plain_word_hash(word) for word in words]


@given(TEXTS, st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_shingles_are_those_of_the_plain_version(text: str, size: int) -> None:
    words = fast.plain_words(text)
    plain = fast.plain_shingles(words, size)
    assert fast.shingle_hashes(fast.word_hashes(text), size).tolist() == plain
    assert fast.shingle_set(text, size, "words").tolist() == sorted(set(plain))
    characters = [c for c in text.casefold() if fast.kind_of(c) != fast.SEPARATOR]
    plain = fast.plain_shingles(characters, size)
    assert fast.shingle_set(text, size, "characters").tolist() == sorted(set(plain))


@given(st.lists(TEXTS, max_size=6), st.integers(1, 7), st.sampled_from(["words", "characters"]))
@settings(max_examples=200, deadline=None)
def test_sets_of_several_texts_are_those_of_each(texts: list[str], size: int, unit: str) -> None:
    hashes, edges = fast.shingle_sets(texts, size, unit)
    assert edges.tolist()[0] == 0
    assert edges.tolist()[-1] == len(hashes)
    for text, (low, high) in zip(texts, itertools.pairwise(edges.tolist()), strict=True):
        units = fast.plain_words(text)
        if unit == "characters":
            units = [c for c in text.casefold() if fast.kind_of(c) != fast.SEPARATOR]
        assert hashes[low:high].tolist() == sorted(set(fast.plain_shingles(units, size)))


def test_characters_that_fold_to_several_are_those_of_the_plain_version() -> None:
    several = [c for c in map(chr, range(0x110000)) if len(c.casefold()) > 1]
    assert len(several) > 100
    texts = ["".join(several), "plain", " ".join(several), "Straße STRASSE", "\ufb03 好\u0130x"]
    hashes, begins = fast.units_of(texts, "words")
    for text, (low, high) in zip(texts, itertools.pairwise(begins.tolist()), strict=True):
        plain = [fast.plain_word_hash(word) for word in fast.plain_words(text)]
        assert hashes[low:high].tolist() == plain


def test_words_longer_than_any_table_and_lone_surrogates() -> None:
    for text in ("x" * 5000 + " y", "a" + " " * 9000 + "b", "\ud800 a", "word " * 3000):
        words = fast.plain_words(text)
        assert fast.word_hashes(text).tolist() == [fast.plain_word_hash(word) for word in words]


def test_words_that_differ_in_the_first_or_last_letter_have_no_hash_in_common() -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(w) for n in (1, 2, 3) for w in itertools.product(letters, repeat=n)]
    hashes = fast.word_hashes(" ".join(words))
    assert len(np.unique(hashes)) == len(words)
    # upper halves are what permutations see; 18,278 random ones of 32 bits share 0.04 pairs
    halves = fast.shingle_hashes(hashes, 1) >> np.uint64(32)
    assert len(np.unique(halves)) >= len(words) - 2


@given(st.lists(st.integers(0, 2**64 - 1), max_size=30))
@settings(max_examples=60, deadline=None)
def test_minima_are_those_of_the_plain_version(hashes: list[int]) -> None:
    found = minima(np.array(hashes, np.uint64), 16)
    assert found.tolist() == plain_minima(hashes, 16)


@pytest.mark.parametrize("count", [5, 8, 200])
def test_minima_of_many_sets_are_those_of_each(count: int) -> None:
    """From all permutations at once down to fewer than are left in the last turn."""
    hashes = np.random.default_rng(0).integers(0, 2**63, 3000).astype(np.uint64)
    starts = [0, 1, 40, 41, 2900]
    parts = itertools.pairwise([*starts, len(hashes)])
    expected = [plain_minima(hashes[low:high].tolist(), count, 3) for low, high in parts]
    assert many_minima(hashes, np.array(starts), count, 3).tolist() == expected
    long = np.tile(hashes, 20)
    whole = plain_minima(hashes.tolist(), count, 3)
    assert minima(long, count, 3).tolist() == whole
    assert minima(np.tile(hashes, 50), count, 3).tolist() == whole


def test_signatures_made_together_are_those_made_one_by_one() -> None:
    rng = random.Random(5)
    texts = ["", "?!", "one", "one two three four", *(" ".join(story(rng, n)) for n in (5, 6, 90))]
    step = MinHashSpec().build()
    assert isinstance(step, NearDuplicates)
    records = [Record(text, str(i)) for i, text in enumerate(texts)]
    together = step.signatures(records)
    assert together == [step.signature(record) for record in records]
    assert [bool(signature) for signature in together] == [False, False, *[True] * 5]
    for record, signature in zip(records[2:], together[2:], strict=True):
        shingles = step.shingles(record.text)
        keys = step.band_keys(minima(shingles, step.permutations, step.seed))
        assert signature[4:] == keys.tobytes() + shingles.tobytes()
    assert step.signatures(records[:2]) == [b"", b""]


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.8])
def test_estimates_have_the_mean_and_variance_of_theory(similarity: float) -> None:
    """400 pairs of random sets; the mean within 4 standard errors, the variance within a quarter.

    A sample variance of 400 has a relative standard error of sqrt(2 / 399) = 7%.
    """
    rng = np.random.default_rng(1)
    size, count = 200, 128
    shared = round(2 * size * similarity / (1 + similarity))
    true = shared / (2 * size - shared)
    found = []
    for trial in range(400):
        values = rng.integers(0, 2**63, 2 * size - shared).astype(np.uint64)
        one, other = values[:size], values[size - shared :]
        assert jaccard(np.sort(one), np.sort(other)) == pytest.approx(true)
        found.append(estimate(minima(one, count, trial), minima(other, count, trial)))
    variance = true * (1 - true) / count
    assert abs(np.mean(found) - true) < 4 * (variance / len(found)) ** 0.5
    assert np.var(found) == pytest.approx(variance, rel=0.25)


@pytest.mark.parametrize("similarity", [0.6, 0.75, 0.85])
def test_bands_find_pairs_as_the_s_curve_says(similarity: float) -> None:
    """600 pairs under ten families of permutations; within 5 standard errors of a share."""
    step = MinHashSpec().build()
    assert isinstance(step, NearDuplicates)
    rng = np.random.default_rng(2)
    size, found, trials = 150, 0, 600
    shared = round(2 * size * similarity / (1 + similarity))
    true = shared / (2 * size - shared)
    for trial in range(trials):
        values = rng.integers(0, 2**63, 2 * size - shared).astype(np.uint64)
        keys = [
            step.band_keys(minima(part, 128, trial % 10))
            for part in (values[:size], values[size - shared :])
        ]
        found += bool((keys[0] == keys[1]).any())
    theory = find_probability(true, step.num_bands, step.rows)
    error = (theory * (1 - theory) / trials) ** 0.5
    assert abs(found / trials - theory) < 5 * error + 1 / trials


@given(st.floats(0.1, 0.99), st.integers(16, 256), st.floats(0.5, 0.99))
def test_bands_reach_the_recall_they_promise(
    threshold: float, permutations: int, recall: float
) -> None:
    try:
        num_bands, rows = bands_for(threshold, permutations, recall)
    except ValueError:
        assert find_probability(threshold, permutations, 1) < recall
        return
    assert num_bands * rows <= permutations
    assert find_probability(threshold, num_bands, rows) >= recall


def story(rng: random.Random, words: int) -> list[str]:
    return ["".join(rng.choices("abcdefghij", k=4)) for _ in range(words)]


def edited(rng: random.Random, words: list[str], edits: int) -> list[str]:
    out = list(words)
    for place in rng.sample(range(len(words)), edits):
        out[place] = "edited" + str(rng.random())
    return out


def test_near_duplicates_are_all_found_and_nothing_else() -> None:
    """Against a comparison of all pairs: precision is 1 by verification, recall at least 95%."""
    rng = random.Random(3)
    texts = []
    for _ in range(60):
        words = story(rng, rng.randint(40, 300))
        texts.append(" ".join(words))
        for _ in range(2):
            edits = rng.randint(0, len(words) // 20)
            texts.append(" ".join(edited(rng, words, edits)))
    rng.shuffle(texts)
    step = MinHashSpec().build()
    assert isinstance(step, NearDuplicates)
    sets = [set(fast.plain_shingles(fast.plain_words(text), 5)) for text in texts]
    union = UnionFind(len(texts))
    for i, j in itertools.combinations(range(len(texts)), 2):
        if len(sets[i] & sets[j]) >= 0.8 * len(sets[i] | sets[j]):
            union.join(i, j)
    expected = {i for i in range(len(texts)) if union.find(i) != i}
    found = dropped(step, texts)
    assert found.keys() <= expected
    assert len(found) >= 0.95 * len(expected)
    assert len(expected) > 30
    assert 180 - len(expected) > 60
    for i, verdict in found.items():
        assert verdict.reason == "near duplicate"
        other = int(verdict.detail.split(";")[0].rpartition("d:")[2])
        measured = len(sets[i] & sets[other]) / len(sets[i] | sets[other])
        assert f"Jaccard {measured:.2f} " in verdict.detail


def test_the_first_of_a_group_stays_and_is_named() -> None:
    rng = random.Random(4)
    words = story(rng, 200)
    unlike = " ".join(story(rng, 200))
    texts = [unlike, " ".join(words), "", " ".join(edited(rng, words, 1)), "", " ".join(words)]
    found = dropped(MinHashSpec().build(), texts)
    assert set(found) == {3, 5}
    assert found[5].detail == "Jaccard 1.00 with d:1"


def test_sets_that_memory_does_not_hold_are_read_from_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = [
        f"{' '.join(f'w{i}' for i in range(60 * n, 60 * n + 60))} {end}"
        for n in range(9)
        for end in "ab"
    ]
    step = MinHashSpec().build()
    assert isinstance(step, NearDuplicates)
    signatures = [(str(i), step.signature(Record(text, str(i)))) for i, text in enumerate(texts)]
    expected = step.decide(signatures)
    assert set(expected) == {str(i) for i in range(1, 18, 2)}
    for limit in (0, 1, 2000):  # all, all but one, some of them in the file
        monkeypatch.setattr(minhash, "_SETS_BYTES", limit)
        assert step.decide(signatures) == expected


def test_a_full_disk_under_the_temporary_file_is_told_as_such(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = MinHashSpec().build()
    text = " ".join(f"w{i}" for i in range(60))
    signatures = [(name, step.signature(Record(text, name))) for name in "ab"]
    monkeypatch.setattr(minhash, "_SETS_BYTES", 0)

    class FullDisk(io.BytesIO):
        def write(self, content: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", FullDisk)
    with pytest.raises(OSError) as caught:
        step.decide(signatures)
    assert "the disk is full" in str(explain_system(caught.value))


def test_few_permutations_are_refused() -> None:
    with pytest.raises(ValueError, match="permutations = 8 cannot find 98%"):
        MinHashSpec(permutations=8, threshold=0.2).build()


def test_exact_duplicates_by_what_counts() -> None:
    texts = ["A cat.", "a  CAT.\n", "a cat", "A cat.", "!!!", "???"]
    assert set(dropped(ExactSpec(ignore="nothing").build(), texts)) == {3}
    assert set(dropped(ExactSpec().build(), texts)) == {1, 3}
    assert set(dropped(ExactSpec(ignore="punctuation").build(), texts)) == {1, 2, 3}
    assert dropped(ExactSpec().build(), texts)[3].detail == "same as d:0"


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_simhash_is_that_of_the_plain_version(features: list[int]) -> None:
    assert simhash(np.array(features, np.uint64)) == plain_simhash(features)


@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=8),
    st.lists(st.sets(st.integers(0, 63), max_size=6), max_size=8),
    st.integers(0, 6),
)
@settings(max_examples=150, deadline=None)
def test_every_close_pair_is_found(seeds: list[int], flips: list[set[int]], radius: int) -> None:
    values = list(seeds)
    for i, places in enumerate(flips):
        values.append(seeds[i % len(seeds)] ^ sum(1 << place for place in places))
    pairs = set(close_pairs(np.array(values, np.uint64), radius))
    assert pairs == {
        (i, j)
        for i, j in itertools.combinations(range(len(values)), 2)
        if (values[i] ^ values[j]).bit_count() <= radius
    }


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1))
def test_ones_are_counted(values: list[int]) -> None:
    assert count_ones(np.array(values, np.uint64)).tolist() == [v.bit_count() for v in values]


def test_simhash_finds_small_edits_and_leaves_short_documents() -> None:
    rng = random.Random(5)
    words = story(rng, 800)
    texts = [
        " ".join(words),
        " ".join(story(rng, 800)),
        " ".join(edited(rng, words, 1)),
        " ".join(words),
        "short text",
        "short text",
    ]
    found = dropped(SimHashSpec(radius=6).build(), texts)
    assert set(found) == {2, 3}
    assert found[3].detail == "0 bits differ with d:0"


@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29))))
def test_sets_are_those_of_a_walk_over_the_graph(count: int, edges: list[tuple[int, int]]) -> None:
    edges = [(a % count, b % count) for a, b in edges]
    union = UnionFind(count)
    for a, b in edges:
        union.join(a, b)
    smallest = list(range(count))
    for _ in range(count):
        for a, b in edges:
            smallest[a] = smallest[b] = min(smallest[a], smallest[b])
    assert [union.find(i) for i in range(count)] == smallest


def test_a_refused_pair_is_compared_once() -> None:
    matches = Matches(2, lambda one, other: None)
    for _ in range(3):
        matches.add_bucket([0, 1])
    assert matches.compared == 1
    assert matches.dropped(["a", "b"], "x") == {}


@given(st.lists(st.integers(0, 5), max_size=30))
def test_buckets_are_rows_of_one_key(keys: list[int]) -> None:
    found = sorted(group.tolist() for group in buckets(np.array(keys, np.uint64)))
    expected: dict[int, list[int]] = {}
    for row, key in enumerate(keys):
        expected.setdefault(key, []).append(row)
    assert found == sorted(rows for rows in expected.values() if len(rows) > 1)
