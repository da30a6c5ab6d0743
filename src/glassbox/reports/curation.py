"""The page of a curated folder: what was dropped by which step for what reason, and documents to read."""

from __future__ import annotations

import itertools
import json
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from glassbox.core.errors import UserError
from glassbox.core.progress import format_seconds
from glassbox.reports.report import UNPRINTABLE

SHOWN = 10


def render_curation(folder: Path) -> str:
    """The page: one file, no script, nothing fetched; all text of documents is escaped.

    Raises UserError where the folder holds no report.json of a curation.
    """
    report = _read(folder / "report.json")
    if "kept_samples" not in report:
        raise UserError(f"'{folder}' holds no report of `glassbox data curate`")
    files = resources.files("glassbox.reports") / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((files / "curate.html.j2").read_text(encoding="utf-8"))
    css = Markup((files / "report.css").read_text(encoding="utf-8"))
    page = _page(folder, report, _read(folder / "timing.json"))
    return UNPRINTABLE.sub("\ufffd", template.render(page=page, css=css))


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def _page(folder: Path, report: dict[str, Any], timing: dict[str, Any]) -> dict[str, Any]:
    recipe = folder / "recipe.yaml"
    return {
        "name": folder.resolve().name,
        "title": f"What became of {report['read']:,} documents",
        "lead": _lead(report),
        "tiles": _tiles(report, timing),
        "notes": _notes(report),
        "rows": _rows(report),
        "dropped": [_sample(sample) for sample in choose(report["dropped_samples"], SHOWN)],
        "kept": [_sample(sample) for sample in report["kept_samples"][:SHOWN]],
        "timings": _timings(timing),
        "recipe": recipe.read_text(encoding="utf-8") if recipe.exists() else "",
        "out": str(folder),
    }


def choose(samples: dict[str, list[dict[str, Any]]], count: int) -> list[dict[str, Any]]:
    """Samples of all reasons in turn, so that a frequent reason does not hide a rare one.

    >>> choose({"a": [{"id": 1}, {"id": 2}], "b": [{"id": 3}]}, 3)
    [{'id': 1}, {'id': 3}, {'id': 2}]
    """
    rounds = itertools.zip_longest(*samples.values())
    return [sample for each in rounds for sample in each if sample is not None][:count]


def _lead(report: dict[str, Any]) -> str:
    share = report["kept"] / report["read"] if report["read"] else 0
    reasons = sum(len(step["dropped"]) for step in report["steps"])
    return (
        f"{report['read_bytes'] / 1e6:,.1f} MB of text went in and "
        f"{report['kept_bytes'] / 1e6:,.1f} MB came out: {report['kept']:,} documents for "
        f"{report['read']:,} read ({share:.0%}), {report['dropped']:,} dropped for {reasons} "
        f"reason{'s' * (reasons != 1)}."
    )


def _tiles(report: dict[str, Any], timing: dict[str, Any]) -> list[dict[str, str]]:
    read = report["read"] or 1
    tiles = [
        {"label": "Kept", "value": f"{report['kept']:,}", "detail": f"of {report['read']:,} read"},
        {
            "label": "Dropped",
            "value": f"{report['dropped']:,}",
            "detail": f"{report['dropped'] / read:.1%} of what was read",
        },
        {
            "label": "Text kept",
            "value": f"{report['kept_bytes'] / (report['read_bytes'] or 1):.0%}",
            "detail": "of the bytes read",
        },
        {"label": "Corrupt", "value": f"{report['corrupt']:,}", "detail": "records not readable"},
    ]
    if "seconds_this_time" in timing:
        tiles.append(
            {
                "label": "Time",
                "value": format_seconds(timing["seconds_this_time"]),
                "detail": f"{timing['workers']} worker{'s' * (timing['workers'] != 1)}",
            }
        )
    return tiles


def _notes(report: dict[str, Any]) -> list[str]:
    notes = list(report["corrupt_listed"])
    if report["corrupt"] > len(notes):
        notes.append(f"and {report['corrupt'] - len(notes):,} corrupt records more")
    notes += [f"{count:,} repaired: {what}" for what, count in report["repaired"].items()]
    notes += [
        f"{count:,} file{'s' * (count != 1)} ending in {ending} passed over"
        for ending, count in report["ignored_files"].items()
    ]
    return notes


def _rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a step and, below it, one a reason."""
    rows = []
    for step in report["steps"]:
        entered = step["records_in"]
        dropped = sum(step["dropped"].values())
        rows.append(
            {
                "name": step["name"],
                "step": True,
                "entered": f"{entered:,}" if entered else "–",
                "changed": f"{step['changed']:,}",
                "dropped": f"{dropped:,}",
                "share": _share(dropped, entered),
            }
        )
        rows += [
            {
                "name": reason,
                "step": False,
                "entered": "",
                "changed": "",
                "dropped": f"{count:,}",
                "share": _share(count, entered),
            }
            for reason, count in step["dropped"].items()
        ]
    return rows


def _share(count: int, entered: int) -> str:
    return f"{count / entered:.1%}" if entered else ""


def _sample(sample: dict[str, Any]) -> dict[str, str]:
    text = sample["text"]
    if sample["length"] > len(text):
        text += f" … ({sample['length']:,} characters)"
    title = f"{sample['step']}: {sample['reason']}" if "step" in sample else ""
    return {"id": sample["id"], "title": title, "detail": sample.get("detail", ""), "text": text}


def _timings(timing: dict[str, Any]) -> list[dict[str, str]]:
    spent = {name: value for name, value in timing.get("worker_seconds", {}).items() if value > 0}
    longest = max(spent.values(), default=0.0)
    rates = timing.get("megabytes_per_second", {})
    return [
        {
            "title": name,
            "width": f"{100 * seconds / longest:.1f}",
            "amount": f"{rates[name]:,.1f} MB/s" if rates.get(name) else format_seconds(seconds),
        }
        for name, seconds in spent.items()
    ]
