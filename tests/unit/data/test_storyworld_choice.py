"""The engine: sampling, enumerating and scoring one random program agree with each other."""

from __future__ import annotations

import math
import random

import pytest

from glassbox.data.storyworld.choice import Chooser, Sampler, Weights, derivations, score


def small(c: Chooser) -> None:
    who = c.pick(("Mia", "Tom", "Ann"), Weights([1, 2, 5]))
    c.emit(who + " ")
    for _ in range(c.pick((1, 2))):
        c.emit(c.pick(("ran. ", "sang. ", "slept. ")))
    if who == "Mia":
        c.emit(c.pick(("Good.", "Bad."), Weights([0.125, 0.875])))


def ambiguous(c: Chooser) -> None:
    c.emit(c.pick(("a", "aa")))
    c.emit(c.pick(("b", "ab"), Weights([1, 3])))


def test_enumerated_probabilities_sum_to_one():
    for program in (small, ambiguous):
        total = math.fsum(math.exp(log_prob) for _, log_prob in derivations(program))
        assert abs(total - 1) < 1e-12
    assert len(list(derivations(small))) == 12 * 3 + 12


def test_score_is_the_sum_over_derivations():
    by_text: dict[str, list[float]] = {}
    for text, log_prob in derivations(ambiguous):
        by_text.setdefault(text, []).append(math.exp(log_prob))
    assert len(by_text["aab"]) == 2
    for text, probabilities in by_text.items():
        found = score(ambiguous, text)
        assert found.derivations == len(probabilities)
        assert math.exp(found.log_prob) == pytest.approx(math.fsum(probabilities), abs=1e-15)
    assert math.exp(score(ambiguous, "aab").log_prob) == pytest.approx(0.5 * 0.75 + 0.5 * 0.25)


@pytest.mark.parametrize("text", ["", "Mia", "Mia ran. Good. ", "Tom ran. Good.", "x"])
def test_a_text_that_cannot_be_written_has_probability_zero(text):
    assert score(small, text) == (-math.inf, 0)


def test_the_sampler_records_what_the_scorer_finds():
    for seed in range(200):
        sampler = Sampler(random.Random(seed))
        small(sampler)
        found = score(small, sampler.text)
        assert found.derivations == 1
        assert found.log_prob == pytest.approx(sampler.log_prob, abs=1e-12)


def test_mean_surprise_is_the_entropy():
    entropy = -math.fsum(math.exp(p) * p for _, p in derivations(small))
    variance = math.fsum(math.exp(p) * p * p for _, p in derivations(small)) - entropy**2
    count = 20_000
    total = 0.0
    rng = random.Random(7)
    for _ in range(count):
        sampler = Sampler(rng)
        small(sampler)
        total -= sampler.log_prob
    assert abs(total / count - entropy) < 4 * math.sqrt(variance / count)


def test_sampled_frequencies_follow_the_weights():
    rng = random.Random(3)
    weights = Weights([1, 2, 5])
    counts = [0, 0, 0]
    for _ in range(8000):
        counts[Sampler(rng).pick((0, 1, 2), weights)] += 1
    for count, probability in zip(counts, weights.probabilities, strict=True):
        assert abs(count - 8000 * probability) < 5 * math.sqrt(8000 * probability)


@pytest.mark.parametrize("values", [[], [1, 0], [1, -1], [math.inf, 1]])
def test_weights_must_be_positive_and_finite(values):
    with pytest.raises(ValueError, match="weights"):
        Weights(values)
