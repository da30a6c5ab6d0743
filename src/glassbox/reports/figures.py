"""Curves as SVG that lives inside the page: its text is text, its colours are the page's own.

Figures are drawn in stand-in colours that become CSS variables, so one drawing serves light, dark
and print.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from glassbox.reports.run_data import StageRun
from glassbox.reports.table import read_estimate

INK, FAINT, GRID = "#0a0a01", "#0a0a02", "#0a0a03"
SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06")
VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    GRID: "var(--grid)",
    **{color: f"var(--series-{number})" for number, color in enumerate(SERIES, start=1)},
}
MAX_POINTS = 360
SMOOTH_FROM = 60
WIDE, SMALL = (4.9, 3.3), (2.9, 1.8)
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.unicode_minus": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 5,
}


@dataclass
class Line:
    """Values by step, and the word that stands beside the last of them."""

    label: str
    steps: NDArray[np.float64]
    values: NDArray[np.float64]
    errors: NDArray[np.float64] | None = None
    points: bool = False
    noisy: bool = True


@dataclass
class Chart:
    """One drawing: lines, level lines (label -> value), and how its numbers are written."""

    title: str
    unit: str
    lines: list[Line]
    levels: Mapping[str, float] = field(default_factory=dict)
    percent: bool = False
    from_zero: bool = False
    small: bool = False
    log: bool = False

    def to_svg(self) -> Markup:
        """The drawing as an <svg> element."""
        return draw(self)

    @property
    def is_logarithmic(self) -> bool:
        """Whether `log` was asked for and the values reach far enough, all above zero."""
        low, high = self.range
        return self.log and not self.percent and low > 0 and high / low > 6

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest of all values and levels."""
        everything = np.array([v for line in self.lines for v in line.values])
        everything = np.append(everything, list(self.levels.values()))
        return float(everything.min()), float(everything.max())

    @property
    def caption(self) -> str:
        """The unit, and that the axis is logarithmic where it is."""
        return ", ".join(filter(None, (self.unit, "log scale" if self.is_logarithmic else "")))


FORMER_NAMES = {"zero_variance_groups": "silent_groups"}
"""What metrics were called in the runs of earlier versions."""


def series(
    records: Sequence[Mapping[str, Any]], key: str, label: str = "", *, error: str | None = None
) -> Line | None:
    """The finite values of a key over the records that have it, or None where none has.

    A run of an earlier version may have the key under its former name.
    """
    found = [r for r in records if _finite(r.get(key))]
    if not found:
        former = FORMER_NAMES.get(key)
        return None if former is None else series(records, former, label, error=error)
    errors = None
    if error is not None:
        errors = np.array([float(r[error]) if _finite(r.get(error)) else 0.0 for r in found])
    steps = np.array([float(r["step"]) for r in found])
    values = np.array([float(r[key]) for r in found])
    return Line(label, steps, values, errors, points=error is not None, noisy=key != "lr")


def _finite(value: Any) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))
    )


def stage_charts(stage: StageRun, evaluation: Mapping[str, Any]) -> list[Chart]:
    """The curves of a stage: what it is trained for first and large, how it went then and small."""
    lines, evaluations = stage.lines(), stage.events("evaluation")
    charts = []
    loss = series(lines, "loss", "training")
    heldout = series(evaluations, "heldout_loss", "held-out", error="heldout_loss_error")
    levels = {}
    task = evaluation.get("heldout")
    entropy = read_estimate(task.get("entropy_nats")) if isinstance(task, Mapping) else None
    if entropy is not None and stage.name == "pretrain":
        levels = {f"entropy {entropy.value:.3f}": entropy.value}
    if loss is not None:
        unit = "nats a pair" if stage.name == "dpo" else "nats a token"
        curves = [loss, *([heldout] if heldout is not None else [])]
        title = "Policy loss" if stage.name == "grpo" else "Loss"
        policy = stage.name == "grpo"
        charts.append(Chart(title, unit, curves, levels, small=policy, log=not policy))
    for key, title, unit, percent, small in (
        ("reward", "Reward", "mean over answers", False, False),
        ("reward_margin", "Reward margin", "nats, chosen over rejected", False, False),
        ("reward_accuracy", "Reward accuracy", "pairs", True, True),
        ("answer_tokens", "Answer length", "tokens", False, True),
        ("zero_variance_groups", "Zero-variance groups", "all rewards equal", True, True),
        ("kl", "KL to the reference", "nats a token", False, True),
        ("lr", "Learning rate", "", False, True),
        ("grad_norm", "Gradient norm", "before clipping", False, True),
        ("tokens_per_second", "Speed", "tokens a second", False, True),
    ):
        line = series(lines, key)
        if line is not None and (key != "kl" or line.values.any()):
            zero = key in ("lr", "grad_norm", "tokens_per_second", "answer_tokens", "reward")
            charts.append(Chart(title, unit, [line], {}, percent, zero, small))
    charts += _task_charts(evaluations)
    return sorted(charts, key=lambda chart: chart.small)


def _task_charts(evaluations: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Tasks that were evaluated while training: all shares in one drawing, other figures apart."""
    keys = dict.fromkeys(
        key
        for record in evaluations
        for key in record
        if key.startswith("task/") and not key.endswith("_error")
    )
    shares, others = [], []
    for key in keys:
        label = key.removeprefix("task/").replace("/", " ")
        line = series(evaluations, key, label, error=f"{key}_error")
        if line is None:
            continue
        if bool((line.values >= 0).all()) and bool((line.values <= 1).all()):
            shares.append(line)
        else:
            others.append(Chart(label, "", [line], small=True))
    return [*([Chart("Tasks", "share right", shares, percent=True)] if shares else []), *others]


def draw(chart: Chart) -> Markup:
    """A chart as inline SVG: no outside reference, no fixed colour, no fixed size."""
    style: Any = {**STYLE, "svg.hashsalt": chart.title}
    with mpl.rc_context(style):
        figure = Figure(figsize=SMALL if chart.small else WIDE, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03)  # type: ignore[union-attr, call-arg]
        axes = figure.add_subplot()
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        ends = _draw_lines(axes, chart)
        for label, value in chart.levels.items():
            axes.axhline(value, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                label,
                (0, value),
                xycoords=("axes fraction", "data"),
                xytext=(3, -3),
                textcoords="offset points",
                va="top",
                fontsize=8.5,
            )
        _scale(axes, chart)
        _label(axes, ends, figure.get_figheight())
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return inline_svg(buffer.getvalue(), f"{chart.title}, {chart.caption}".rstrip(", "))


def _draw_lines(axes: Any, chart: Chart) -> list[tuple[float, str, str]]:
    """Draw them; return (last value, label, color) of those that want a name."""
    ends: list[tuple[float, str, str]] = []
    for line, color in zip(chart.lines, SERIES, strict=False):
        if line.points or len(line.values) == 1:
            axes.errorbar(
                line.steps,
                line.values,
                yerr=line.errors,
                color=color,
                marker="o",
                markersize=3.2,
                linewidth=1.3,
                elinewidth=0.8,
                clip_on=False,
                zorder=3,
            )
            steps, values = line.steps, line.values
        else:
            steps, values = thin(line.steps, line.values)
            if line.noisy and len(values) >= SMOOTH_FROM:
                axes.plot(steps, values, color=color, linewidth=0.7, alpha=0.4, clip_on=False)
                values = smooth(values)
            axes.plot(steps, values, color=color, linewidth=1.6, clip_on=False)
        if line.label and len(chart.lines) > 1:
            ends.append((float(values[-1]), line.label, color))
    return ends


def _label(axes: Any, ends: list[tuple[float, str, str]], height: float) -> None:
    """Each line's name to the right of where it ends, pushed apart where two would overlap."""
    to_axes = axes.transData + axes.transAxes.inverted()
    places = sorted(
        (float(to_axes.transform((0.0, value))[1]), label, color) for value, label, color in ends
    )
    apart = 12 / (72 * height * 0.8)
    low = -math.inf
    for place, label, color in places:
        low = max(place, low + apart)
        axes.annotate(
            label,
            (1, low),
            xycoords="axes fraction",
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=color,
            fontweight="bold",
            annotation_clip=False,
        )


def _scale(axes: Any, chart: Chart) -> None:
    steps = np.concatenate([line.steps for line in chart.lines])
    low, high = chart.range
    if chart.percent:
        axes.set_ylim(min(0.0, low), max(1.0, high) * 1.04)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f}%"))
    elif chart.is_logarithmic:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.35, high * 1.1)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x)))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4 if chart.small else 5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x, high)))
        if chart.from_zero and low >= 0:
            axes.set_ylim(0, high * 1.1 or 1)
        else:
            axes.margins(y=0.14)
    first, final = float(steps.min()), float(steps.max())
    axes.set_xlim(first if final > first else min(0.0, first - 1), final)
    axes.xaxis.set_major_locator(MaxNLocator(4 if chart.small else 6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x, final)))
    if not chart.small:
        axes.set_xlabel("step", fontsize=8.5, loc="right", labelpad=1)


def thin(
    steps: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most MAX_POINTS points: means over stretches of neighbours, which keep a spike visible."""
    if len(values) <= MAX_POINTS:
        return steps, values
    edges = np.linspace(0, len(values), MAX_POINTS + 1).astype(int)[:-1]
    counts = np.diff([*edges, len(values)])
    return np.add.reduceat(steps, edges) / counts, np.add.reduceat(values, edges) / counts


def smooth(values: NDArray[np.float64], *, share: float = 0.04) -> NDArray[np.float64]:
    """A centred mean with triangular weights over about `share` of the points on either side.

    Centred, so that it does not lag behind a steep curve; the weights are fewer at the ends.
    """
    reach = max(1, round(share * len(values)))
    weights = np.bartlett(2 * reach + 3)[1:-1]
    total = np.convolve(values, weights, mode="same")
    return total / np.convolve(np.ones_like(values), weights, mode="same")


def short_number(x: float, largest: float | None = None) -> str:
    """A tick's label, in thousands or millions where the axis reaches as far as that.

    >>> short_number(0), short_number(4000, 12000), short_number(0.003), short_number(2.5e6)
    ('0', '4k', '0.003', '2.5M')
    >>> short_number(0.00012)
    '1.2e-4'
    """
    reach = max(abs(x), largest or 0.0)
    for least, size, letter in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if reach >= least and abs(x) > 1e-12:
            return f"{x / size:.3g}{letter}"
    if abs(x) < 1e-12:
        return "0"
    return _EXPONENT.sub("e-", f"{x:.2e}") if reach < 1e-3 else f"{x:.4g}"


_EXPONENT = re.compile(r"\.?0*e-0?")
_BEFORE = re.compile(r"\A.*?(?=<svg)", re.S)
_METADATA = re.compile(r"\s*<metadata>.*?</metadata>", re.S)
_NAMESPACE = re.compile(r"\s+xmlns(?::\w+)?=\"[^\"]*\"")
_SIZE = re.compile(r"(<svg[^>]*?)\s+width=\"[^\"]*\"", re.S)
_HEIGHT = re.compile(r"(<svg[^>]*?)\s+height=\"[^\"]*\"", re.S)
_UNUSED = re.compile(r"\s*<defs>\s*<style.*?</defs>|(?<=<g) id=\"[^\"]*\"", re.S)
_FONT = re.compile(r"font-family: 'DejaVu Sans';\s*| version=\"1.1\"")


def inline_svg(svg: str, label: str) -> Markup:
    """The element alone, without namespaces or metadata (HTML needs neither), colours as variables.

    Ids of groups go, since a page holds each id once; those of clip paths are made of their content.
    """
    svg = _BEFORE.sub("", svg, count=1)
    for pattern in (_METADATA, _NAMESPACE, _UNUSED, _FONT):
        svg = pattern.sub("", svg)
    for pattern in (_SIZE, _HEIGHT):
        svg = pattern.sub(r"\1", svg, count=1)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, variable)
    opening = Markup('<svg role="img" aria-label="{}"').format(label)
    return Markup(svg.replace("<svg", opening, 1).strip())
