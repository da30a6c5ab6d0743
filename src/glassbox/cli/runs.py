"""glassbox runs: the runs in a folder, and some of them side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

runs = typer.Typer(help="List runs, or compare some of them.", invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(runs, name="runs", rich_help_panel="Look")


@runs.callback()
def list_runs(
    ctx: typer.Context,
    folder: Annotated[
        Path, typer.Option("--in", help="Folder in which, and below which, runs lie.")
    ] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the runs of a folder: state, step, loss, model, time, size.

    Example: `glassbox runs`
    """
    if ctx.invoked_subcommand is not None:
        return
    import json

    from rich.console import Console

    from glassbox.reports.runs import describe, find_runs, runs_json, runs_table

    lines = [describe(run) for run in find_runs(folder)]
    if as_json:
        print(json.dumps(runs_json(lines), indent=2))
    elif not lines:
        print(f"no run lies in '{folder}'")
    else:
        Console().print(runs_table(lines))


@runs.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Two to six run folders.")],
    page: Annotated[
        Path | None, typer.Option(help="Write a page with the curves here, as compare.html.")
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0, help="Price of an hour, in any currency.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show runs side by side: results, settings that differ, cost; with --page also the curves.

    Example: `glassbox runs compare runs/a runs/b --page compare.html`
    """
    import json

    from rich.console import Console

    from glassbox.core.files import write_text
    from glassbox.reports.runs import (
        compare_runs,
        comparison_json,
        comparison_page,
        comparison_tables,
    )

    found = compare_runs(folders, price=price)
    if as_json:
        print(json.dumps(comparison_json(found), indent=2, ensure_ascii=False))
    else:
        Console().print(comparison_tables(found))
    if page is not None:
        write_text(page, comparison_page(found))
        print(page)
