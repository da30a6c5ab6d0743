"""Whether a model that answers by choosing is as sure as it is right, and which places it prefers.

Tested against: scikit-learn's calibration curve and log loss on the same probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glassbox.evaluation.stats import Estimate, mean, proportion

NUM_BINS = 10


@dataclass(frozen=True)
class Choice:
    """A question's options as a model sees them: log p(option | prompt), and the place of the right one."""

    log_probs: tuple[float, ...]
    right: int

    @property
    def probabilities(self) -> np.ndarray:
        """softmax over the options."""
        x = np.array(self.log_probs, dtype=np.float64)
        x = np.exp(x - x.max())
        probabilities: np.ndarray = x / x.sum()
        return probabilities

    @property
    def chosen(self) -> int:
        """The place of the likeliest option; of equals the first."""
        return int(np.argmax(self.log_probs))


@dataclass(frozen=True)
class Bin:
    """Questions whose confidence lies in [low, high)."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Place:
    """One place of the right answer: how often it is right, how often chosen, accuracy where it is right."""

    right: int
    chosen: int
    accuracy: Estimate | None


@dataclass(frozen=True)
class Calibration:
    """How sure, how right.

    error: expected calibration error, sum over bins of count / n |accuracy - confidence|.
    entropy: mean entropy of the options' probabilities, nats; loss: mean -log p(right), nats.
    """

    n: int
    error: float
    confidence: Estimate
    accuracy: Estimate
    entropy: Estimate
    loss: Estimate
    bins: tuple[Bin, ...]
    places: tuple[Place, ...]


def choices(samples: Iterable[Mapping[str, Any]]) -> list[Choice]:
    """Questions of a multiple-choice task's samples that have one right option and finite scores.

    Empty for tasks of another kind.
    """
    found = []
    for sample in samples:
        target, results = sample["target"], sample["filtered_resps"]
        if sample.get("num_tokens") is None or len(results) < 2:
            continue
        scores = [result[0] for result in results]
        if not isinstance(target, int) or isinstance(target, bool):
            target = _place(sample, target)
        if target is None or not 0 <= target < len(scores):
            continue
        if all(isinstance(score, int | float) and math.isfinite(score) for score in scores):
            found.append(Choice(tuple(float(score) for score in scores), target))
    return found


def _place(sample: Mapping[str, Any], target: Any) -> int | None:
    """Where the target's text stands among the options."""
    options = [str(one["arg_1"]).strip() for one in sample["arguments"].values()]
    text = str(target).strip()
    return options.index(text) if options.count(text) == 1 else None


def calibrate(questions: Sequence[Choice]) -> Calibration:
    """Confidence (the chosen option's probability) beside accuracy, in ten bins of equal width.

    Raises ValueError without questions. Source: Guo et al., arXiv:1706.04599, section 2.
    """
    if not questions:
        raise ValueError("no questions to calibrate on")
    probabilities = [one.probabilities for one in questions]
    confidence = np.array([float(p.max()) for p in probabilities])
    right = np.array([float(one.chosen == one.right) for one in questions])
    entropy = [float(-(p * np.log(np.maximum(p, 1e-300))).sum()) for p in probabilities]
    loss = [
        float(-np.log(max(p[one.right], 1e-300)))
        for p, one in zip(probabilities, questions, strict=True)
    ]
    numbers = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    bins = tuple(
        Bin(
            number / NUM_BINS,
            (number + 1) / NUM_BINS,
            int(inside.sum()),
            float(confidence[inside].mean()),
            float(right[inside].mean()),
        )
        for number in range(NUM_BINS)
        if (inside := numbers == number).any()
    )
    error = sum(one.count * abs(one.accuracy - one.confidence) for one in bins) / len(questions)
    return Calibration(
        len(questions),
        error,
        mean(confidence),
        mean(right),
        mean(entropy),
        mean(loss),
        bins,
        _places(questions),
    )


def _places(questions: Sequence[Choice]) -> tuple[Place, ...]:
    found = []
    for place in range(max(len(one.log_probs) for one in questions)):
        here = [one for one in questions if one.right == place]
        hits = sum(one.chosen == place for one in here)
        found.append(
            Place(
                len(here),
                sum(one.chosen == place for one in questions),
                proportion(hits, len(here)) if here else None,
            )
        )
    return tuple(found)
