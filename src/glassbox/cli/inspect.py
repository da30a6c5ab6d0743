"""glassbox inspect: a text as a model reads it."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect", rich_help_panel="Look")(inspect)


def inspect(
    model: Annotated[str, typer.Argument(help="A run, a checkpoint, a folder, a file, a name.")],
    text: Annotated[str, typer.Argument(help="The text that it reads.")],
    top: Annotated[int, typer.Option("--top", help="Next tokens shown.", min=1, max=20)] = 3,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show each token of a text: its log-probability, what the model expected next, and from which layer on.

    Example: `glassbox inspect smollm2 "The capital of France is"`
    """
    import json

    from rich.console import Console

    from glassbox.api.loaded import load
    from glassbox.cli.inspect_view import summary_table
    from glassbox.inspection.summary import token_summary

    loaded = load(model, device=device)
    found = token_summary(loaded.model, loaded.tokenizer, text, top=top)
    if as_json:
        print(json.dumps([one.to_json() for one in found], ensure_ascii=False, indent=2))
    else:
        Console().print(summary_table(found, num_layers=len(loaded.model.blocks)))
