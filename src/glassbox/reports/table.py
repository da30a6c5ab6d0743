"""Evaluations side by side: the same columns on the page and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from glassbox.evaluation.stats import Estimate


@dataclass(frozen=True)
class Column:
    """A figure of an evaluation: where it stands, how it is called and shown, and which end is good."""

    path: tuple[str, str]
    title: str
    unit: str
    best: str
    decimals: int = 3
    percent: bool = False
    only_without_entropy: bool = False

    def of(self, evaluation: Mapping[str, Any]) -> Estimate | None:
        """The figure in an evaluation, or None where that has none."""
        task = evaluation.get(self.path[0])
        raw = task.get(self.path[1]) if isinstance(task, Mapping) else None
        return read_estimate(raw)

    def show(self, estimate: Estimate) -> tuple[str, str]:
        """The figure and its standard error as text.

        >>> COLUMNS[3].show(Estimate(0.875, 0.023, 200))
        ('87.5%', '±2.3')
        """
        factor, sign = (100.0, "%") if self.percent else (1.0, "")
        decimals = 1 if self.percent else self.decimals
        error = estimate.standard_error
        shown = "" if error is None else f"±{error * factor:.{decimals}f}"
        return f"{estimate.value * factor:.{decimals}f}{sign}", shown


def read_estimate(raw: Any) -> Estimate | None:
    """An `Estimate` from its JSON; None for anything else."""
    if not isinstance(raw, Mapping):
        return None
    value, error, n = raw.get("value"), raw.get("standard_error"), raw.get("n")
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    known = isinstance(error, (int, float)) and math.isfinite(error)
    return Estimate(float(value), float(error) if known else None, n if isinstance(n, int) else 0)  # type: ignore[arg-type]


NATS = "nats/token"
COLUMNS = (
    Column(("heldout", "loss_nats"), "Held-out loss", NATS, "min"),
    Column(("heldout", "excess_nats"), "Excess over entropy", NATS, "min"),
    Column(("unseen", "excess_nats"), "Excess, unseen", NATS, "min"),
    Column(("questions", "accuracy"), "Questions", "answered right", "max", percent=True),
    Column(("preferences", "accuracy"), "Preferences", "told apart", "max", percent=True),
    Column(("scores", "accuracy"), "Reward scores", "told apart", "max", percent=True),
    Column(("arithmetic", "accuracy"), "Arithmetic", "solved", "max", percent=True),
    Column(("heldout", "perplexity"), "Perplexity", "per token", "min", 2, False, True),
    Column(("heldout", "bits_per_byte"), "Bits per byte", "bits/byte", "min", 3, False, True),
)


class Cell(NamedTuple):
    """A figure as text, its error, its n, and whether none in its column is better."""

    value: str
    error: str
    n: int
    best: bool


class Row(NamedTuple):
    """One evaluation's cells; None where it lacks the figure."""

    name: str
    cells: list[Cell | None]


def tabulate(evaluations: Mapping[str, Mapping[str, Any]]) -> tuple[list[Column], list[Row]]:
    """The columns that some evaluation has a figure for, and a row of cells for each evaluation.

    Perplexity and bits per byte stand in where no exact entropy is known. The best of a column is
    marked where its figures differ.
    """
    found = {c: [c.of(evaluation) for evaluation in evaluations.values()] for c in COLUMNS}
    exact = any(estimate is not None for estimate in found[COLUMNS[1]])
    columns = [
        column
        for column in COLUMNS
        if any(found[column]) and not (exact and column.only_without_entropy)
    ]
    rows = [Row(name, []) for name in evaluations]
    for column in columns:
        values = [estimate.value for estimate in found[column] if estimate is not None]
        best = min(values) if column.best == "min" else max(values)
        differ = min(values) < max(values)
        for row, estimate in zip(rows, found[column], strict=True):
            cell = None
            if estimate is not None:
                value, error = column.show(estimate)
                cell = Cell(value, error, estimate.n, differ and estimate.value == best)
            row.cells.append(cell)
    return columns, rows


def comparison_table(
    evaluations: Mapping[str, Mapping[str, Any]], *, titles: Mapping[str, str] | None = None
) -> Table:
    """Evaluations by name as a table for rich to print: `Console().print(comparison_table(...))`.

    Each figure with its standard error; the best of each column is bold and starred.
    """
    columns, rows = tabulate(evaluations)
    table = Table(
        box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", caption_justify="left"
    )
    table.add_column("")
    for column in columns:
        longest = max(map(len, f"{column.title} {column.unit}".split()))
        table.add_column(
            f"{column.title}\n[dim]{column.unit}[/dim]", justify="right", min_width=longest
        )
    for row in rows:
        name = Text((titles or {}).get(row.name, row.name))
        table.add_row(name, *(_terminal_cell(cell) for cell in row.cells))
    if rows and columns:
        table.caption = "± standard error" + ("   * best" if len(rows) > 1 else "")
    return table


def _terminal_cell(cell: Cell | None) -> Text:
    if cell is None:
        return Text("-", style="dim")
    text = Text(("*" if cell.best else "") + cell.value, style="bold" if cell.best else "")
    return text.append(f" {cell.error}" if cell.error else "", style="dim not bold")
