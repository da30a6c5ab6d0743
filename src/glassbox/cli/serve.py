"""glassbox serve: a model behind OpenAI's HTTP API."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glassbox.core.errors import UserError

if TYPE_CHECKING:
    from glassbox.serving.app import Service


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve", rich_help_panel="Use")(serve)


def serve(
    model: Annotated[
        str, typer.Argument(help="A run, a checkpoint, a folder, a .gguf or .bin file, a name.")
    ],
    host: Annotated[
        str, typer.Option("--host", help="Where to listen; others than this machine need a key.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="0: a free one, which is printed.")
    ] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", help="Keys, one a line; or set GLASSBOX_API_KEY."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What requests call the model; else its folder.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="Most tokens an answer may ask for.")
    ] = 4096,
    max_running: Annotated[
        int, typer.Option("--max-running", help="Requests answered at the same time.")
    ] = 8,
    max_queue: Annotated[
        int, typer.Option("--max-queue", help="Requests that may wait; others are told to retry.")
    ] = 64,
    drain_seconds: Annotated[
        int, typer.Option("--drain-seconds", min=0, help="To finish answers in when told to stop.")
    ] = 30,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Serve a model over HTTP, to any client of OpenAI's API: chat, completions, tokenize.

    Example: `glassbox serve runs/quickstart --port 8000`
    """
    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"serving needs {' and '.join(missing)}: run  pip install 'glassbox-lm[serve]'"
        )
    from glassbox.serving.server import listen, read_keys, run

    keys = read_keys(api_key_file)
    with listen(host, port, keys=keys) as listening:  # before what takes time
        service = _service(
            model, name, device, max_tokens=max_tokens, max_running=max_running, max_queue=max_queue
        )
        from glassbox.serving.app import build_app

        app = build_app(service, keys=keys)
        run(app, listening, name=service.name, drain_seconds=drain_seconds)


def _service(model: str, name: str | None, device: str, **limits: int) -> Service:
    from functools import partial

    from glassbox.core.config import parse
    from glassbox.inference import Engine
    from glassbox.pipeline.open_model import open_on
    from glassbox.pipeline.prompts import plain_prompt
    from glassbox.serving.app import Service
    from glassbox.serving.bodies import Limits

    checked = parse(Limits, limits, where="glassbox serve")
    loaded, tokenizer, _ = open_on(model, device)
    return Service(
        Engine(loaded, tokenizer),
        tokenizer,
        name=name or Path(model).resolve().name,
        limits=checked,
        encode_prompt=partial(plain_prompt, tokenizer),
    )
