"""glassbox chat: talk with a model in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from glassbox.cli.sampling_options import sampling_options, settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("chat", rich_help_panel="Use")(chat)


@sampling_options(max_tokens=200, temperature=0.7, top_p=0.95)
def chat(
    model: Annotated[
        str, typer.Argument(help="A run, a checkpoint, a folder, a .gguf or .bin file, a name.")
    ],
    sampling: dict[str, Any],
    system: Annotated[str | None, typer.Option("--system", help="A system message.")] = None,
    adapter: Annotated[
        Path | None,
        typer.Option("--adapter", help="An adapter's folder or run, on top of MODEL."),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile/--no-compile",
            help="Compile decoding steps on a CPU; needs a C++ compiler, delays the first answer.",
        ),
    ] = False,
    quantize: Annotated[
        str | None,
        typer.Option(
            "--quantize",
            help="Round weights: int8, int8-dynamic, int4, nf4, fp8, mxfp4, q8_0, q4_0, q4_1; file.",
        ),
    ] = None,
    kv_cache: Annotated[
        str, typer.Option("--kv-cache", help="Data type of the KV cache: auto, int8, int4.")
    ] = "auto",
    code: Annotated[
        list[str] | None,
        typer.Option("--code", help="FILE.py:NAME of a layer of your own that MODEL has."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Chat with a model: it remembers the conversation and answers as it thinks. /help lists commands.

    Example: `glassbox chat runs/quickstart`
    """
    from glassbox.formats.open_model import find_adapter, open_on
    from glassbox.inference import ChatSession, Engine
    from glassbox.runs.chat_terminal import run_terminal

    params = settings("chat", sampling, max_tokens=200, temperature=0.7, top_p=0.95)
    adapters = {} if adapter is None else {"chosen": find_adapter(adapter)}
    loaded, tokenizer, folder = open_on(model, device, code=code or (), quantize=quantize)
    session = ChatSession(
        Engine(loaded, tokenizer, adapters=adapters, compiled=compiled, kv_cache=kv_cache),
        tokenizer,
        system=system,
        params=params,
        adapter=next(iter(adapters), None),
    )
    run_terminal(session, name=str(folder), lines=sys.stdin, interactive=sys.stdin.isatty())
