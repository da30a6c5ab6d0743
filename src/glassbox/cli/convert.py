"""glassbox convert: the same model as another kind of file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("convert", rich_help_panel="Use")(convert)


def convert(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="Any MODEL: run, folder, .gguf, .bin, name.")
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="A folder, a .gguf file or a .bin file.")
    ],
    to: Annotated[
        str | None, typer.Option("--to", help="hf, gguf or llama2c; by DST's ending unless given.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="f32, f16, bf16, q8_0, q4_0, q4_1; SRC's own unless given."),
    ] = None,
    shard_size: Annotated[
        float, typer.Option("--shard-size", help="Maximum size of a safetensors file in gigabytes.")
    ] = 5.0,
) -> None:
    """Write a model as a Hugging Face folder, a GGUF file (llama.cpp, ollama) or llama2.c's .bin.

    Weights, tokenizer and chat template go along. Example:
    `glassbox convert runs/quickstart model.gguf --dtype q8_0`
    """
    from glassbox.formats.convert import convert as convert_files
    from glassbox.formats.open_model import find_model, find_whole_model

    bytes_each = int(shard_size * 1e9)
    written = convert_files(
        find_whole_model(source),
        destination,
        to=to,
        dtype=dtype,
        max_shard_bytes=bytes_each,
        find_base=find_model,
    )
    print(f"{destination}: {written}", file=sys.stderr)
    if written.left_out:
        names = f"'{written.left_out[0]}' and {len(written.left_out) - 1} more"
        print(
            f"left out: {names}, of a module that predicts later tokens than the next one, which "
            "generation does not ask",
            file=sys.stderr,
        )
