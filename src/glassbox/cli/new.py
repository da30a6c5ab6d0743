"""glassbox new: a commented file for a part of one's own, and its test."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("new", rich_help_panel="Extend")(new)


def new(
    kind: Annotated[
        str,
        typer.Argument(
            help="mixer, optimizer, schedule, objective, grader, source, step, metric or task."
        ),
    ],
    name: Annotated[str, typer.Argument(help="The file's name, such as my_mixer.")],
    folder: Annotated[Path, typer.Option("--folder", help="Where to write it.")] = Path(),
) -> None:
    """Write a commented file for a part of your own, and its test.

    Example: `glassbox new mixer my_mixer`
    """
    from glassbox.api.skeleton import write_skeleton

    source, test = write_skeleton(kind, name, folder)
    print(f"{source}\n{test}\ngo on with: pytest {test}", file=sys.stderr)
