"""The table of `glassbox verify`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.table import Table
from rich.text import Text


class Measured(Protocol):
    """A quantity with its error and its bound."""

    @property
    def name(self) -> str:
        """What it is."""

    @property
    def error(self) -> float:
        """How far it is from one rank in float64."""

    @property
    def bound(self) -> float:
        """What rounding may make."""

    @property
    def norm(self) -> float:
        """Its own norm."""


class Judged(Protocol):
    """A layout's verdict."""

    @property
    def layout(self) -> str:
        """Its name."""

    @property
    def ranks(self) -> int:
        """How many processes it took."""

    @property
    def text(self) -> str:
        """`rounding`, or what is wrong."""

    @property
    def quantities(self) -> Sequence[Measured]:
        """All that was compared."""

    @property
    def worst(self) -> Measured:
        """What is nearest to its bound or beyond it."""


def verdict_table(verdicts: Sequence[Judged]) -> Table:
    """A row a layout: the loss's error, the largest of a gradient, what is nearest to its bound, the verdict."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("layout")
    for title in ("ranks", "compared", "loss error", "gradient error"):
        table.add_column(title, justify="right")
    table.add_column("nearest to its bound", overflow="fold")
    table.add_column("error / bound", justify="right")
    table.add_column("verdict", overflow="fold")
    for verdict in verdicts:
        loss = next(one.error for one in verdict.quantities if one.name == "loss")
        gradients = [
            one.error / max(one.norm, 1e-30)
            for one in verdict.quantities
            if one.name.startswith("gradient.")
        ]
        worst = verdict.worst
        good = verdict.text == "rounding"
        table.add_row(
            verdict.layout,
            str(verdict.ranks),
            str(len(verdict.quantities)),
            f"{loss:.1e}",
            f"{max(gradients, default=0.0):.1e}",
            worst.name,
            f"{worst.error / worst.bound:.2f}" if worst.bound else f"{worst.error:.1e} / 0",
            Text(verdict.text, style="green" if good else "red"),
        )
    return table
