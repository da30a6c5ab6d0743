"""How items' values become a task's figure, with its standard error.

Tested against: lm-evaluation-harness's values; scikit-learn's F1 and Matthews correlation.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray
from pydantic import Field

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.evaluation.stats import Estimate, bootstrap, mean, ratio
from glassbox.evaluation.tasks.functions import Function

Values = Sequence[Any]


class Metric(Spec):
    """What is measured of each item, and how items are put together.

    metric: acc, acc_norm, acc_bytes, acc_tokens, acc_mutual_info, exact_match, f1, mcc, brier_score,
        likelihood, perplexity, word_perplexity, byte_perplexity, bits_per_byte, bypass, or what the
        task's own `results` function calls it.
    aggregation: mean, nanmean, median, perplexity, weighted_perplexity, bits_per_byte, f1,
        matthews_corrcoef, brier_score or bypass; the metric's own unless given.
    baseline: what guessing gets; `centred` values are (value - baseline) / (1 - baseline).
    """

    metric: str | Function
    aggregation: str | Function | None = None
    higher_is_better: bool | None = None
    baseline: float | None = Field(None, lt=1)
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """As it is reported."""
        if isinstance(self.metric, Function):
            return self.metric.function.rpartition(":")[2]
        return self.metric

    @property
    def aggregation_name(self) -> str:
        """The aggregation, given or the metric's own."""
        if isinstance(self.aggregation, Function):
            return self.aggregation.function
        return self.aggregation or OWN_AGGREGATION.get(self.name, "mean")

    @property
    def is_better_higher(self) -> bool:
        """Whether a higher figure is a better one."""
        if self.higher_is_better is not None:
            return self.higher_is_better
        return self.name not in LOWER_IS_BETTER

    def check(self, where: str) -> None:
        """Raise UserError for an aggregation that does not exist here."""
        if isinstance(self.aggregation, Function):
            return
        if self.aggregation_name not in AGGREGATIONS:
            raise UserError(
                f"{where}: aggregation '{self.aggregation_name}' of metric '{self.name}' is not "
                f"supported; those are {', '.join(AGGREGATIONS)}"
            )

    def aggregate(self, values: Values, clusters: Sequence[Any] | None = None) -> Estimate:
        """The figure over all items; `clusters` names the passage that each item belongs to."""
        if isinstance(self.aggregation, Function):
            return Estimate(float(self.aggregation.load()(list(values))), None, len(values))
        return AGGREGATIONS[self.aggregation_name](values, clusters)


def clustered_mean(values: Values, clusters: Sequence[Any] | None) -> Estimate:
    """The mean, its error over clusters of items that are not independent of one another.

    error = sqrt(G / (G - 1) sum_g (sum_{i in g} (x_i - mean))^2) / n, G clusters. With a cluster to
    each item it is s / sqrt(n). Source: Liang and Zeger, 1986; Miller, arXiv:2411.00640, section 2.2.

    >>> clustered_mean([0.0, 1.0], ["a", "b"]).standard_error
    0.5
    """
    if clusters is None:
        return mean([float(value) for value in values])
    x = np.array([float(value) for value in values])
    sums: dict[str, float] = {}
    for value, cluster in zip(x - x.mean(), clusters, strict=True):
        sums[str(cluster)] = sums.get(str(cluster), 0.0) + float(value)
    if len(sums) < 2:
        return Estimate(float(x.mean()), None, x.size)
    spread = sum(one * one for one in sums.values()) * len(sums) / (len(sums) - 1)
    return Estimate(float(x.mean()), math.sqrt(spread) / x.size, x.size)


def _nanmean(values: Values, clusters: Sequence[Any] | None) -> Estimate:
    kept = [n for n, value in enumerate(values) if not math.isnan(float(value))]
    if not kept:
        return Estimate(math.nan, None, 0)
    groups = None if clusters is None else [clusters[n] for n in kept]
    return clustered_mean([values[n] for n in kept], groups)


def _median(values: Values, clusters: Sequence[Any] | None) -> Estimate:
    return bootstrap([float(value) for value in values], lambda x: float(np.sort(x)[len(x) // 2]))


def _perplexity(values: Values, clusters: Sequence[Any] | None) -> Estimate:
    return clustered_mean(values, clusters).scaled(-1.0).exp()


def _nats(values: Values) -> Estimate:
    """Nats a unit, of pairs (log-probability of a document, its units)."""
    return ratio([-float(log_prob) for log_prob, _ in values], [float(n) for _, n in values])


def _weighted_perplexity(values: Values, clusters: Sequence[Any] | None) -> Estimate:
    return _nats(values).exp()


def _bits_per_byte(values: Values, clusters: Sequence[Any] | None) -> Estimate:
    return _nats(values).scaled(1 / math.log(2))


def label_table(values: Values) -> NDArray[np.float64]:
    """Rows of (gold, prediction), the names as numbers where they are no numbers."""
    names: dict[Any, int] = {}
    rows = []
    for gold, predicted in values:
        if isinstance(gold, list | tuple):
            gold = predicted if predicted in gold else gold[0]
        pair = [gold, predicted]
        rows.append(
            [
                one if isinstance(one, int | float) else names.setdefault(one, len(names))
                for one in pair
            ]
        )
    return np.array(rows, dtype=np.float64)


def binary_f1(table: NDArray[np.float64]) -> float:
    """F1 of label 1, from rows (gold, prediction); 0 where there is no such label at all."""
    gold, predicted = table[:, 0] == 1, table[:, 1] == 1
    total = float(gold.sum() + predicted.sum())
    return 2 * float((gold & predicted).sum()) / total if total else 0.0


def matthews(table: NDArray[np.float64]) -> float:
    """Matthews correlation of rows (gold, prediction), for any number of labels.

    Source: Gorodkin, Computational Biology and Chemistry 28 (2004), 367.
    """
    labels = np.unique(table)
    gold = (table[:, :1] == labels).astype(np.float64)
    predicted = (table[:, 1:] == labels).astype(np.float64)
    n = len(table)
    hits = float((gold * predicted).sum())
    t, p = gold.sum(axis=0), predicted.sum(axis=0)
    spread = math.sqrt((n * n - float(p @ p)) * (n * n - float(t @ t)))
    return (hits * n - float(t @ p)) / spread if spread else 0.0


def _f1(values: Values, clusters: Sequence[Any] | None) -> Estimate:
    return bootstrap(label_table(values), binary_f1)


def _mcc(values: Values, clusters: Sequence[Any] | None) -> Estimate:
    return bootstrap(label_table(values), matthews)


def _brier(values: Values, clusters: Sequence[Any] | None) -> Estimate:
    squares = []
    for gold, probabilities in values:
        target = np.zeros(len(probabilities))
        target[gold] = 1.0
        squares.append(float(((np.asarray(probabilities) - target) ** 2).sum()))
    return clustered_mean(squares, clusters)


def _bypass(values: Values, clusters: Sequence[Any] | None) -> Estimate:
    return Estimate(999.0, None, len(values))


AGGREGATIONS: Mapping[str, Callable[[Values, Sequence[Any] | None], Estimate]] = MappingProxyType(
    {
        "mean": clustered_mean,
        "nanmean": _nanmean,
        "median": _median,
        "perplexity": _perplexity,
        "weighted_perplexity": _weighted_perplexity,
        "bits_per_byte": _bits_per_byte,
        "f1": _f1,
        "matthews_corrcoef": _mcc,
        "brier_score": _brier,
        "bypass": _bypass,
    }
)
OWN_AGGREGATION = MappingProxyType(
    {
        "perplexity": "perplexity",
        "word_perplexity": "weighted_perplexity",
        "byte_perplexity": "weighted_perplexity",
        "bits_per_byte": "bits_per_byte",
        "f1": "f1",
        "mcc": "matthews_corrcoef",
        "brier_score": "brier_score",
        "bypass": "bypass",
    }
)
LOWER_IS_BETTER = frozenset(
    ["perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score"]
)


def exact_match(
    prediction: str,
    reference: str,
    *,
    regexes_to_ignore: Sequence[str] | None = None,
    ignore_case: bool = False,
    ignore_punctuation: bool = False,
    ignore_numbers: bool = False,
) -> float:
    """1 where the two are equal once what is to be ignored is taken out of both, else 0.

    >>> exact_match("$1,200.", "1200", regexes_to_ignore=[",", "[$]", "[.]$"])
    1.0
    """

    def plain(text: str) -> str:
        for pattern in regexes_to_ignore or ():
            text = regex.sub(pattern, "", text, timeout=10)
        if ignore_case:
            text = text.lower()
        gone = string.punctuation * ignore_punctuation + string.digits * ignore_numbers
        return text.translate(str.maketrans("", "", gone))

    return float(plain(prediction) == plain(reference))
