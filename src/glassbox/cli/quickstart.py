"""glassbox quickstart: from nothing to a model that chats."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("quickstart", rich_help_panel="Begin")(quickstart)


def quickstart(
    fast: Annotated[
        bool, typer.Option("--fast", help="Everything small, in under a minute.")
    ] = False,
    long: Annotated[
        bool, typer.Option("--long", help="Six times the reading, in half an hour or more.")
    ] = False,
    source: Annotated[
        str, typer.Option("--source", help="storyworld, shakespeare, or a path to text.")
    ] = "storyworld",
    out: Annotated[
        str | None, typer.Option("--out", help="Run folder; runs/quickstart if not given.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same model.")] = 0,
    language: Annotated[
        str, typer.Option("--language", help="The story world's: en or zh.")
    ] = "en",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key.path=value words laid over the recipe.")
    ] = None,
) -> int:
    """Make a corpus, a tokenizer and a small model; teach it to chat, to prefer truth, and to count.

    Example: `glassbox quickstart --fast`
    """
    from glassbox.core.errors import UserError
    from glassbox.runs.quickstart import Quickstart
    from glassbox.runs.recipe import read_quickstart
    from glassbox.runs.summary import farewell

    if fast and long:
        raise UserError("--fast and --long are both given; choose one")
    name = "quickstart-fast" if fast else "quickstart-long" if long else "quickstart"
    words = [f"source={source}", f"seed={seed}", f"device={device}", f"world.language={language}"]
    words += [f"out={out or f'runs/{name}'}", *(overrides or [])]
    recipe = read_quickstart(f"{name}.yaml", words)
    status = Quickstart(recipe).run()
    if status == "interrupted":
        print("interrupted; run the same command to go on where it stopped", file=sys.stderr)
        return 130
    if status == "already finished":
        print(
            f"'{recipe.out}' is finished, nothing was changed; "
            "name another folder with --out to run again",
            file=sys.stderr,
        )
        return 0
    farewell(recipe.out)
    return 0
