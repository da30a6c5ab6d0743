"""glassbox quickstart: from nothing to a model that chats."""

from __future__ import annotations

import sys
from typing import Annotated, Any

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
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            help="Measure this machine, and train as long as fits into so many minutes; default 6.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            help="Steps of pre-training; the rest follows from them, nothing is measured.",
        ),
    ] = None,
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
    recipe_name: Annotated[
        str | None,
        typer.Option("--recipe", help="Another quickstart's recipe: storyteller.yaml, or a file."),
    ] = None,
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

    _one_of({"--minutes": minutes is not None, "--steps": steps is not None})
    named = {"--recipe": recipe_name is not None}
    others = {"--fast": fast, "--long": long, "--size": size is not None, "--smoke": smoke}
    for option, is_given in {**others, "--source": source is not None}.items():
        _one_of({**named, option: is_given})
    if minutes is not None or steps is not None:
        sized = {"--fast": fast, "--size": size is not None, "--smoke": smoke, **named}
        for option, is_given in {**sized, "--source tinystories": source == "tinystories"}.items():
            _one_of({option: is_given, "--minutes or --steps": True})
    if minutes is not None:
        from glassbox.runs.budget import LONG_MINUTES, check_minutes

        check_minutes(minutes)
        long = long or minutes >= LONG_MINUTES
    name, text = _recipe_and_source(fast, long, source, size, smoke)
    words = [f"source={text}", f"seed={seed}", f"device={device}", f"world.language={language}"]
    file = f"{name}.yaml"
    if recipe_name is not None:
        file, words = recipe_name, words[1:]
    words += [f"out={out}"] if out else []
    is_sized = fast or smoke or size is not None or text == "tinystories" or named["--recipe"]
    is_long = long and minutes is None and steps is None  # as its recipe says
    if not (is_sized or is_long) and not any(".steps=" in word for word in overrides or []):
        words += _lengths(name, [*words, *(overrides or [])], minutes, steps)
    recipe = read_quickstart(file, [*words, *(overrides or [])])
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


def _lengths(name: str, words: list[str], minutes: float | None, steps: int | None) -> list[str]:
    """How long the stages are, as overrides: those of a run that was begun, else by what was asked for."""
    from glassbox.core.errors import UserError
    from glassbox.runs import budget
    from glassbox.runs.quickstart import Quickstart
    from glassbox.runs.recipe import read_quickstart

    recipe = read_quickstart(f"{name}.yaml", words)
    begun = budget.begun_lengths(recipe.out)
    if begun is not None and steps is None:
        return begun
    run = Quickstart(recipe)
    run.check()
    pretrain: Any = run.stage_recipe("pretrain")
    stages = [stage for stage in budget.STAGES if getattr(recipe, stage) is not None]
    long = name == "quickstart-long"
    tokens = pretrain.data.rows_per_step * pretrain.data.row_length
    if steps is not None:
        if steps < 1:
            raise UserError(f"--steps {steps}: give at least 1")
        return budget.lengths(steps, long=long, step_tokens=tokens).overrides(stages)
    policy: Any = run.stage_recipe("grpo") if "grpo" in stages else None
    minutes = budget.DEFAULT_MINUTES if minutes is None else minutes
    print("measuring this machine for some seconds (--steps N: not)", file=sys.stderr, flush=True)
    speed = budget.measure(recipe, pretrain, None if policy is None else policy.grpo)
    chosen = budget.steps_for(minutes, speed, long=long, step_tokens=tokens)
    print(budget.say(chosen, speed, minutes, long=long, step_tokens=tokens), file=sys.stderr)
    return budget.lengths(chosen, long=long, step_tokens=tokens).overrides(stages)


def _one_of(given: dict[str, bool]) -> None:
    """Raises UserError where two of these options are given."""
    from glassbox.core.errors import UserError

    chosen = [name for name, is_given in given.items() if is_given]
    if len(chosen) > 1:
        raise UserError(f"{chosen[0]} and {chosen[1]} are both given; choose one")


def _recipe_and_source(
    fast: bool, long: bool, source: str | None, size: str | None, smoke: bool
) -> tuple[str, str]:
    """Which recipe the options mean, and the text."""
    from glassbox.core.errors import UserError

    given = {"--fast": fast, "--long": long, "--size": size is not None, "--smoke": smoke}
    _one_of(given)
    chosen = [name for name, is_given in given.items() if is_given]
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
