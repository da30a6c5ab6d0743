"""glassbox replay: a step of a run again, looked at from inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("replay", rich_help_panel="Look")(replay)


def replay(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    step: Annotated[int, typer.Option(min=1, help="The step to run again.")],
    top: Annotated[int, typer.Option(min=1, help="How many documents are shown.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Run a step again, to the bit, from the nearest checkpoint, and name the documents that weigh most.

    Example: `glassbox replay runs/book --step 120`
    """
    import json

    from rich.console import Console

    from glassbox.runs.replay import replay as replay_step
    from glassbox.runs.replay import replay_tables

    result = replay_step(run, step)
    if as_json:
        print(json.dumps(result.as_json(), indent=2, ensure_ascii=False))
    else:
        Console().print(replay_tables(result, top=top))
