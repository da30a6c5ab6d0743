"""glassbox generate: continue a text."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("generate", rich_help_panel="Use")(generate)


def generate(
    model: Annotated[
        str, typer.Argument(help="A run, a checkpoint, a folder, a .gguf or .bin file, a name.")
    ],
    prompt: Annotated[
        str, typer.Option("--prompt", "-p", help="Text to go on from; - reads it.")
    ] = "",
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Most tokens to add.")] = 200,
    temperature: Annotated[
        float, typer.Option("--temperature", help="0: always the likeliest.")
    ] = 0.8,
    top_k: Annotated[int, typer.Option("--top-k", help="Only the k likeliest; 0: all.")] = 0,
    top_p: Annotated[
        float, typer.Option("--top-p", help="Only the likeliest of this total.")
    ] = 1.0,
    min_p: Annotated[
        float, typer.Option("--min-p", help="Only those this share as likely as the likeliest.")
    ] = 0.0,
    repetition_penalty: Annotated[
        float, typer.Option("--repetition-penalty", help="Above 1: repeat less.")
    ] = 1.0,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="End before this text.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Same seed, same text.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Continue a text; the continuation alone goes to standard output, as it is made.

    Example: `glassbox generate runs/quickstart --prompt "Once upon a time" --temperature 0.7`
    """
    from glassbox.inference import Engine, SamplingParams
    from glassbox.pipeline.open_model import open_on
    from glassbox.pipeline.prompts import plain_prompt

    params = SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop=tuple(stop or ()),
        seed=seed,
    )
    loaded, tokenizer, _ = open_on(model, device)
    text = sys.stdin.read() if prompt == "-" else prompt
    engine = Engine(loaded, tokenizer)
    for event in engine.stream(plain_prompt(tokenizer, text), params):
        sys.stdout.write(event.text or "")
        sys.stdout.flush()
    sys.stdout.write("\n")
