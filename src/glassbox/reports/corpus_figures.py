"""Drawings of a corpus: lengths, rank and frequency, growth of the vocabulary."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from glassbox.data.analysis import Analysis, Floats, PowerLaw, log_ranks
from glassbox.reports.figures import INK, SERIES, STYLE, WIDE, inline_svg, short_number

BINS = 48


@dataclass(frozen=True)
class Drawing:
    """A figure with its caption."""

    title: str
    unit: str
    svg: Markup


def signed(value: float) -> str:
    """A number of two decimals with a minus sign as long as a plus.

    >>> signed(-0.5), signed(0.5)
    ('\u22120.50', '0.50')
    """
    return f"{value:.2f}".replace("-", "\u2212")


def drawings(analysis: Analysis) -> list[Drawing]:
    """All that the numbers allow."""
    found = [histogram("Length of documents", "words", analysis.words)]
    if analysis.tokens is not None:
        found.append(histogram("Length of documents in tokens", "tokens", analysis.tokens))
    law = analysis.zipf()
    name = f"rank^{signed(law.exponent)}" if law else ""
    found.append(
        ranked("Words by rank", "occurrences of the word", analysis.frequencies(), law, name)
    )
    if analysis.token_counts is not None:
        counts = np.sort(analysis.token_counts[analysis.token_counts > 0])[::-1].astype(float)
        found.append(ranked("Tokens by rank", "occurrences of the token", counts, None, ""))
    heaps = analysis.heaps()
    name = f"n^{signed(heaps.exponent)}" if heaps else ""
    found.append(
        curve(
            "Growth of the vocabulary",
            "different words",
            "words read",
            analysis.growth[:, 0],
            analysis.growth[:, 1],
            heaps,
            name,
        )
    )
    return found


def histogram(title: str, unit: str, lengths: Sequence[int] | Any) -> Drawing:
    """How many documents are how long, on a logarithmic axis, with the median."""
    values = np.maximum(np.asarray(lengths, float), 1)
    low, high = float(values.min()), float(values.max())
    edges = np.geomspace(low, max(high, low * 1.1) * 1.0001, BINS)

    def paint(axes: Any) -> None:
        axes.set_axisbelow(True)
        counts, *_ = axes.hist(values, bins=edges, color=SERIES[0], linewidth=0)
        axes.set_ylim(0, 1.14 * counts.max())  # room for the word above the bars
        axes.set_xscale("log")
        _log_axis(axes.xaxis)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x)))
        median = float(np.median(values))
        axes.axvline(median, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"median {median:,.0f}",
            (median, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -3),
            textcoords="offset points",
            va="top",
            fontsize=8.5,
        )
        axes.set_xlabel(unit, fontsize=8.5, loc="right", labelpad=1)

    return Drawing(title, "documents", _draw(title, paint))


def ranked(title: str, unit: str, frequencies: Floats, law: PowerLaw | None, name: str) -> Drawing:
    """Frequency by rank, both logarithmic, with the law beside it."""
    ranks = log_ranks(len(frequencies))
    return curve(title, unit, "rank", ranks.astype(float), frequencies[ranks - 1], law, name)


def curve(
    title: str, unit: str, across: str, x: Floats, y: Floats, law: PowerLaw | None, name: str
) -> Drawing:
    """Points of two logarithmic axes, and a fitted law as a dashed line."""

    def paint(axes: Any) -> None:
        axes.plot(x, y, color=SERIES[0], linewidth=1.8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        if law is not None:
            fitted = law.scale * x**law.exponent
            axes.plot(x, fitted, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            middle = len(x) // 2
            rises = law.exponent > 0
            axes.annotate(
                name,
                (x[middle], fitted[middle]),
                xytext=(-8 if rises else 8, 8),
                textcoords="offset points",
                ha="right" if rises else "left",
            )
        _log_axis(axes.xaxis)
        _log_axis(axes.yaxis)
        axes.set_xlabel(across, fontsize=8.5, loc="right", labelpad=1)

    return Drawing(title, unit, _draw(title, paint))


def _log_axis(axis: Any) -> None:
    axis.set_major_locator(LogLocator(numticks=7))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x)))


def _draw(title: str, paint: Callable[[Any], None]) -> Markup:
    style: Any = {**STYLE, "svg.hashsalt": title}
    with mpl.rc_context(style):
        figure = Figure(figsize=WIDE, layout="constrained")
        axes = figure.add_subplot()
        figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        paint(axes)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return inline_svg(buffer.getvalue(), title)
