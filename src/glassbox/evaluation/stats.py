"""Figures with their standard errors: means, shares, ratios of sums, paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Estimate(NamedTuple):
    """A value, its standard error (None if n does not allow one), and the number of units."""

    value: float
    standard_error: float | None
    n: int

    def to_json(self) -> dict[str, Any]:
        """{"value", "standard_error", "n"}."""
        return self._asdict()

    def scaled(self, factor: float) -> Estimate:
        """The same figure in another unit."""
        error = None if self.standard_error is None else self.standard_error * abs(factor)
        return Estimate(self.value * factor, error, self.n)

    def exp(self) -> Estimate:
        """exp of the figure; its error to first order is exp(value) times the old one.

        >>> Estimate(0.0, 0.1, 9).exp()
        Estimate(value=1.0, standard_error=0.1, n=9)
        """
        value = math.exp(self.value) if self.value < 709 else math.inf
        error = None if self.standard_error is None else value * self.standard_error
        return Estimate(value, error, self.n)


def mean(values: ArrayLike) -> Estimate:
    """The mean and s / sqrt(n), s the sample deviation (n - 1 below the root).

    Raises ValueError without values.

    >>> mean([1.0, 3.0])
    Estimate(value=2.0, standard_error=1.0, n=2)
    """
    x = _numbers(values)
    error = float(x.std(ddof=1) / math.sqrt(x.size)) if x.size > 1 else None
    return Estimate(float(x.mean()), error, x.size)


def proportion(successes: int, n: int) -> Estimate:
    """The share p = successes / n with the binomial error sqrt(p (1 - p) / n).

    At p = 0 and p = 1 this error is zero, which is misleading: see `wilson_interval`.

    >>> proportion(5, 20)
    Estimate(value=0.25, standard_error=0.0968..., n=20)
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n} is no share")
    p = successes / n
    return Estimate(p, math.sqrt(p * (1 - p) / n), n)


def wilson_interval(successes: int, n: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % confidence interval of a share, valid at 0 and n as well.

    (p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n). Source: Wilson, 1927.

    >>> [round(x, 3) for x in wilson_interval(20, 20)]
    [0.839, 1.0]
    """
    p, square = proportion(successes, n).value, z * z / n
    centre = p + square / 2
    half = z * math.sqrt(p * (1 - p) / n + square / (4 * n))
    low, high = (centre - half) / (1 + square), (centre + half) / (1 + square)
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


def ratio(numerators: ArrayLike, denominators: ArrayLike) -> Estimate:
    """sum(a) / sum(b) over units that carry a_i and b_i: nats and tokens of each document.

    error = sqrt(n / (n - 1) sum (a_i - r b_i)^2) / sum(b): the units, not the tokens within them,
    are independent. Source: Cochran, Sampling Techniques, 3rd ed., section 2.11.

    >>> ratio([2.0, 2.0], [1.0, 1.0])
    Estimate(value=2.0, standard_error=0.0, n=2)
    """
    a, b = _numbers(numerators), _numbers(denominators)
    if a.shape != b.shape:
        raise ValueError(f"{a.size} numerators but {b.size} denominators")
    total = float(b.sum())
    if total == 0:
        raise ValueError("the denominators sum to zero")
    value = float(a.sum()) / total
    if a.size < 2:
        return Estimate(value, None, a.size)
    spread = float(((a - value * b) ** 2).sum()) * a.size / (a.size - 1)
    return Estimate(value, math.sqrt(spread) / total, a.size)


def paired_difference(first: ArrayLike, second: ArrayLike) -> Estimate:
    """The mean of first - second over paired units; their common variation does not enter the
    error.

    >>> paired_difference([1.0, 5.0], [0.0, 4.0])
    Estimate(value=1.0, standard_error=0.0, n=2)
    """
    a, b = _numbers(first), _numbers(second)
    if a.shape != b.shape:
        raise ValueError(f"{a.size} values against {b.size}; pairs need as many of each")
    return mean(a - b)


def bootstrap(
    units: Sequence[Any] | NDArray[Any],
    statistic: Callable[[NDArray[Any]], float],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    """A statistic of the units, with its standard deviation over bootstrap samples.

    For statistics without a closed-form error. Rows of `units` are units. Source: Efron, 1979.
    """
    array = np.asarray(units)
    if array.shape[0] == 0:
        raise ValueError("no units to draw from")
    value = float(statistic(array))
    if array.shape[0] < 2:
        return Estimate(value, None, array.shape[0])
    generator = np.random.Generator(np.random.Philox(seed))
    picks = generator.integers(0, array.shape[0], size=(draws, array.shape[0]))
    found = np.array([statistic(array[pick]) for pick in picks], dtype=np.float64)
    return Estimate(value, float(found.std(ddof=1)), array.shape[0])


def accuracy(right: Sequence[bool], kinds: Sequence[str]) -> dict[str, Any]:
    """{"accuracy": share with error and 95 % interval, "kinds": the same for each kind}, as JSON."""
    by_kind: dict[str, list[bool]] = {}
    for value, kind in zip(right, kinds, strict=True):
        by_kind.setdefault(kind, []).append(value)
    return {
        "accuracy": _share(right),
        "kinds": {kind: _share(values) for kind, values in sorted(by_kind.items())},
    }


def _share(right: Sequence[bool]) -> Mapping[str, Any]:
    successes = sum(right)
    interval = list(wilson_interval(successes, len(right)))
    return {**proportion(successes, len(right)).to_json(), "interval": interval}


def _numbers(values: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    if x.size == 0:
        raise ValueError("no values to average")
    return x
