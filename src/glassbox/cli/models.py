"""glassbox models: the kinds of model there are."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("models", rich_help_panel="Look")(models)


def models(
    name: Annotated[
        str | None, typer.Argument(help="A preset or any MODEL: print its config.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List families and presets with their sizes and parts, and models that need no network.

    Example: `glassbox models`, or `glassbox models smollm2-135m`
    """
    import json

    from rich.console import Console

    from glassbox.core.config import dump_yaml
    from glassbox.reports.models_table import model_config, models_json, models_tables

    if as_json:
        found = models_json() if name is None else model_config(name).model_dump(mode="json")
        print(json.dumps(found, indent=2))
    elif name is None:
        console = Console()
        console.print(models_tables(console.width))
    else:
        print(dump_yaml(model_config(name)), end="")
