"""Item vectors in two dimensions: principal components by hand, and a drawing of them."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from glassbox.core.files import write_text
from glassbox.recommend.playlists import Seen
from glassbox.recommend.recommender import normalized

MOST_GROUPS = 10
NAMED = 12


def principal_components(
    rows: Float[ndarray, "N D"], count: int = 2
) -> tuple[Float[ndarray, "N C"], Float[ndarray, " C"]]:
    """Rows along the directions in which they vary most, and the share of the variance of each.

    With X the rows less their mean, the directions are the eigenvectors of X^T X / (N - 1) with the
    largest eigenvalues; each is turned so that its largest coordinate is positive.
    Raises ValueError for fewer than two rows or than `count` columns.
    Tested against: torch.pca_lowrank and numpy's singular values.
    """
    if len(rows) < 2 or rows.shape[1] < count:
        raise ValueError(f"{rows.shape[0]} rows of {rows.shape[1]}: too few for {count} components")
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    covariance = centred.T @ centred / (len(rows) - 1)
    values, vectors = np.linalg.eigh(covariance)  # ascending
    directions = vectors[:, ::-1][:, :count]
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(count)])
    total = max(float(values.sum()), 1e-300)
    return centred @ directions, values[::-1][:count] / total


def draw_map(vectors: Float[ndarray, "N D"], seen: Seen, path: Path) -> bool:
    """Write an SVG of all items that have a vector, coloured by group; false where fewer than three do.

    The most frequent items are named. Vectors are normalized first, since cosines compare them.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    there = np.flatnonzero(vectors.any(axis=1)).tolist()
    if len(there) < 3 or vectors.shape[1] < 2:
        return False
    places, shares = principal_components(normalized(vectors[there]))
    groups = np.array([seen.items[i].group for i in there])
    common = [group for group, _ in Counter(groups.tolist()).most_common(MOST_GROUPS)]
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "glassbox", "font.size": 8}
    with mpl.rc_context(style):
        figure = Figure(figsize=(8, 7), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for number, group in enumerate(sorted(common)):
            here = groups == group
            label = group or "all"
            axes.scatter(
                places[here, 0],
                places[here, 1],
                s=9,
                color=f"C{number % 10}",
                label=label,
                linewidths=0,
            )
        rest = ~np.isin(groups, common)
        if rest.any():
            axes.scatter(
                places[rest, 0], places[rest, 1], s=9, color="0.75", label="others", linewidths=0
            )
        frequent = np.argsort(-seen.counts[there], kind="stable")[:NAMED]
        for place in frequent:
            title = seen.items[there[place]].title.replace("$", r"\$")
            axes.annotate(
                title, places[place], fontsize=6.5, xytext=(3, 2), textcoords="offset points"
            )
        axes.set_xlabel(f"first component, {shares[0]:.0%} of the variance")
        axes.set_ylabel(f"second component, {shares[1]:.0%}")
        axes.spines[["top", "right"]].set_visible(False)
        if len(common) > 1:
            axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    write_text(path, stream.getvalue())
    return True
