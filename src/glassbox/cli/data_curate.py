"""glassbox data curate: messy text to clean documents."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def curate(
    recipe: Annotated[str, typer.Argument(help="A recipe of stage curate.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Overrides of the recipe, as key.path=value.")
    ] = None,
) -> int:
    """Clean, filter and deduplicate text as a recipe says; resumes what was interrupted.

    Example: `glassbox data curate recipes/curate/curate-web.yaml source=web.jsonl out=runs/web`
    """
    from glassbox.runs.curate import curate as carry_out
    from glassbox.runs.curate import describe
    from glassbox.runs.recipe import read_curate_recipe

    parsed = read_curate_recipe(recipe, overrides or [])
    summary = carry_out(parsed)
    if summary["status"] == "interrupted":
        print("interrupted; run the same command to go on", file=sys.stderr)
        return 130
    if summary["status"] == "already finished":
        print(f"'{parsed.out}' is finished; nothing was changed", file=sys.stderr)
        return 0
    out = Path(parsed.out)
    print(describe(out), file=sys.stderr)
    print(
        f"read the report: {out / 'report.html'}\n"
        f"go on with: glassbox train recipes/pretrain/pretrain.yaml data.path={out}",
        file=sys.stderr,
    )
    return 0
