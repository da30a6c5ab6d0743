"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from glassbox.recommend.ranking import METRICS
from glassbox.recommend.recommending import Measured, Suggestion


def table(results: Sequence[Measured]) -> Table:
    """A row a recommender: means with 95 % intervals, and the difference to the first row's NDCG."""
    summary = results[0].summary
    unseen = (
        f", {summary['unseen']} with a target that training never saw" if summary["unseen"] else ""
    )
    made = Table(title=f"{summary['lists']:,} lists{unseen}; 95 % intervals")
    made.add_column("model", overflow="fold")
    made.add_column("kind")
    for name in METRICS:
        made.add_column(name, justify="right")
    if len(results) > 1:
        made.add_column(f"{METRICS[1]} over the first", justify="right")
    for result in results:
        cells = [figure(result.summary[name]) for name in METRICS]
        if len(results) > 1:
            cells.append(figure(result.over_first[METRICS[1]], "+") if result.over_first else "")
        made.add_row(result.name, result.kind, *cells)
    return made


def figure(value: Mapping[str, float], sign: str = "") -> str:
    """A mean and its interval.

    >>> figure({"mean": 0.25, "low": 0.2, "high": 0.3})
    '0.250 (0.200 to 0.300)'
    """
    return f"{value['mean']:{sign}.3f} ({value['low']:{sign}.3f} to {value['high']:{sign}.3f})"


def suggestions_table(found: Sequence[Suggestion]) -> Table:
    """A row a suggestion."""
    made = Table()
    made.add_column("song", overflow="fold")
    made.add_column("score", justify="right")
    made.add_column("most like, in the list", overflow="fold")
    made.add_column("cosine", justify="right")
    for one in found:
        why = str(one.nearest) if one.nearest else "(the same for every list)"
        made.add_row(
            str(one.item), f"{one.score:.3f}", why, f"{one.similarity:.2f}" if one.nearest else ""
        )
    return made
