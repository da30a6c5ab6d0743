"""glassbox train: carry out one recipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train", rich_help_panel="Train")(train)


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe, as in `glassbox recipe list`.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Overrides of the recipe, as key.path=value.")
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Start from scratch; an existing run is moved to OUT.old-N."),
    ] = False,
    profile: Annotated[
        int,
        typer.Option("--profile", min=0, help="Profile this many steps into OUT/profile."),
    ] = 0,
) -> int:
    """Pre-train, fine-tune or align a model as a recipe says; an interrupted run is resumed.

    Example: `glassbox train recipes/pretrain/pretrain.yaml data.path=mybook.txt`

    On several processes: `torchrun --nproc-per-node 2 -m glassbox train
    recipes/pretrain/pretrain.yaml`
    """
    from glassbox.core.distributed import process_group
    from glassbox.core.metrics import read_metrics
    from glassbox.runs.recipe import read_recipe
    from glassbox.runs.train import run_recipe

    parsed = read_recipe(recipe, overrides or [])
    with process_group(parsed.device, timeout_minutes=parsed.rank_timeout_minutes) as group:
        summary = run_recipe(parsed, group=group, fresh=fresh, profile=profile)
        if not group.is_main:
            return 0
    status = summary["status"]
    if status == "interrupted":
        print(
            f"interrupted at step {summary['steps']}; run the same command to go on",
            file=sys.stderr,
        )
        return 130
    if status == "already finished":
        print(
            f"'{parsed.out}' is finished; nothing was changed (--fresh starts anew)",
            file=sys.stderr,
        )
        return 0
    for text in last_samples(read_metrics(Path(parsed.out) / "metrics.jsonl")):
        print(f"{text}\n")
    loss = summary.get("loss")
    print(
        f"done: {summary['steps']} steps, {summary['tokens']:,} tokens, "
        f"{'' if loss is None else f'loss {loss:.4f}, '}"
        f"{summary['tokens_per_second']:,.0f} tokens/s, "
        f"peak memory {summary['peak_memory_bytes'] / 2**20:,.0f} MiB\n"
        f'go on with: glassbox generate {parsed.out} --prompt "..."   '
        f"or: glassbox report {parsed.out}",
        file=sys.stderr,
    )
    return 0


def last_samples(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the model wrote when it was last asked to, where the recipe gives prompts.

    >>> last_samples([{"sample_0": "Once, a fox"}, {"sample_0": "Once a fox sat"}, {"loss": 1.0}])
    ['Once a fox sat']
    """
    found: list[str] = []
    for record in records:
        texts = [str(value) for key, value in record.items() if key.startswith("sample_")]
        found = texts or found
    return found
