"""glassbox chat: talk with a model in the terminal."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("chat", rich_help_panel="Use")(chat)


def chat(
    model: Annotated[
        str, typer.Argument(help="A run, a checkpoint, a folder, a .gguf or .bin file, a name.")
    ],
    system: Annotated[str | None, typer.Option("--system", help="A system message.")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Most tokens an answer.")] = 200,
    temperature: Annotated[
        float, typer.Option("--temperature", help="0: always the likeliest.")
    ] = 0.7,
    top_k: Annotated[int, typer.Option("--top-k", help="Only the k likeliest; 0: all.")] = 0,
    top_p: Annotated[
        float, typer.Option("--top-p", help="Only the likeliest of this total.")
    ] = 0.95,
    seed: Annotated[int | None, typer.Option("--seed", help="Same seed, same answers.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Chat with a model: it remembers the conversation and answers as it thinks. /help lists commands.

    Example: `glassbox chat runs/quickstart`
    """
    from glassbox.inference import ChatSession, Engine, SamplingParams
    from glassbox.pipeline.chat_terminal import run_terminal
    from glassbox.pipeline.open_model import open_on

    params = SamplingParams(
        max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    loaded, tokenizer, folder = open_on(model, device)
    session = ChatSession(Engine(loaded, tokenizer), tokenizer, system=system, params=params)
    run_terminal(session, name=str(folder), lines=sys.stdin, interactive=sys.stdin.isatty())
