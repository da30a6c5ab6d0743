"""glassbox upcycle: a dense model becomes one with experts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("upcycle", rich_help_panel="Use")(upcycle)


def upcycle(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="Any MODEL: run, folder, .gguf, .bin, name.")
    ],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Destination folder.")],
    experts: Annotated[
        int, typer.Option("--experts", help="Number of experts, copies of each feed-forward.")
    ] = 8,
    top_k: Annotated[int, typer.Option("--top-k", help="Number of experts per token.")] = 2,
    seed: Annotated[
        int, typer.Option("--seed", help="Standard deviation of the routers' initial weights.")
    ] = 0,
) -> None:
    """Convert a dense model to a mixture of experts whose experts are copies of its feed-forwards.

    The outputs equal those of SRC until it is trained. Example:
    `glassbox upcycle runs/quickstart upcycled --experts 8 --top-k 2`
    """
    import torch

    from glassbox.formats.convert import load_model
    from glassbox.formats.huggingface import write_folder
    from glassbox.formats.open_model import find_model
    from glassbox.formats.upcycle import upcycle as make_experts

    loaded = load_model(find_model(source))
    generator = torch.Generator().manual_seed(seed)
    model = make_experts(loaded.model, experts, top_k, generator=generator)
    write_folder(
        model, destination, tokenizer=loaded.tokenizer, stop_token_ids=loaded.stop_token_ids
    )
    before, after = loaded.model.num_parameters, model.num_parameters
    print(f"{destination}: {before:,} parameters became {after:,}", file=sys.stderr)
