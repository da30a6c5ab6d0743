"""Random programs with exact probabilities.

A generator is an ordinary function of one `Chooser`. It makes every random decision through
`pick` and writes every character through `emit`; so one function can be sampled, enumerated, and
asked for the probability of a text, and the three can be held against one another.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeVar

T = TypeVar("T")
_LOGS = (0.0, *(math.log(n) for n in range(1, 1024)))


class Weights:
    """Relative weights of a pick's options, normalised once.

    >>> Weights([1, 3]).probabilities
    (0.25, 0.75)
    """

    __slots__ = ("cumulative", "logs", "probabilities")

    def __init__(self, values: Sequence[float]) -> None:
        if not values or min(values) <= 0 or not math.isfinite(sum(values)):
            raise ValueError(f"weights = {list(values)}: give positive finite numbers")
        total = math.fsum(values)
        self.probabilities = tuple(value / total for value in values)
        self.logs = tuple(math.log(p) for p in self.probabilities)
        self.cumulative = tuple(accumulate(self.probabilities))[:-1]


class Chooser:
    """What a random program sees. `opening` marks that the part deciding the split is complete."""

    def pick(self, options: Sequence[T], weights: Weights | None = None) -> T:
        """Choose one option, each equally likely unless `weights` says otherwise."""
        raise NotImplementedError

    def emit(self, text: str) -> None:
        """Append to the document."""
        raise NotImplementedError

    def opening(self) -> None:
        """Called once the document's opening is written. Does nothing unless overridden."""

    def require(self, condition: bool) -> None:
        """Sampling only: abandon this draw unless `condition` holds. Elsewhere does nothing."""


Program = Callable[[Chooser], object]


class Redraw(Exception):
    """The draw does not belong to the wanted split; draw again."""


class Sampler(Chooser):
    """Draws, and sums the log-probability (nats, float64) of what was drawn.

    `admit`, where given, sees the text at `opening` and may refuse it by returning False: `Redraw`.
    """

    def __init__(self, rng: random.Random, admit: Callable[[str], bool] | None = None) -> None:
        self.log_prob = 0.0
        self._parts: list[str] = []
        self._admit = admit
        self._random = rng.random
        self.emit = self._parts.append  # type: ignore[method-assign, assignment]  # a call less

    @property
    def text(self) -> str:
        """All that was emitted since the start or the last `take`."""
        return "".join(self._parts)

    def pick(self, options: Sequence[T], weights: Weights | None = None) -> T:
        if weights is None:
            size = len(options)
            if size == 1:
                return options[0]
            self.log_prob -= _LOGS[size]
            return options[int(self._random() * size)]
        index = bisect_right(weights.cumulative, self._random())
        self.log_prob += weights.logs[index]
        return options[index]

    def opening(self) -> None:
        if self._admit is not None and not self._admit(self.text):
            raise Redraw

    def require(self, condition: bool) -> None:
        if not condition:
            raise Redraw

    def take(self) -> str:
        """Return the text so far and begin an empty one."""
        text = self.text
        self._parts.clear()
        return text


class _Pruned(Exception):
    """The text emitted is no longer a prefix of the target."""


class _Guided(Chooser):
    """Follows `trail` (option indices), then always the first option, noting what else there was."""

    def __init__(self, trail: list[int], target: str | None) -> None:
        self.trail = trail
        self.sizes: list[int] = []
        self.log_prob = 0.0
        self.parts: list[str] = []
        self.length = 0
        self._target = target

    def pick(self, options: Sequence[T], weights: Weights | None = None) -> T:
        depth = len(self.sizes)
        self.sizes.append(len(options))
        if depth == len(self.trail):
            self.trail.append(0)
        index = self.trail[depth]
        self.log_prob += -math.log(len(options)) if weights is None else weights.logs[index]
        return options[index]

    def emit(self, text: str) -> None:
        if self._target is None:
            self.parts.append(text)
        elif not self._target.startswith(text, self.length):
            raise _Pruned
        self.length += len(text)


def _walk(program: Program, target: str | None) -> Iterator[tuple[str, float]]:
    trail: list[int] = []
    while True:
        guide = _Guided(trail, target)
        try:
            program(guide)
            if target is None or guide.length == len(target):
                yield (target if target is not None else "".join(guide.parts)), guide.log_prob
        except _Pruned:
            pass
        while trail and trail[-1] + 1 >= guide.sizes[len(trail) - 1]:
            trail.pop()
        if not trail:
            return
        trail[-1] += 1


def derivations(program: Program) -> Iterator[tuple[str, float]]:
    """Every derivation of a small program, depth first, as (text, log-probability in nats).

    >>> [text for text, _ in derivations(lambda c: c.emit(c.pick("ab")))]
    ['a', 'b']
    """
    return _walk(program, None)


class Score(NamedTuple):
    """log P(text) in nats (-inf if the program cannot write it) and how many ways there are."""

    log_prob: float
    derivations: int


def score(program: Program, text: str) -> Score:
    """log P(text) = log sum over derivations d of text of P(d), by running `program` again.

    A branch is left as soon as what it wrote is not a prefix of `text`. Tested against `Sampler`.
    """
    found = [log_prob for _, log_prob in _walk(program, text)]
    if not found:
        return Score(-math.inf, 0)
    top = max(found)
    return Score(top + math.log(math.fsum(math.exp(value - top) for value in found)), len(found))
