"""glassbox quickstart: from nothing to a model that chats."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

SIZES = ("1m", "15m", "50m")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("quickstart", rich_help_panel="Begin")(quickstart)


def quickstart(
    fast: Annotated[
        bool, typer.Option("--fast", help="Small sizes; takes less than a minute.")
    ] = False,
    long: Annotated[
        bool, typer.Option("--long", help="Six times the training text; half an hour or more.")
    ] = False,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            help="storyworld (the default), tinystories, shakespeare, a path to text, another named "
            "set, hf:owner/name.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", help="Pre-training alone, at 1m (a CPU), 15m or 50m parameters."),
    ] = None,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke", help="The stages of tinystories offline, with the story world instead."
        ),
    ] = False,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", help="Run folder; if not given, the recipe's, such as runs/quickstart."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Random seed.")] = 0,
    language: Annotated[
        str, typer.Option("--language", help="The story world's: en or zh.")
    ] = "en",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Overrides of the recipe, as key.path=value.")
    ] = None,
) -> int:
    """Make a corpus, a tokenizer and a small model; teach it to chat, to prefer truth, and to count.

    With `--source tinystories`, or a `--size`: fetch text, train a tokenizer of 4,096 entries, encode
    the text in parallel, train a Llama of that size, let it write, and report. Run again, it goes on.

    Example: `glassbox quickstart --fast`
    """
    from glassbox.runs.quickstart import Quickstart
    from glassbox.runs.recipe import read_quickstart
    from glassbox.runs.summary import print_next_steps

    name, text = _recipe_and_source(fast, long, source, size, smoke)
    words = [f"source={text}", f"seed={seed}", f"device={device}", f"world.language={language}"]
    words += [f"out={out}"] if out else []
    recipe = read_quickstart(f"{name}.yaml", [*words, *(overrides or [])])
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
    print_next_steps(recipe.out)
    return 0


def _recipe_and_source(
    fast: bool, long: bool, source: str | None, size: str | None, smoke: bool
) -> tuple[str, str]:
    """Which recipe the options mean, and the text."""
    from glassbox.core.errors import UserError

    given = {"--fast": fast, "--long": long, "--size": size is not None, "--smoke": smoke}
    chosen = [name for name, is_given in given.items() if is_given]
    if len(chosen) > 1:
        raise UserError(f"{chosen[0]} and {chosen[1]} are both given; choose one")
    if smoke:
        if source not in (None, "tinystories"):
            raise UserError(f"--smoke stands in for tinystories, not for '{source}'; leave one out")
        return "quickstart-tinystories-smoke", "storyworld"
    if size is not None or source == "tinystories":
        if fast or long:
            raise UserError(f"{chosen[0]} is the story world's; choose a --size for tinystories")
        if size not in (None, *SIZES):
            raise UserError(f"--size = '{size}'; use one of {', '.join(SIZES)}")
        return f"quickstart-tinystories-{size or SIZES[0]}", source or "tinystories"
    name = "quickstart-fast" if fast else "quickstart-long" if long else "quickstart"
    return name, source or "storyworld"
