"""glassbox data get: named sets and data sets of the hub, fetched once, resumed and checked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def get(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="NAME, NAME:split, or hf:owner/name[/folder][:split]."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to download to; default: the cache.")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Show all named sets.")] = False,
) -> None:
    """Download data sets by name; files that are complete are not downloaded again. HF_ENDPOINT
    sets a mirror.

    Example: `glassbox data get tinyshakespeare`, then `glassbox train pretrain.yaml
    data.path=tinyshakespeare`
    """
    from glassbox.core.errors import UserError
    from glassbox.data.catalogue import CATALOGUE
    from glassbox.data.hub import parse_name
    from glassbox.data.sources import GIVE, fetch_hub, fetch_named, named_set

    if show:
        for entry in CATALOGUE.values():
            size = f"{entry.megabytes:,g} MB"
            print(f"{entry.name:<17}{entry.kind:<10}{size:>11}  {entry.licence}")
            print(f"{'':<17}{entry.about}; {entry.where}")
        return
    if not names:
        raise UserError("data get: name a set, or give --list to see them")
    for name in names:
        target = out if out is None or len(names) == 1 else out / name.replace("/", "--")
        named, split = named_set(name)
        if named is not None:
            print(
                f"{named.name}: {named.about}; {named.megabytes:,g} MB, {named.licence}, "
                f"from {named.where}",
                file=sys.stderr,
            )
            path = fetch_named(named, split, target)
        elif name.startswith("hf:"):
            path = fetch_hub(parse_name(name), target)
        else:
            raise UserError(f"no set '{name}'; {GIVE}")
        print(path)
