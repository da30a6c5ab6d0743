"""The tables of `glassbox verify` and `glassbox plan`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

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
    table.add_column("layout", no_wrap=True)
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


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """Parameters and FLOPs of `glassbox plan`, a line each."""
    parts = plan["parameters"]
    counted = ", ".join(f"{name} {count:,}" for name, count in parts.items() if count)
    steps = plan["steps"]
    run = "" if steps is None else f", {steps:,} steps, {steps * plan['tokens_per_step']:,} in all"
    return [
        f"parameters: {sum(parts.values()):,} ({counted})",
        f"tokens a step: {plan['tokens_per_step']:,}{run}",
        f"FLOPs a token, forward and backward: {plan['flops_per_token']:.3g}",
    ]


def plan_table(plan: Mapping[str, Any]) -> Table:
    """A row a layout: bytes a rank by kind, seconds a step, hours and price of the run."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("layout", no_wrap=True)
    for title in ("weights", "gradients", "moments", "activations", "peak", "s a step", "hours"):
        table.add_column(title, justify="right")
    table.add_column("price", justify="right")
    table.add_column("fits", overflow="fold")
    for one in plan["forecasts"]:
        kinds = [one[kind] for kind in ("weights", "gradients", "moments", "activations", "peak")]
        known = one["peak"] > 0
        table.add_row(
            one["layout"],
            *(size(number) if known else "" for number in kinds),
            f"{one['step_seconds']:.3g}" if known else "",
            f"{one['hours']:.3g}" if known and one["hours"] else "",
            "" if one["price"] is None else f"{one['price']:,.2f}",
            Text("yes", style="green") if one["fits"] else Text(one["reason"], style="dim"),
        )
    return table


def size(count: float) -> str:
    """Bytes in the unit that leaves one to three digits.

    >>> size(512), size(6_435_200), size(141e9)
    ('512 B', '6.4 MB', '141.0 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError(count)
