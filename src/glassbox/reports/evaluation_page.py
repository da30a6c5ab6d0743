"""The page of an evaluation: scores, calibration, preferred places, and items to read."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from glassbox.core.errors import UserError
from glassbox.core.files import write_text
from glassbox.evaluation.calibration import Calibration, calibrate, choices
from glassbox.evaluation.tasks.results import RESULTS, read_results, read_samples
from glassbox.reports.figures import FAINT, INK, SERIES, SMALL, STYLE, inline_svg
from glassbox.reports.report import UNPRINTABLE
from glassbox.reports.task_table import task_rows

SHOWN, TEXT = 6, 700
MAX_CHARTS = 24


def is_evaluation(folder: Path) -> bool:
    """Whether a folder holds the results of `glassbox eval --tasks ... --out`."""
    return (folder / RESULTS).is_file()


def write_evaluation_page(folder: Path) -> Path:
    """Write `folder`/report.html and return its path. Raises UserError for broken files."""
    path = folder / "report.html"
    write_text(path, render_evaluation(folder))
    return path


def render_evaluation(folder: Path) -> str:
    """The page: one file, no script, nothing fetched; texts of items and answers are escaped."""
    results = read_results(folder)
    files = resources.files("glassbox.reports") / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((files / "evaluation.html.j2").read_text(encoding="utf-8"))
    css = Markup((files / "report.css").read_text(encoding="utf-8"))
    return UNPRINTABLE.sub("\ufffd", template.render(page=_page(folder, results), css=css))


def _page(folder: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    model, settings = results["model"], results["settings"]
    tasks = results["tasks"]
    items = sum(task["n"] for task in tasks.values())
    facts = ["1 task" if len(tasks) == 1 else f"{len(tasks)} tasks", f"{items:,} items"]
    if settings.get("num_fewshot") is not None:
        facts.append(f"{settings['num_fewshot']} solved examples before each")
    if settings.get("limit"):
        facts.append(f"the first {settings['limit']} items of each task")
    if settings.get("apply_chat_template"):
        facts.append("asked through the chat template")
    logged = [name for name, task in tasks.items() if task.get("samples")]
    found = [(name, calibrate(some)) for name in logged if (some := choices(_lines(folder, name)))]
    return {
        "title": f"Evaluation of {model.get('name', folder.name)}",
        "lead": ", ".join(facts) + ".",
        "rows": task_rows([results]),
        "notes": []
        if logged
        else ["Items were not kept: evaluate with --log-samples to see calibration and answers."],
        "calibration": [_calibration(*one) for one in found[:MAX_CHARTS]],
        "places": [_places(*one) for one in found[:MAX_CHARTS]],
        "left_out": max(0, len(found) - MAX_CHARTS),
        "items": [
            (name, list(islice(_items(folder, name), SHOWN))) for name in logged[:MAX_CHARTS]
        ],
        "facts": [
            (key, str(value))
            for part in ("model", "versions")
            for key, value in results[part].items()
        ],
    }


def _lines(folder: Path, task: str) -> Iterator[dict[str, Any]]:
    """Samples of a task's first filter."""
    first = None
    for line in read_samples(folder, task):
        first = first or line["filter"]
        if line["filter"] == first:
            yield line


def _calibration(name: str, found: Calibration) -> dict[str, Any]:
    return {
        "name": name,
        "svg": reliability(name, found),
        "detail": (
            f"calibration error {100 * found.error:.1f} points; confidence "
            f"{100 * found.confidence.value:.1f}%, right {100 * found.accuracy.value:.1f}%; "
            f"entropy {found.entropy.value:.2f} nats"
        ),
    }


def reliability(name: str, found: Calibration) -> Markup:
    """Accuracy by confidence, with the line where both are equal; areas of points by their counts."""
    style: Any = {**STYLE, "svg.hashsalt": name}
    with mpl.rc_context(style):
        figure = Figure(figsize=SMALL, layout="constrained")
        axes = figure.add_subplot()
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)))
        most = max(one.count for one in found.bins)
        axes.plot(
            [one.confidence for one in found.bins],
            [one.accuracy for one in found.bins],
            color=SERIES[0],
            linewidth=1.4,
        )
        axes.scatter(
            [one.confidence for one in found.bins],
            [one.accuracy for one in found.bins],
            s=[8 + 60 * one.count / most for one in found.bins],
            color=SERIES[0],
            linewidth=0,
        )
        axes.set_xlim(0, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xticks([0, 0.5, 1], ["0", "50", "100%"])
        axes.set_yticks([0, 0.5, 1], ["0", "50", "100%"])
        axes.set_xlabel("confidence", fontsize=8.5, loc="right", labelpad=1, color=FAINT)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return inline_svg(buffer.getvalue(), f"{name}: accuracy by confidence")


def _places(name: str, found: Calibration) -> dict[str, Any]:
    cells = []
    for place in found.places:
        accuracy = "-" if place.accuracy is None else f"{100 * place.accuracy.value:.0f}%"
        cells.append((f"{place.right:,}", f"{place.chosen:,}", accuracy))
    return {"name": name, "cells": cells}


def _items(folder: Path, task: str) -> Iterator[dict[str, Any]]:
    for line in _lines(folder, task):
        prompt = line["arguments"]["gen_args_0"]["arg_0"]
        judged = {name: line[name] for name in line["metrics"]}
        options = []
        if line.get("num_tokens") is not None:
            texts = [one.get("arg_1", "") for one in line["arguments"].values()]
            options = [
                (str(text), f"{result[0]:.2f}")
                for text, result in zip(texts, line["filtered_resps"], strict=False)
                if isinstance(result, list) and result and result[0] is not None
            ]
        yield {
            "doc_id": line["doc_id"],
            "prompt": _cut(str(prompt)),
            "options": options,
            "answer": "" if options else _cut(str((line["filtered_resps"] or [""])[0])),
            "target": _cut(str(line["target"])),
            "judged": ", ".join(f"{key} {_show(value)}" for key, value in judged.items()),
        }


def _show(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else str(value)


def _cut(text: str) -> str:
    return text if len(text) <= TEXT else "…" + text[-TEXT:]


def find_evaluation(path: Path) -> Path | None:
    """The evaluation in a folder, its own or the only one within; None where there is none.

    Raises UserError where there are several.
    """
    if is_evaluation(path):
        return path
    inside = sorted(one.parent for one in path.glob(f"*/{RESULTS}"))
    if len(inside) > 1:
        names = ", ".join(one.name for one in inside)
        raise UserError(f"'{path}' holds evaluations of several models ({names}); name one of them")
    return inside[0] if inside else None
