"""The gradient noise scale: how many tokens a step should have before more of them help little."""

from __future__ import annotations

from typing import Any

KEPT = 0.9
"""Share of the running means that is kept at each measurement."""


def noise_parts(
    small_square: float, big_square: float, small: float, big: float
) -> tuple[float, float]:
    """(tr Sigma, |G|^2) without bias, of squared gradient norms at two batch sizes.

    |G|^2 = (big * big_square - small * small_square) / (big - small),
    tr Sigma = (small_square - big_square) / (1 / small - 1 / big).
    Source: McCandlish et al., arXiv:1812.06162, appendix A.1. Tested against: Gaussian gradients.
    """
    square = (big * big_square - small * small_square) / (big - small)
    trace = (small_square - big_square) / (1 / small - 1 / big)
    return trace, square


class NoiseScale:
    """tr Sigma / |G|^2 of running means, since each estimate alone is noisy; in units of the loss's weight."""

    def __init__(self) -> None:
        self.trace = 0.0
        self.square = 0.0
        self.weight = 0.0

    def add(self, small_square: float, big_square: float, small: float, big: float) -> float | None:
        """Add one measurement; the noise scale, or None where the means are not positive yet."""
        if not 0 < small < big:
            return None
        trace, square = noise_parts(small_square, big_square, small, big)
        self.trace = KEPT * self.trace + (1 - KEPT) * trace
        self.square = KEPT * self.square + (1 - KEPT) * square
        self.weight = KEPT * self.weight + (1 - KEPT)
        return self.trace / self.square if self.trace > 0 and self.square > 0 else None

    def state_dict(self) -> dict[str, Any]:
        """The means, as JSON."""
        return vars(self).copy()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the means."""
        vars(self).update(state)
