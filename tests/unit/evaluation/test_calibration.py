"""Calibration beside scikit-learn's, places by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from glassbox.evaluation.calibration import Choice, calibrate, choices


def some(n: int = 300, seed: int = 0) -> list[Choice]:
    generator = np.random.default_rng(seed)
    scores = generator.normal(0, 2, (n, 4))
    right = generator.integers(0, 4, n)
    scores[np.arange(n), right] += 1.0
    return [
        Choice(tuple(row.tolist()), int(place)) for row, place in zip(scores, right, strict=True)
    ]


def test_bins_and_loss_are_scikit_learns() -> None:
    questions = some()
    found = calibrate(questions)
    probabilities = np.stack([one.probabilities for one in questions])
    hit = np.array([one.chosen == one.right for one in questions])
    accuracy, confidence = calibration_curve(hit, probabilities.max(1), n_bins=10)
    assert [one.accuracy for one in found.bins] == pytest.approx(accuracy.tolist())
    assert [one.confidence for one in found.bins] == pytest.approx(confidence.tolist())
    right = [one.right for one in questions]
    assert found.loss.value == pytest.approx(log_loss(right, probabilities, labels=range(4)))
    counts = np.array([one.count for one in found.bins])
    expected = (counts * np.abs(accuracy - confidence)).sum() / counts.sum()
    assert found.error == pytest.approx(expected)
    assert sum(one.count for one in found.bins) == found.n == 300


def test_an_even_model_is_calibrated_when_it_is_right_as_often_as_chance() -> None:
    questions = [Choice((0.0, 0.0), n % 2) for n in range(10)]
    found = calibrate(questions)
    assert found.error == pytest.approx(0.0)
    assert found.entropy.value == pytest.approx(math.log(2))
    assert [(one.right, one.chosen) for one in found.places] == [(5, 10), (5, 0)]
    assert [one.accuracy.value for one in found.places if one.accuracy] == [1.0, 0.0]
    with pytest.raises(ValueError, match="no questions"):
        calibrate([])


def test_choices_of_samples_take_numbers_and_texts_and_leave_out_the_rest() -> None:
    sample = {
        "arguments": {"gen_args_0": {"arg_1": " yes"}, "gen_args_1": {"arg_1": " no"}},
        "filtered_resps": [[-1.0, True], [-2.0, False]],
        "num_tokens": [1, 1],
    }
    assert choices([{**sample, "target": 1}]) == [Choice((-1.0, -2.0), 1)]
    assert choices([{**sample, "target": "no"}]) == [Choice((-1.0, -2.0), 1)]
    assert choices([{**sample, "target": "maybe"}]) == []
    assert choices([{**sample, "target": 0, "num_tokens": None}]) == []
    missing = [[None, False], [-2.0, False]]
    assert choices([{**sample, "target": 0, "filtered_resps": missing}]) == []
