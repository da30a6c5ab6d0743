"""Training a text classifier: logistic regression to its optimum, over all examples at once."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.data.curation.classifier import FeatureConfig, TextClassifier, features
from glassbox.data.text import is_heldout

STEPS = 200
"""Evaluations of the objective, about: some hundred reach the optimum."""


@dataclass(frozen=True)
class Examples:
    """Hashed features of all texts: text i has places[offsets[i] : offsets[i + 1]] and labels[i]."""

    places: Int[Tensor, " P"]
    offsets: Int[Tensor, " N+1"]
    labels: Int[Tensor, " N"]

    @classmethod
    def of(cls, texts: Iterable[str], labels: Sequence[int], config: FeatureConfig) -> Examples:
        """The features of texts."""
        found = [features(text, config) for text in texts]
        ends = np.cumsum([0, *map(len, found)])
        places = np.concatenate([np.zeros(0, np.int64), *found])
        return cls(torch.from_numpy(places), torch.from_numpy(ends), torch.tensor(labels))


def mean_features(weight: Float[Tensor, "V L"], examples: Examples) -> Float[Tensor, "N L"]:
    """(1 / n_i) sum of weight[place] over the places of each text; 0 for a text without any."""
    return torch.nn.functional.embedding_bag(
        examples.places, weight, examples.offsets, mode="mean", include_last_offset=True
    )


def fit(
    examples: Examples,
    num_labels: int,
    config: FeatureConfig,
    *,
    l2: float,
    steps: int = STEPS,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[Float[Tensor, "V L"], Float[Tensor, " L"]]:
    """W and b that minimise (1 / N) sum_i -log p(label_i | x_i) + l2 / 2 ||W||^2, by L-BFGS.

    The objective is convex, so that nothing depends on a seed. The bias is not penalised.
    Source: Liu and Nocedal (1989), strong Wolfe line search.
    """
    weight = torch.zeros(1 << config.bits, num_labels, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(num_labels, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=steps, history_size=10, tolerance_grad=1e-9,
        tolerance_change=1e-12, line_search_fn="strong_wolfe",
    )  # fmt: skip
    count = 0

    def closure() -> Tensor:
        nonlocal count
        optimizer.zero_grad()
        logits = mean_features(weight, examples) + bias
        loss = torch.nn.functional.cross_entropy(logits, examples.labels)
        loss = loss + l2 / 2 * weight.square().sum()
        loss.backward()
        count += 1
        progress(count, float(loss.detach()))
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach()


def train_classifier(
    rows: Iterable[tuple[str, str]],
    config: FeatureConfig | None = None,
    *,
    l2: float = 1e-6,
    heldout_share: float = 0.1,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> TextClassifier:
    """Train a classifier on (text, label) rows; its `report` has the metrics on held-out rows.

    Raises UserError for fewer than two labels, or a label without a text to train on.
    """
    config = config or FeatureConfig()
    texts: dict[bool, list[tuple[str, str]]] = {False: [], True: []}
    seen: set[int] = set()
    for text, label in rows:
        key = zlib.crc32(text.encode("utf-8", "replace"), len(text)) | len(text) << 32
        if key in seen or not text.strip():
            continue  # twice the same text, or none
        seen.add(key)
        texts[is_heldout(text, heldout_share)].append((text, label))
    counts = Counter(label for _, label in texts[False])
    if len(counts) < 2:
        raise UserError(
            f"the texts have the labels {', '.join(counts) or 'none'}; give texts of two labels or more"
        )
    labels = tuple(sorted(counts))
    held = [(text, label) for text, label in texts[True] if label in counts]
    train = _examples(texts[False], labels, config)
    weight, bias = fit(train, len(labels), config, l2=l2, progress=progress)
    model = TextClassifier(
        labels, config, weight.to(torch.float32).numpy(), bias.to(torch.float32).numpy()
    )
    report: dict[str, Any] = {"trained_on": dict(sorted(counts.items())), "l2": l2}
    if held:
        report["heldout"] = evaluate(model, held)
    return TextClassifier(labels, config, model.weight, model.bias, report)


def _examples(
    rows: Sequence[tuple[str, str]], labels: Sequence[str], config: FeatureConfig
) -> Examples:
    numbers = [labels.index(label) for _, label in rows]
    return Examples.of((text for text, _ in rows), numbers, config)


def evaluate(model: TextClassifier, rows: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Accuracy, mean -log p of the true label, and for each label the area under its ROC curve."""
    probabilities = np.array([model.probabilities(text) for text, _ in rows], np.float64)
    truth = np.array([model.labels.index(label) for _, label in rows])
    nats = -np.log(np.maximum(probabilities[np.arange(len(rows)), truth], 1e-12))
    areas = {
        label: round(area, 4)
        for number, label in enumerate(model.labels)
        if (area := roc_area(probabilities[:, number], truth == number)) is not None
    }
    return {
        "texts": len(rows),
        "accuracy": round(float((probabilities.argmax(1) == truth).mean()), 4),
        "nats": round(float(nats.mean()), 4),
        "roc_area": areas,
    }


def roc_area(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """The chance that a positive scores above a negative, ties half; None where one is missing.

    >>> roc_area(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
    0.875
    """
    ones, zeros = scores[positive], np.sort(scores[~positive])
    if not len(ones) or not len(zeros):
        return None
    below = np.searchsorted(zeros, ones, "left") + np.searchsorted(zeros, ones, "right")
    return float(below.mean() / 2 / len(zeros))
