"""glassbox verify: whether layouts of several ranks compute what one rank computes."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("verify", rich_help_panel="Train")(verify)


def verify(
    recipe: Annotated[str, typer.Argument(help="A recipe, as in `glassbox recipe list`.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Overrides of the recipe, as key.path=value.")
    ] = None,
    layouts: Annotated[
        str,
        typer.Option("--layouts", help="Layouts such as dp2, zero2, fsdp2, tp2, fsdp2xtp2."),
    ] = "dp2,zero2,fsdp2,tp2",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Compare one optimizer step in each layout, on processes of this machine, with one rank in float64.

    Loss, every gradient, their norm and every weight after the step: within rounding, or a bug.
    The batch is of random tokens; the data of the recipe are not read.

    Example: `glassbox verify pretrain.yaml data.path=mybook.txt model.num_layers=2 --layouts dp2,fsdp2`
    """
    import json

    from rich.console import Console

    from glassbox.reports.layouts import verdict_table
    from glassbox.runs.recipe import read_recipe
    from glassbox.runs.verify import case_of
    from glassbox.runs.verify import verify as verify_layouts

    names = [name.strip() for name in layouts.split(",") if name.strip()]
    parsed = read_recipe(recipe, overrides or [])
    verdicts = verify_layouts(case_of(parsed, names), names)
    if as_json:
        print(json.dumps([verdict.as_json() for verdict in verdicts], indent=2))
    else:
        Console().print(verdict_table(verdicts))
    return int(any(verdict.bugs for verdict in verdicts))
