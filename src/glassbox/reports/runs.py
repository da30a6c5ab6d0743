"""Runs side by side: a list of all in a folder, and a comparison of some: settings, curves, cost."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from glassbox.core.errors import UserError
from glassbox.core.progress import format_seconds
from glassbox.core.sparkline import sparkline
from glassbox.formats.checkpoints import list_checkpoints
from glassbox.reports.figures import Chart, series
from glassbox.reports.run_data import RunReader

DEEPEST = 3
"""How many folders below the given one runs are looked for."""


@dataclass
class RunLine:
    """One run as the list shows it; what is not known is None."""

    path: str
    stage: str
    state: str
    step: int
    steps: int | None
    loss: float | None
    heldout_loss: float | None
    model: str
    parameters: int | None
    tokens: int
    seconds: float
    bytes: int


@dataclass
class Run:
    """A run's files, read leniently."""

    folder: Path
    recipe: dict[str, Any]
    records: list[dict[str, Any]]
    summary: dict[str, Any]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The records of training itself."""
        return [record for record in self.records if "event" not in record]

    def events(self, name: str) -> list[dict[str, Any]]:
        """The records of one event."""
        return [record for record in self.records if record.get("event") == name]

    def last(self, key: str) -> Any:
        """The last value of a metric that is a number; None where there is none."""
        for record in reversed(self.records):
            if isinstance(record.get(key), (int, float)):
                return record[key]
        return None


def find_runs(folder: Path) -> list[Path]:
    """Every training run in a folder or below it, by name.

    Raises UserError where there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder '{folder}'; name one with --in")
    patterns = ("/".join(["*"] * depth + ["recipe.yaml"]) for depth in range(DEEPEST + 1))
    found = (recipe.parent for pattern in patterns for recipe in folder.glob(pattern))
    return sorted(run for run in found if (run / "metrics.jsonl").exists())


def read_one(folder: Path) -> Run:
    """A run's files. Raises UserError where the folder is no training run's."""
    if not (folder / "recipe.yaml").is_file():
        raise UserError(
            f"'{folder}' is no run: it holds no recipe.yaml; `glassbox runs` lists some"
        )
    reader = RunReader(folder)
    try:
        recipe = yaml.safe_load(reader.text(folder / "recipe.yaml") or "")
    except yaml.YAMLError:
        recipe = None
    return Run(
        folder,
        recipe if isinstance(recipe, dict) else {},
        reader.metrics(folder / "metrics.jsonl"),
        reader.mapping(folder / "DONE.json"),
    )


def state_of(run: Run) -> str:
    """finished, stopped early, running, interrupted (it can go on), or not begun."""
    if run.summary:
        return "stopped early" if run.summary.get("stopped_early") else "finished"
    lock = run.folder / ".lock"
    if lock.exists():
        try:
            with FileLock(str(lock), timeout=0):
                pass
        except (Timeout, OSError):
            return "running"
    return "interrupted" if list_checkpoints(run.folder / "checkpoints") else "not begun"


def describe(folder: Path) -> RunLine:
    """What the list says of a run."""
    run = read_one(folder)
    lines = run.lines
    train = run.recipe.get("train") or {}
    shape = run.recipe.get("model")
    model = str(run.recipe.get("init") or "")
    if not model and isinstance(shape, dict):
        sizes = (shape.get(key) for key in ("kind", "hidden_size", "num_layers"))
        model = " x ".join(str(size) for size in sizes if size)
    step = int(run.summary.get("steps") or (lines[-1]["step"] if lines else 0))
    return RunLine(
        path=folder.as_posix(),
        stage=str(run.recipe.get("stage", "?")),
        state=state_of(run),
        step=step,
        steps=train.get("steps") if isinstance(train, dict) else None,
        loss=run.last("loss"),
        heldout_loss=run.last("heldout_loss"),
        model=model,
        parameters=run.summary.get("parameters") or _parameters(folder),
        tokens=int(run.summary.get("tokens") or run.last("tokens") or 0),
        seconds=float(run.summary.get("seconds") or run.last("seconds") or 0.0),
        bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
    )


def _parameters(folder: Path) -> int | None:
    """Numbers in the last checkpoint's model, by the header of its file."""
    checkpoints = list_checkpoints(folder / "checkpoints")
    if not checkpoints:
        return None
    try:
        with (checkpoints[-1] / "model.safetensors").open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(size, 1 << 26)))
    except (OSError, ValueError, struct.error):
        return None
    total = 0
    for name, entry in header.items():
        if name != "__metadata__":
            count = 1
            for axis in entry["shape"]:
                count *= axis
            total += count
    return total


def runs_table(lines: Sequence[RunLine]) -> Table:
    """The list for a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "stage", "state", "step", "loss", "held-out", "model", "time", "size"):
        right = name in ("step", "loss", "held-out", "time", "size")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for line in lines:
        table.add_row(
            line.path,
            line.stage,
            line.state,
            f"{line.step:,}" + (f" / {line.steps:,}" if line.steps else ""),
            _number(line.loss),
            _number(line.heldout_loss),
            line.model + (f" ({_count(line.parameters)})" if line.parameters else ""),
            format_seconds(line.seconds),
            _bytes(line.bytes),
        )
    return table


def runs_json(lines: Iterable[RunLine]) -> list[dict[str, Any]]:
    """The list as JSON."""
    return [asdict(line) for line in lines]


@dataclass
class Comparison:
    """Some runs side by side: each table is rows of a name and a cell for each run."""

    names: list[str]
    runs: list[Run]
    results: list[tuple[str, list[str]]]
    settings: list[tuple[str, list[str]]]
    cost: list[tuple[str, list[str]]]

    def charts(self) -> list[Chart]:
        """The curves that more than one run has, one line a run."""
        found = []
        for key, title, unit, event in (
            ("loss", "Training loss", "nats", None),
            ("heldout_loss", "Held-out loss", "nats", "evaluation"),
            ("reward", "Reward", "mean over answers", None),
            ("grad_norm", "Gradient norm", "before clipping", None),
            ("lr", "Learning rate", "", None),
            ("tokens_per_second", "Speed", "tokens a second", None),
        ):
            lines = [
                series(run.lines if event is None else run.events(event), key, name)
                for name, run in zip(self.names, self.runs, strict=True)
            ]
            there = [line for line in lines if line is not None]
            if there:
                small = key in ("grad_norm", "lr", "tokens_per_second")
                found.append(Chart(title, unit, there, small=small, log=key == "loss"))
        return found


MOST = 6
"""How many runs are compared at once: as many as there are colours."""


def compare_runs(folders: Sequence[Path], *, price: float | None = None) -> Comparison:
    """Results, settings that differ, and cost of some runs. `price` is of an hour.

    Raises UserError for fewer than two or more than MOST.
    """
    if not 2 <= len(folders) <= MOST:
        raise UserError(f"{len(folders)} runs cannot be compared; name 2 to {MOST}")
    runs = [read_one(folder) for folder in folders]
    described = [describe(folder) for folder in folders]
    best = [_best(run) for run in runs]
    results = [
        ("state", [line.state for line in described]),
        ("step", [f"{line.step:,}" for line in described]),
        ("loss", [_number(line.loss) for line in described]),
        ("held-out loss", [_number(line.heldout_loss) for line in described]),
        ("best held-out loss", best),
        ("loss curve", [sparkline([r["loss"] for r in run.lines if "loss" in r]) for run in runs]),
        ("skipped steps", [str(len(run.events("skipped"))) for run in runs]),
        ("alarms", [str(len(run.events("alarm"))) for run in runs]),
    ]
    cost = [
        ("parameters", [_count(line.parameters) for line in described]),
        ("tokens", [_count(line.tokens) for line in described]),
        (
            "tokens a second",
            [
                _count(round(line.tokens / line.seconds)) if line.seconds else "-"
                for line in described
            ],
        ),
        ("time", [format_seconds(line.seconds) for line in described]),
        ("compute, 6 N D", [_flops(line) for line in described]),
        ("size on disk", [_bytes(line.bytes) for line in described]),
    ]
    if price is not None:
        cost.append(("price", [f"{line.seconds / 3600 * price:,.2f}" for line in described]))
    return Comparison(
        _short_names(folders), runs, results, _differing([run.recipe for run in runs]), cost
    )


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of paths, as many as tell them apart."""
    for count in (1, 2, 3):
        names = ["/".join(folder.resolve().parts[-count:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [folder.as_posix() for folder in folders]


def _differing(recipes: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    flat = [_flatten(recipe) for recipe in recipes]
    keys = dict.fromkeys(key for one in flat for key in one if key != "out")
    rows = [(key, [one.get(key, "-") for one in flat]) for key in keys]
    return [(key, cells) for key, cells in rows if len(set(cells)) > 1]


def _flatten(value: Any, path: str = "") -> dict[str, str]:
    """{"key.path": value as text} of a nested recipe.

    >>> _flatten({"a": {"b": 1, "c": None}, "d": [1, 2]})
    {'a.b': '1', 'a.c': 'null', 'd': '[1, 2]'}
    """
    if isinstance(value, dict) and value:
        found: dict[str, str] = {}
        for key, inner in value.items():
            found |= _flatten(inner, f"{path}.{key}".lstrip("."))
        return found
    return {path: json.dumps(value, ensure_ascii=False).strip('"')}


def _best(run: Run) -> str:
    values = [r["heldout_loss"] for r in run.events("evaluation") if r.get("heldout_loss")]
    return _number(min(values)) if values else "-"


def _flops(line: RunLine) -> str:
    return f"{6 * line.parameters * line.tokens:.2g} FLOPs" if line.parameters else "-"


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, (int, float)) else "-"


def _count(value: int | None) -> str:
    """
    >>> _count(1234), _count(51_000_000), _count(None)
    ('1,234', '51.0M', '-')
    """
    if value is None:
        return "-"
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):.1f}{letter}"
    return f"{value:,}"


def _bytes(value: float) -> str:
    """
    >>> _bytes(2048), _bytes(3.5 * 2**30)
    ('2.0 KiB', '3.5 GiB')
    """
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def comparison_tables(comparison: Comparison) -> Group:
    """The comparison for a terminal."""
    parts: list[RenderableType] = []
    for title, rows in (
        ("Results", comparison.results),
        ("Settings that differ", comparison.settings),
        ("Cost", comparison.cost),
    ):
        if not rows:
            parts.append(Text(f"{title}: none\n"))
            continue
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        table.add_column("", style="bold", overflow="fold")
        for name in comparison.names:
            table.add_column(name, justify="right", overflow="fold")
        for name, cells in rows:
            table.add_row(name, *cells)
        parts += [table, Text("")]
    return Group(*parts)


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON: {table: {row: {run: cell}}}."""
    tables = {
        "results": comparison.results,
        "settings": comparison.settings,
        "cost": comparison.cost,
    }
    return {
        title: {name: dict(zip(comparison.names, cells, strict=True)) for name, cells in rows}
        for title, rows in tables.items()
    }


def comparison_page(comparison: Comparison) -> str:
    """The comparison as one page: no script, nothing fetched, all text escaped."""
    files = resources.files("glassbox.reports") / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((files / "runs.html.j2").read_text(encoding="utf-8"))
    css = Markup((files / "report.css").read_text(encoding="utf-8"))
    return template.render(
        names=comparison.names,
        tables=[
            ("Results", comparison.results),
            ("Settings that differ", comparison.settings),
            ("Cost", comparison.cost),
        ],
        charts=comparison.charts(),
        css=css,
    )
