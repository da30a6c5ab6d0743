"""Task results side by side, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from glassbox.evaluation.tasks.catalogue import Catalogue

_SHARES = ("acc", "exact_match", "pass", "em", "f1", "centred", "mcc")


class TaskRow(NamedTuple):
    """A metric of a task or group: its name, and each model's figure as text."""

    task: str
    metric: str
    n: int
    cells: list[str]
    is_group: bool


def show(entry: Mapping[str, Any]) -> tuple[str, str]:
    """A figure and its error as text."""
    value, error = entry.get("value"), entry.get("standard_error")
    if value is None:
        return "-", ""
    share = bool(entry.get("is_share"))
    factor, decimals = (100.0, 1) if share else (1.0, 3)
    text = f"{value * factor:.{decimals}f}{'%' if share else ''}"
    return text, "" if error is None else f"±{error * factor:.{decimals}f}"


def task_rows(results: Sequence[Mapping[str, Any]]) -> list[TaskRow]:
    """Groups first, then tasks, a row a metric and filter; a cell a model."""
    rows = []
    for part, is_group in (("groups", True), ("tasks", False)):
        names = dict.fromkeys(name for one in results for name in one[part])
        for name in names:
            entries = [one[part].get(name, {}).get("metrics", {}) for one in results]
            for key in dict.fromkeys(key for metrics in entries for key in metrics):
                metric, _, filtered = key.partition(",")
                share = metric.startswith(_SHARES)
                cells = [
                    " ".join(filter(None, show({**metrics[key], "is_share": share})))
                    if key in metrics
                    else "-"
                    for metrics in entries
                ]
                first = next(metrics[key] for metrics in entries if key in metrics)
                shown = metric if filtered == "none" else f"{metric} ({filtered})"
                rows.append(TaskRow(name, shown, first["n"], cells, is_group))
    return rows


def task_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """Results by model as a table for rich to print."""
    table = Table(
        box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", caption_justify="left"
    )
    table.add_column("task")
    table.add_column("metric")
    table.add_column("n", justify="right")
    for name in results:
        table.add_column(Text(name), justify="right")
    last = None
    for row in task_rows(list(results.values())):
        task = Text(row.task if row.task != last else "", style="bold" if row.is_group else "")
        table.add_row(task, row.metric, f"{row.n:,}", *row.cells)
        last = row.task
    table.caption = "± standard error; n items (of a centred group: tasks)"
    return table


def contamination_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """Each task's overlap with training data, and its first metric on all items and on clean ones."""
    table = Table(
        box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", caption_justify="left"
    )
    for title in ("task", "model"):
        table.add_column(title)
    for title in ("judged", "clean", "contaminated", "overlap", "all items", "clean items"):
        table.add_column(title, justify="right")
    for model, one in results.items():
        for name, task in one["tasks"].items():
            found = task.get("contamination")
            if found is None or not task["metrics"]:
                continue
            key = next(iter(task["metrics"]))
            share = key.startswith(_SHARES)
            sides = [task["metrics"][key], found["clean_metrics"].get(key, {})]
            cells = [" ".join(filter(None, show({**entry, "is_share": share}))) for entry in sides]
            mean = found["mean_overlap"]
            table.add_row(
                Text(name),
                Text(model),
                f"{found['judged']:,}",
                f"{found['clean']:,}",
                f"{found['contaminated']:,}",
                "-" if mean is None else f"{mean:.1%}",
                *cells,
            )
    table.caption = "overlap: share of tokens in 10-grams of training data; clean below 20%, contaminated from 80%"
    return table


def list_table(catalogue: Catalogue) -> Table:
    """Groups and tasks with what they are about; tasks of a group are counted, not listed."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("name", "output", "examples", "about"):
        table.add_column(title)
    inside = set()
    for name, group in sorted(catalogue.groups.items()):
        members = [one.task for one in catalogue.select([name])[0]]
        if len(members) > 10:
            inside.update(members)
        table.add_row(Text(name, style="bold"), f"{len(members)} tasks", "", group.about)
    for name, task in sorted(catalogue.tasks.items()):
        if name not in inside:
            count = task.fewshot.count
            table.add_row(name, task.output.kind, "" if count is None else str(count), task.about)
    return table
