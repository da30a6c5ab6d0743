"""glassbox eval: measure models, side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("eval", rich_help_panel="Look")(evaluate)


def evaluate(
    models: Annotated[list[str], typer.Argument(help="Runs, checkpoints or model folders.")],
    corpus: Annotated[
        str | None,
        typer.Option("--corpus", help="A story-world folder; a quickstart knows its own."),
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", help="Measure loss on this text instead.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", help="Items of each task; 0: all.")] = 0,
    prefix: Annotated[
        str,
        typer.Option("--prefix", help="Before each document of --text: auto, eos, bos or none."),
    ] = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", help="Write the figures as JSON.")
    ] = None,
    code: Annotated[
        list[str] | None,
        typer.Option("--code", help="FILE.py:NAME of a layer of your own that a model has."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Loss, excess over the exact entropy, and accuracy on questions, preferences and sums.

    Example: `glassbox eval runs/quickstart/sft runs/quickstart/grpo --limit 100`
    """
    from rich.console import Console

    from glassbox.core.files import write_json
    from glassbox.reports.table import comparison_table
    from glassbox.runs.evaluate import evaluate_models
    from glassbox.tokenizers.prefix import check_prefix

    results = evaluate_models(
        models,
        corpus=corpus,
        text=text,
        limit=limit,
        prefix=check_prefix(prefix),
        device=device,
        code=code or (),
    )
    Console().print(comparison_table(results))
    if output is not None:
        write_json(output, results)
        print(f"written to {output}", file=sys.stderr)
