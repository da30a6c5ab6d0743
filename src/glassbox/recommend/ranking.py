"""Ranking metrics: recall, NDCG and reciprocal rank, with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from glassbox.core.seeding import derive_seed
from glassbox.recommend.playlists import Split
from glassbox.recommend.recommender import Recommender

CUTOFF = 10
METRICS = (f"recall@{CUTOFF}", f"ndcg@{CUTOFF}", "mrr")
DRAWS = 2000
LISTS_TOGETHER = 256


def gains(num_items: int) -> dict[str, Float[ndarray, " N"]]:
    """What a right item at rank r = 1, 2, ... is worth in each metric, with one right item a list.

    recall@k: 1 for r <= k; ndcg@k: 1 / log2(1 + r) for r <= k; mrr: 1 / r.

    >>> {name: value[:2].round(3).tolist() for name, value in gains(2).items()}
    {'recall@10': [1.0, 1.0], 'ndcg@10': [1.0, 0.631], 'mrr': [1.0, 0.5]}
    """
    rank = np.arange(1, num_items + 1, dtype=np.float64)
    near = rank <= CUTOFF
    return {
        METRICS[0]: near.astype(np.float64),
        METRICS[1]: near / np.log2(1 + rank),
        METRICS[2]: 1 / rank,
    }


def rank_metrics(
    scores: Float[ndarray, "B N"], targets: Int[ndarray, " B"]
) -> dict[str, Float[ndarray, " B"]]:
    """Each metric of each list, its mean over all orders of items whose scores are equal.

    Any fixed order among equals would favour some model: counts have many. Raises ValueError for a
    score that is not a number. Source: McSherry and Najork, Computing information retrieval
    performance measures efficiently in the presence of tied scores, ECIR 2008.
    Tested against: the mean over all permutations of the tied items.
    """
    if np.isnan(scores).any():
        raise ValueError("a score is not a number")
    own = scores[np.arange(len(targets)), targets][:, None]
    above = (scores > own).sum(axis=1)
    equal = (scores == own).sum(axis=1)  # the right one among them
    found = {}
    for name, gain in gains(scores.shape[1]).items():
        total = np.concatenate([[0.0], np.cumsum(gain)])
        found[name] = (total[above + equal] - total[above]) / equal
    return found


@dataclass(frozen=True)
class Ranked:
    """The metrics of each list that was asked about, and which targets training never saw."""

    values: Mapping[str, Float[ndarray, " A"]]
    unseen: Any

    def summary(self) -> dict[str, Any]:
        """Means with 95 % intervals over lists, for all targets and for those that training saw."""
        report: dict[str, Any] = {"lists": len(self.unseen), "unseen": int(self.unseen.sum())}
        for name, values in self.values.items():
            report[name] = interval(values)
        if self.unseen.any() and not self.unseen.all():
            report["seen"] = {n: interval(v[~self.unseen]) for n, v in self.values.items()}
        return report


def rank_targets(model: Recommender, split: Split) -> Ranked:
    """Rank all items as the continuation of each list, excluding items of the list."""
    parts: dict[str, list[ndarray]] = {name: [] for name in METRICS}
    for first in range(0, len(split.asked), LISTS_TOGETHER):
        rows = split.asked[first : first + LISTS_TOGETHER]
        lists = [split.train[row] for row in rows]
        scores = np.array(model.scores(lists, rows), dtype=np.float64)
        for place, one in enumerate(lists):
            scores[place, one] = -np.inf
        # an item of the list must stand behind one that merely cannot be scored
        scores = np.where(np.isneginf(scores), np.finfo(np.float64).min, scores)
        for place, one in enumerate(lists):
            scores[place, one] = -np.inf
        targets = split.targets[first : first + LISTS_TOGETHER]
        for name, values in rank_metrics(scores, targets).items():
            parts[name].append(values)
    unseen = split.train.counts[split.targets] == 0
    return Ranked({name: np.concatenate(values) for name, values in parts.items()}, unseen)


def interval(values: Float[ndarray, " A"], *, seed: int = 0) -> dict[str, float]:
    """The mean, with the 2.5 % and 97.5 % quantiles of its bootstrap distribution over lists.

    Source: Efron, 1979 (percentile bootstrap). Tested against: scipy's bootstrap.
    """
    rng = np.random.Generator(np.random.Philox(derive_seed(seed, "bootstrap")))
    means = np.empty(DRAWS)
    for draw in range(DRAWS):
        means[draw] = values[rng.integers(0, len(values), len(values))].mean()
    low, high = np.quantile(means, (0.025, 0.975))
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def difference(first: Ranked, second: Ranked) -> dict[str, dict[str, float]]:
    """first - second of each metric, list by list, with intervals; on the same lists."""
    return {name: interval(first.values[name] - second.values[name]) for name in METRICS}
