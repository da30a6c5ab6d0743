"""glassbox studio: a page on this machine to chat with models and to watch runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from glassbox.core.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("studio", rich_help_panel="Use")(studio)


def studio(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL or RUN]...",
            help="Models, runs, or folders of runs; without any, the folder runs.",
        ),
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            "--port",
            min=0,
            max=65535,
            help="Port to listen on; 0 chooses a free one and prints it.",
        ),
    ] = 8100,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of the chats; default: the user's data folder."),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            help="File of keys, one a line, which the page asks for; or set GLASSBOX_API_KEY.",
        ),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """A page in the browser: chat with models, see why they said it, watch training runs.

    Nobody but this machine can reach it, and it needs no network.

    Example: `glassbox studio runs/quickstart`
    """
    needed = ("fastapi", "platformdirs", "prometheus_client", "uvicorn")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"the studio needs {' and '.join(missing)}: run  pip install 'glassbox-lm[studio]'"
        )
    from glassbox.studio.command import run_studio

    run_studio(
        what or [], port=port, data=data, key_file=api_key_file, browser=browser, device=device
    )
