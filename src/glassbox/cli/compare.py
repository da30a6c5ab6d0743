"""glassbox compare: what a difference between evaluated models is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare", rich_help_panel="Look")(compare)


def compare(
    methods: Annotated[
        list[str],
        typer.Argument(
            help="Folders of `glassbox eval --tasks ... --log-samples --out`, the first to compare "
            "with; NAME=DIR,DIR,... takes several runs as one method."
        ),
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", help="Such as acc_norm; repeatable. Default: each task's first."),
    ] = None,
    level: Annotated[
        float,
        typer.Option("--level", help="Significance level of the tests; intervals cover 1 - level."),
    ] = 0.05,
    flips: Annotated[
        int, typer.Option("--flips", min=0, help="Number of changed items shown for each task.")
    ] = 20,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write compare.html and compare.json there.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Paired differences with intervals, task by task, and the items that changed.

    Example: `glassbox compare evals/base evals/tuned --out comparison`
    """
    import json
    import sys

    from rich.console import Console

    from glassbox.evaluation.comparison import Method
    from glassbox.evaluation.comparison import compare as compare_methods
    from glassbox.reports.comparison import comparison_rows_table, write_comparison

    found = compare_methods(
        [Method.parse(one) for one in methods],
        metrics=metric or (),
        level=level,
        max_flips=flips,
    )
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        Console().print(comparison_rows_table(found))
        for note in found.notes:
            print(f"note: {note}", file=sys.stderr)
    if out is not None:
        print(f"written to {write_comparison(out, found)}", file=sys.stderr)
