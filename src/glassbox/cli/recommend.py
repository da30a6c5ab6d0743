"""glassbox recommend: train on playlists, evaluate, continue a list."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

EXAMPLES = (
    "`glassbox recommend train --out runs/music`, then "
    '`glassbox recommend runs/music --playlist "#17; #4"`'
)


class ModelFirst(TyperGroup):
    """`recommend MODEL ...` is `recommend continue MODEL ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command's name before a first word that is none."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["continue", *args]
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        cls=ModelFirst,
        help="Learn which songs go together from playlists, and go on with one. "
        f"`recommend MODEL` is short for `recommend continue MODEL`. Example: {EXAMPLES}",
        no_args_is_help=True,
    )
    group.command("train")(train)
    group.command("eval")(evaluate)
    group.command("continue")(go_on)
    group.command("playlists")(playlists)
    app.add_typer(group, name="recommend", rich_help_panel="Train")


def train(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="Settings, as model.epochs=10 or data.num_playlists=500."),
    ] = None,
    data: Annotated[
        str, typer.Option("--data", help="generated, or a path: the classic files or MovieLens.")
    ] = "generated",
    kind: Annotated[
        str,
        typer.Option(
            "--kind", help="skipgram, cbow, transformer, popularity, cooccurrence or bpr."
        ),
    ] = "skipgram",
    seed: Annotated[int, typer.Option("--seed", help="Random seed.")] = 0,
    whole_lists: Annotated[
        bool, typer.Option("--whole-lists", help="Train on all data; eval is then not possible.")
    ] = False,
) -> None:
    """Train on playlists without each one's last song; writes the model and a map of its songs.

    Example: `glassbox recommend train --kind cbow --out runs/music model.epochs=10`
    """
    from glassbox.core.config import apply_overrides, parse
    from glassbox.recommend.recommending import train_recommender
    from glassbox.recommend.specs import Recipe

    source = {"kind": "generated"} if data == "generated" else {"kind": "files", "path": data}
    raw: dict[str, Any] = {
        "data": source,
        "model": {"kind": kind},
        "seed": seed,
        "held_out": not whole_lists,
    }
    recipe = parse(Recipe, apply_overrides(raw, settings or []), where="recommend")
    report = train_recommender(recipe, out)
    print(
        f"{out}: {report['lists']:,} lists, {report['items']:,} items, {report['entries']:,} entries",
        file=sys.stderr,
    )
    for reason, count in report["left_out"].items():
        print(f"  {count:,} lists left out: {reason}", file=sys.stderr)
    if report["unseen"]:
        print(f"  {report['unseen']:,} items are in no training list", file=sys.stderr)
    if report["map"]:
        print(f"  map: {out / 'map.svg'}", file=sys.stderr)
    print(f'go on with: glassbox recommend {out} --playlist "..."', file=sys.stderr)


def evaluate(
    models: Annotated[
        list[str], typer.Argument(help="Folders written by train, on the same data.")
    ],
    ceiling: Annotated[
        bool,
        typer.Option("--ceiling", help="Generated data: also evaluate the exact probabilities."),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", help="Write the results as JSON.")
    ] = None,
) -> None:
    """Rank all songs as the continuation of each list, and report the rank of the actual last song.

    Example: `glassbox recommend eval runs/popular runs/music --ceiling`
    """
    from dataclasses import asdict

    from rich.console import Console

    from glassbox.core.files import write_json
    from glassbox.recommend.recommending import measure
    from glassbox.recommend.table import table

    results = measure(models, ceiling=ceiling)
    Console().print(table(results))
    if output is not None:
        write_json(output, [asdict(result) for result in results])
        print(f"written to {output}", file=sys.stderr)


def go_on(
    model: Annotated[str, typer.Argument(help="A folder that train wrote.")],
    playlist: Annotated[
        str,
        typer.Option("--playlist", help="Songs between semicolons: title, title - artist or #id."),
    ],
    count: Annotated[
        int, typer.Option("--count", min=1, help="Number of songs to recommend.")
    ] = 10,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Recommend songs to continue a list: names, scores, and the most similar song of the list.

    Example: `glassbox recommend runs/music --playlist "#17; #4" --count 5`
    """
    from dataclasses import asdict
    from json import dumps

    from rich.console import Console

    from glassbox.recommend.recommending import suggest
    from glassbox.recommend.saved import open_recommender
    from glassbox.recommend.table import suggestions_table

    chosen, found = suggest(open_recommender(model), playlist, count=count)
    if json:
        print(dumps([asdict(one) for one in found], ensure_ascii=False, indent=1))
        return
    print("behind: " + "; ".join(map(str, chosen)), file=sys.stderr)
    Console().print(suggestions_table(found))


def playlists(
    out: Annotated[Path, typer.Option("--out", help="Folder for train.txt and song_hash.txt.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Settings, as num_playlists=500 or seed=1.")
    ] = None,
) -> None:
    """Write generated playlists in the classic form. Example: `glassbox recommend playlists --out lists`"""
    from glassbox.core.config import apply_overrides, parse
    from glassbox.recommend.playlists import write_classic
    from glassbox.recommend.world import World

    made = parse(World, apply_overrides({}, settings or []), where="playlists").playlists()
    write_classic(made, out)
    print(f"{out}: {len(made):,} lists of {made.num_items:,} songs", file=sys.stderr)
