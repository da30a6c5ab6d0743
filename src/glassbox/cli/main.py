"""The `glassbox` command."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from glassbox.core.errors import UserError, explain_system
from glassbox.core.plugins import user_line

HELP = """Every part of a large language model, seen through: from text to a model that chats.

Begin with `glassbox quickstart`: in a few minutes on a laptop it makes a corpus, trains a tokenizer and
a small model, teaches it to chat, to prefer the truth and to count, and shows all of it on one page."""

CONTEXT = {
    # --max_tokens is --max-tokens: both spellings are in people's fingers
    "token_normalize_func": lambda name: name.replace("_", "-"),
    "help_option_names": ["-h", "--help"],
}


class ByLife(TyperGroup):
    """Lists commands in the order of a model's life; typer alone puts groups of commands last."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All commands, in the order of COMMANDS."""
        order = {name.replace("evaluate", "eval"): place for place, name in enumerate(COMMANDS)}
        return sorted(super().list_commands(ctx), key=lambda name: order.get(name, len(order)))


COMMANDS = (
    "quickstart",
    "data",
    "tokenizer",
    "train",
    "verify",
    "plan",
    "generate",
    "chat",
    "reason",
    "serve",
    "studio",
    "convert",
    "compress",
    "upcycle",
    "recommend",
    "evaluate",
    "compare",
    "report",
    "runs",
    "replay",
    "recipe",
    "models",
    "inspect",
    "lesson",
    "new",
)
"""Modules of this folder, in the order that --help shows; each adds itself with `register(app)`."""


def build() -> typer.Typer:
    """The whole command line, anew each time: an application keeps every command that it was given."""
    app = typer.Typer(
        cls=ByLife,
        help=HELP,
        rich_markup_mode="markdown",
        context_settings=CONTEXT,
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
    )
    app.callback(invoke_without_command=False)(_options)
    for name in COMMANDS:
        importlib.import_module(f"glassbox.cli.{name}").register(app)
    return app


def _version(asked: bool) -> None:
    if asked:
        from glassbox.core.version import __version__

        print(f"glassbox {__version__}")
        raise typer.Exit


def _options(
    ctx: typer.Context,
    threads: int = typer.Option(
        0, "--threads", help="Number of CPU threads; 0: torch's default.", show_default=False
    ),
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", is_eager=True, callback=_version
    ),
) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Errors that the user can fix are one line on standard error, with exit code 2."""
    try:
        result: Any = build()(args=arguments, standalone_mode=False)
    except UserError as error:
        _stop(str(error), 2)
    except KeyboardInterrupt:
        _stop("stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        explained = explain_system(error)
        if explained:
            _stop(str(explained), 2)
        _handle_click(error)
    except Exception as error:
        _handle_click(error)
    else:
        sys.exit(result if isinstance(result, int) else 0)


def _handle_click(error: Exception) -> None:
    show = getattr(error, "show", None)
    if callable(show):  # a wrong option or a missing argument: click's own words
        show()
        sys.exit(getattr(error, "exit_code", 2))
    if type(error).__name__ == "Abort":
        _stop("stopped", 130)
    traceback.print_exc()
    if (line := user_line(error)) is not None:
        _stop(f"the exception above was raised by your code: {line}; correct it there", 2)
    _stop("this is a fault in Glassbox, not in your input; please report the lines above", 1)


def _stop(message: str, code: int) -> None:
    print(f"glassbox: {message}", file=sys.stderr)
    sys.exit(code)
