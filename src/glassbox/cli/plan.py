"""glassbox plan: what a run will take, from its specs alone."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan", rich_help_panel="Train")(plan)


def plan(
    recipe: Annotated[str, typer.Argument(help="A recipe, as in `glassbox recipe list`.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Overrides of the recipe, as key.path=value.")
    ] = None,
    devices: Annotated[int, typer.Option("--devices", min=1, max=4096)] = 8,
    device: Annotated[
        str, typer.Option("--device", help="h200, h100, a100, l40s or rtx4090.")
    ] = "h200",
    utilization: Annotated[
        float,
        typer.Option(
            "--utilization", min=0.01, max=1.0, help="Share of the device's FLOPs that are reached."
        ),
    ] = 0.4,
    rate: Annotated[
        float | None, typer.Option("--rate", min=0.0, help="Price of a device for an hour.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Parameters, FLOPs, and the memory, time and price of every layout of so many devices.

    Nothing is trained, allocated or read but the recipe.

    Example: `glassbox plan gpt2-124m.yaml data.path=mybook.txt --devices 8 --device h200 --rate 3`
    """
    import json

    from rich.console import Console

    from glassbox.core.errors import UserError
    from glassbox.reports.layouts import plan_lines, plan_table
    from glassbox.runs.plan import DEVICES
    from glassbox.runs.plan import plan as make_plan
    from glassbox.runs.recipe import read_recipe

    if device not in DEVICES:
        raise UserError(f"--device '{device}' is none of {', '.join(DEVICES)}")
    found = make_plan(
        read_recipe(recipe, overrides or []),
        devices=devices,
        device=DEVICES[device],
        utilization=utilization,
        hourly=rate,
    )
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
        return 0
    console = Console()
    for line in plan_lines(found.as_json()):
        console.print(line, highlight=False)
    console.print(plan_table(found.as_json()))
    return 0
