"""Estimates against closed forms, NumPy and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glassbox.evaluation.stats import (
    Estimate,
    accuracy,
    bootstrap,
    mean,
    paired_difference,
    proportion,
    ratio,
    wilson_interval,
)

NUMBERS = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40)


@given(NUMBERS)
def test_mean_is_numpys(values: list[float]) -> None:
    found = mean(values)
    assert found.value == pytest.approx(np.mean(values))
    assert found.standard_error == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)))
    assert found.n == len(values)


def test_one_value_has_no_error() -> None:
    assert mean([3.0]) == Estimate(3.0, None, 1)
    assert ratio([3.0], [2.0]) == Estimate(1.5, None, 1)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_proportion_is_the_mean_of_zeros_and_ones(case: tuple[int, int]) -> None:
    k, n = case
    values = [1.0] * k + [0.0] * (n - k)
    found = proportion(k, n)
    assert found.value == pytest.approx(np.mean(values))
    assert found.standard_error == pytest.approx(np.std(values) / math.sqrt(n), abs=1e-12)
    low, high = wilson_interval(k, n)
    assert 0 <= low <= found.value <= high <= 1
    assert low < high


def test_wilson_interval_solves_its_quadratic() -> None:
    """Its ends are the shares p0 from which the one observed is z standard errors away."""
    for end in wilson_interval(17, 50):
        assert abs(17 / 50 - end) / math.sqrt(end * (1 - end) / 50) == pytest.approx(1.959964)


@given(NUMBERS)
def test_ratio_with_equal_denominators_is_the_mean(values: list[float]) -> None:
    found, expected = ratio(values, [2.0] * len(values)), mean(values).scaled(0.5)
    assert found.value == pytest.approx(expected.value)
    assert found.standard_error == pytest.approx(expected.standard_error, abs=1e-9)


def test_ratio_weighs_units_by_size() -> None:
    assert ratio([1.0, 30.0], [1.0, 10.0]).value == 31 / 11  # the mean of ratios would be 2


def test_errors_are_the_spread_over_repeated_samples() -> None:
    """The stated error equals the deviation of the figure over 4,000 fresh samples, to 5 %.

    The deviation of 4,000 draws is itself known to about 1.1 %.
    """
    generator = np.random.default_rng(0)
    size = generator.integers(5, 60, (4000, 80)).astype(float)
    nats = size * 1.5 + generator.normal(0, 3, size.shape) * np.sqrt(size)
    stated = [ratio(a, b).standard_error for a, b in zip(nats, size, strict=True)]
    actual = (nats.sum(1) / size.sum(1)).std()
    assert np.mean(stated) == pytest.approx(actual, rel=0.05)


def test_pairing_removes_what_is_common() -> None:
    generator = np.random.default_rng(1)
    hardness = generator.normal(0, 10, 200)
    noise = generator.normal(0.1, 0.2, 200)
    found = paired_difference(hardness + noise, hardness)
    assert found.standard_error == pytest.approx(noise.std(ddof=1) / math.sqrt(200))
    assert found.value == pytest.approx(noise.mean())


def test_bootstrap_of_a_mean_is_near_the_closed_form() -> None:
    values = np.random.default_rng(2).normal(size=100)
    found, expected = bootstrap(values, lambda x: float(x.mean())), mean(values)
    assert found.value == expected.value
    assert found.standard_error == pytest.approx(expected.standard_error, rel=0.1)
    assert found == bootstrap(values, lambda x: float(x.mean()))
    assert bootstrap([4.0], lambda x: float(x.mean())).standard_error is None


def test_accuracy_breaks_down_by_kind() -> None:
    found = accuracy([True, False, True], ["b", "b", "a"])
    assert found["accuracy"]["value"] == pytest.approx(2 / 3)
    assert list(found["kinds"]) == ["a", "b"]
    assert found["kinds"]["b"]["value"] == 0.5
    assert found["kinds"]["b"]["n"] == 2


def test_exp_carries_the_error() -> None:
    found = Estimate(2.0, 0.01, 5).exp()
    assert found.value == pytest.approx(math.exp(2))
    assert found.standard_error == pytest.approx((math.exp(2.01) - math.exp(1.99)) / 2, rel=1e-3)
    assert Estimate(1e4, 1.0, 5).exp().value == math.inf


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: mean([]),
        lambda: proportion(0, 0),
        lambda: proportion(3, 2),
        lambda: ratio([1.0], [1.0, 2.0]),
        lambda: ratio([1.0], [0.0]),
        lambda: paired_difference([1.0], [1.0, 2.0]),
        lambda: bootstrap([], lambda x: 0.0),
    ],
)
def test_nothing_is_made_of_nothing(wrong) -> None:
    with pytest.raises(ValueError):
        wrong()
