"""glassbox report: one page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report", rich_help_panel="Look")(report)


def report(
    run: Annotated[
        Path,
        typer.Argument(
            help="A run folder, finished or not, or one of `glassbox eval --tasks --out`."
        ),
    ],
) -> None:
    """Write RUN/report.html: curves, table, samples, recipe and environment on one page.

    Of an evaluation's folder: scores, calibration, preferred places, items to read.

    Example: `glassbox report runs/quickstart`
    """
    from glassbox.core.errors import UserError
    from glassbox.reports.evaluation_page import find_evaluation, write_evaluation_page
    from glassbox.reports.report import write_report

    if not run.is_dir():
        raise UserError(f"no run folder at '{run}'; give the folder that `glassbox train` wrote")
    looks_like_a_run = (run / "metrics.jsonl").exists() or (run / "quickstart.json").exists()
    evaluation = None if looks_like_a_run else find_evaluation(run)
    print(write_report(run) if evaluation is None else write_evaluation_page(evaluation))
