"""glassbox data: make text to train on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from glassbox.cli.data_analyze import analyze
from glassbox.cli.data_classifier import classifier
from glassbox.cli.data_curate import curate
from glassbox.cli.data_get import get
from glassbox.cli.data_tokenize import tokenize


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="Prepare and inspect data. Example: `glassbox data storyworld --out world`",
        no_args_is_help=True,
    )
    group.command("storyworld")(storyworld)
    group.command("show")(show)
    group.command("curate")(curate)
    group.command("analyze")(analyze)
    group.command("get")(get)
    group.command("tokenize")(tokenize)
    group.command("classifier")(classifier)
    app.add_typer(group, name="data", rich_help_panel="Prepare")


def storyworld(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    size: Annotated[
        int, typer.Option("--bytes", help="Size of the training text in bytes.")
    ] = 8_000_000,
    language: Annotated[str, typer.Option("--language", help="en or zh.")] = "en",
    seed: Annotated[int, typer.Option("--seed", help="Random seed.")] = 0,
    workers: Annotated[int, typer.Option("--workers", help="Processes.")] = 2,
) -> None:
    """Write the story world: stories with their exact log-probability, chats, questions, sums, pairs.

    Example: `glassbox data storyworld --out world --bytes 1000000 --language zh`
    """
    from glassbox.core.config import parse
    from glassbox.core.progress import ProgressLine
    from glassbox.data.storyworld import CorpusSizes, StoryWorldConfig, write_corpus

    config = parse(StoryWorldConfig, {"seed": seed, "language": language}, where="storyworld")
    sizes = parse(CorpusSizes, {"train_bytes": size}, where="storyworld")
    with ProgressLine("story world", size) as line:

        def report(name: str, done: int, total: int) -> None:
            if name == "train.jsonl":
                line.update(done, name)

        manifest = write_corpus(config, out, sizes, workers=workers, progress=report)
    for name, entry in manifest["files"].items():
        print(f"{out / name}: {entry['count']:,}", file=sys.stderr)


def show(
    kind: Annotated[
        str, typer.Argument(help="story, arithmetic, chat, question, preference ...")
    ] = "story",
    count: Annotated[int, typer.Option("--count", help="Number of examples.")] = 1,
    language: Annotated[str, typer.Option("--language", help="en or zh.")] = "en",
    seed: Annotated[int, typer.Option("--seed", help="Random seed.")] = 0,
) -> None:
    """Print some of the story world. Example: `glassbox data show story --count 3`"""
    import json

    from glassbox.core.config import parse
    from glassbox.core.errors import UserError
    from glassbox.data.storyworld import KINDS, StoryWorldConfig, generate

    if kind not in KINDS:
        raise UserError(f"kind '{kind}': use one of {', '.join(KINDS)}")
    config = parse(StoryWorldConfig, {"seed": seed, "language": language}, where="storyworld")
    for item in generate(config, kind, "train", count=count):
        text = getattr(item, "text", None)
        print(
            text if text is not None else json.dumps(item.to_json(), ensure_ascii=False, indent=2)
        )
        print()
