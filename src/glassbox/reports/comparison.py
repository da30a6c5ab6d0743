"""A comparison of evaluated models: a table for the terminal, and a page with the items that flipped."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from glassbox.core.files import write_json, write_text
from glassbox.evaluation.comparison import Comparison, Row
from glassbox.reports.report import UNPRINTABLE

STYLES = {"better": "green", "worse": "red"}


def is_share(row: Row) -> bool:
    """Whether figures are shown in per cent."""
    return not row.unit and abs(row.first) <= 1 and abs(row.other) <= 1


def show_value(row: Row, value: float, *, sign: bool = False) -> str:
    """A figure of a row as text: per cent for shares, three decimals otherwise."""
    scaled, decimals = (100 * value, 1) if is_share(row) else (value, 3)
    return f"{scaled:{'+' if sign else ''}.{decimals}f}".replace("-", "\u2212")


def show_interval(row: Row, interval: tuple[float, float] | None) -> str:
    """Both ends."""
    if interval is None:
        return "-"
    return " to ".join(show_value(row, end, sign=True) for end in interval)


def show_p(p: float | None) -> str:
    """A p-value of two significant digits.

    >>> show_p(0.00004), show_p(0.0312)
    ('<0.001', '0.031')
    """
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def unit_of(row: Row) -> str:
    """What differences are in."""
    return "points" if is_share(row) else row.unit


def comparison_rows_table(comparison: Comparison) -> Table:
    """The comparison as a table for rich to print."""
    table = Table(
        box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", caption_justify="left"
    )
    many = len(comparison.methods) > 2
    table.add_column("task", overflow="fold")
    table.add_column("metric", overflow="fold")
    if many:
        table.add_column("method", overflow="fold")
    first = comparison.methods[0]
    for title in (first, "other" if many else comparison.methods[1], "difference", "p", "n"):
        table.add_column(Text(title, overflow="fold"), justify="right")
    table.add_column("verdict", overflow="fold")
    for row in comparison.rows:
        verdict = row.verdict(comparison.level)
        change = f"{show_value(row, row.difference, sign=True)} {unit_of(row)}".strip()
        cells: list[Any] = [row.task, row.metric]
        cells += [row.method] if many else []
        cells += [
            show_value(row, row.first),
            show_value(row, row.other),
            f"{change} ({show_interval(row, row.interval)})",
            show_p(row.p_holm),
            f"{row.n:,}",
            Text(verdict, style=STYLES.get(verdict, "dim")),
        ]
        table.add_row(*cells)
    table.caption = (
        f"differences from {first} with {100 * (1 - comparison.level):g}% intervals, item by item; "
        "p corrected over all rows (Holm)"
    )
    return table


def write_comparison(folder: Path, comparison: Comparison) -> Path:
    """Write `compare.html` and `compare.json` to a folder; the page's path."""
    write_json(folder / "compare.json", comparison.to_json())
    write_text(folder / "compare.html", render_comparison(comparison))
    return folder / "compare.html"


def render_comparison(comparison: Comparison) -> str:
    """The page: one file, no script, nothing fetched; all that models wrote is escaped."""
    files = resources.files("glassbox.reports") / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((files / "compare.html.j2").read_text(encoding="utf-8"))
    css = Markup((files / "report.css").read_text(encoding="utf-8"))
    return UNPRINTABLE.sub("\ufffd", template.render(page=_page(comparison), css=css))


def _page(comparison: Comparison) -> dict[str, Any]:
    rows = comparison.rows
    verdicts = [row.verdict(comparison.level) for row in rows]
    counts = {name: verdicts.count(name) for name in ("better", "worse", "no difference shown")}
    first, others = comparison.methods[0], comparison.methods[1:]
    return {
        "title": " and ".join((", ".join(others), first)) if len(others) < 3 else "Comparison",
        "first": first,
        "lead": (
            f"{', '.join(others)} against {first}, item by item. Differences are the other's figure "
            f"less {first}'s, with {100 * (1 - comparison.level):g}% intervals; p-values are corrected "
            f"over all {len(rows)} rows."
        ),
        "tiles": [
            {"label": name.capitalize(), "value": str(count), "detail": f"of {len(rows)} rows"}
            for name, count in counts.items()
        ],
        "notes": comparison.notes,
        "rows": [_shown(row, verdict) for row, verdict in zip(rows, verdicts, strict=True)],
        "intervals": _forest(rows),
        "flips": [
            {
                "title": f"{row.task}, {row.metric}"
                + (f", {row.method}" if len(others) > 1 else ""),
                "gained": row.gained,
                "lost": row.lost,
                "items": row.flips,
                "names": (first, row.method),
            }
            for row in rows
            if row.flips
        ],
    }


def _shown(row: Row, verdict: str) -> dict[str, Any]:
    return {
        "task": row.task,
        "metric": row.metric,
        "method": row.method,
        "first": show_value(row, row.first),
        "other": show_value(row, row.other),
        "difference": show_value(row, row.difference, sign=True),
        "unit": unit_of(row),
        "interval": show_interval(row, row.interval),
        "unpaired": show_interval(row, row.unpaired_interval),
        "detectable": "-" if row.detectable is None else show_value(row, row.detectable),
        "p": show_p(row.p),
        "p_holm": show_p(row.p_holm),
        "test": row.test,
        "n": f"{row.n:,}",
        "gained": "-" if row.gained is None else row.gained,
        "lost": "-" if row.lost is None else row.lost,
        "verdict": verdict.removesuffix(" shown"),
        "kind": verdict.split()[0],
    }


def _forest(rows: list[Row]) -> list[dict[str, Any]]:
    """Intervals as bars on one scale for each unit: places in per cent of the width."""
    shown = []
    for unit in dict.fromkeys(unit_of(row) for row in rows):
        some = [row for row in rows if unit_of(row) == unit and row.interval is not None]
        ends = [abs(end) for row in some for end in row.interval or ()]
        reach = max(ends, default=0.0) or 1.0
        for row in some:
            low, high = row.interval or (0.0, 0.0)
            left, right = (50 + 50 * end / reach for end in (low, high))
            shown.append(
                {
                    "name": f"{row.task} ({row.method})",
                    "left": f"{left:.2f}",
                    "width": f"{max(0.6, right - left):.2f}",
                    "middle": f"{50 + 50 * row.difference / reach:.2f}",
                    "amount": f"{show_value(row, row.difference, sign=True)} {unit}".strip(),
                }
            )
    return shown
