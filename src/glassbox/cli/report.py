"""glassbox report: one page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report", rich_help_panel="Look")(report)


def report(
    run: Annotated[Path, typer.Argument(help="A run folder, finished or not.")],
) -> None:
    """Write RUN/report.html: curves, table, samples, recipe and environment on one page.

    Example: `glassbox report runs/quickstart`
    """
    from glassbox.core.errors import UserError
    from glassbox.reports.report import write_report

    if not run.is_dir():
        raise UserError(f"no run folder at '{run}'; give the folder that `glassbox train` wrote")
    print(write_report(run))
