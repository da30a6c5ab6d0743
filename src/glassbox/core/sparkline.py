"""A curve in one line of text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None], width: int = 24) -> str:
    """At most `width` bars, each the mean of a stretch of values, from the least to the greatest.

    Values that are missing or not finite are left out.

    >>> sparkline([1, 2, 3, 4, 5, 6, 7, 8])
    '▁▂▃▄▅▆▇█'
    >>> sparkline([5, 5]), sparkline([])
    ('▁▁', '')
    """
    kept = [float(v) for v in values if v is not None and math.isfinite(v)]
    if len(kept) > width:
        edges = [round(place * len(kept) / width) for place in range(width + 1)]
        kept = [sum(kept[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    if not kept:
        return ""
    low, high = min(kept), max(kept)
    span = (high - low) or 1.0
    return "".join(BARS[min(7, int(8 * (value - low) / span))] for value in kept)


def braille_plot(
    values: Sequence[float | None], *, width: int = 60, height: int = 6, digits: int = 3
) -> list[str]:
    """A curve as lines of text, two by four dots a character, the greatest and least value beside it.

    Values stand evenly from left to right; those that are missing or not finite leave a gap. Where there
    are more values than columns of dots, each column shows the mean of its stretch.

    >>> for line in braille_plot([0, 1, 2, 3], width=2, height=1): print(line)
    3.000 ⡠⠊
    """
    columns = 2 * width
    means = _means(values, columns)
    kept = [value for value in means if value is not None]
    if not kept:
        return []
    low, high = min(kept), max(kept)
    span = (high - low) or 1.0
    rows = 4 * height
    cells = [[0] * width for _ in range(height)]
    for column, value in enumerate(means):
        if value is None:
            continue
        place = round((high - value) / span * (rows - 1))
        cells[place // 4][column // 2] |= DOTS[place % 4][column % 2]
    labels = [f"{high:.{digits}f}", *[""] * (height - 2), f"{low:.{digits}f}"][:height]
    margin = max(map(len, labels))
    return [
        f"{label:>{margin}} " + "".join(chr(0x2800 + bits) for bits in row)
        for label, row in zip(labels, cells, strict=True)
    ]


DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bits of a braille character's dots, by row and column."""


def _means(values: Sequence[float | None], columns: int) -> list[float | None]:
    """One value a column: the means of stretches of the finite ones, or the values spread out."""
    found: list[float | None] = []
    count = len(values)
    for column in range(min(columns, count)):
        first, end = (
            column * count // min(columns, count),
            (column + 1) * count // min(columns, count),
        )
        part = [float(v) for v in values[first:end] if v is not None and math.isfinite(v)]
        found.append(sum(part) / len(part) if part else None)
    return found
