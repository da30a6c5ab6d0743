"""What is summed up between two lines of metrics."""

from __future__ import annotations

from typing import Any


class Window:
    """Sums over the steps since the last line of metrics."""

    def __init__(self) -> None:
        self.last_loss = 0.0
        self.reason: str | None = None
        self.clear()

    def clear(self) -> None:
        """Begin a new line."""
        self.totals: dict[str, list[float]] = {}
        self.tokens = 0
        self.norm = 0.0
        self.lr = 0.0
        self.seconds = 0.0
        self.data_seconds = 0.0
        self.steps = 0

    def add(
        self,
        totals: dict[str, list[float]],
        tokens: int,
        norm: float,
        lr: float,
        seconds: float,
        data_seconds: float,
        reason: str | None,
    ) -> None:
        """Take one step's sums."""
        total, weight = totals["loss"]
        self.last_loss = total / weight if weight else 0.0
        self.reason = reason
        for name, (value, share) in {} if reason else totals.items():
            pair = self.totals.setdefault(name, [0.0, 0.0])
            pair[0] += value
            pair[1] += share
        self.tokens += tokens
        self.norm, self.lr = norm, lr
        self.seconds += seconds
        self.data_seconds += data_seconds
        self.steps += 1

    @property
    def tokens_per_second(self) -> float:
        """Tokens over seconds since the last line."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def means(self) -> dict[str, float]:
        """One line of metrics: weighted means over the window; norm and rate of its last step."""
        means = {name: total / weight for name, (total, weight) in self.totals.items() if weight}
        return {
            **means,
            "grad_norm": self.norm,
            "lr": self.lr,
            "step_seconds": self.seconds / max(1, self.steps),
            "data_seconds": self.data_seconds / max(1, self.steps),
            "tokens_per_second": self.tokens_per_second,
        }

    def state_dict(self) -> dict[str, Any]:
        """The sums, as JSON, so that a line across a checkpoint is the one of an unbroken run."""
        return vars(self).copy()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the sums back."""
        vars(self).update(state)
