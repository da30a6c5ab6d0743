"""Print the command line's help as Markdown: every command, its arguments and options.

`python commands.py zh` has the heads of the tables in Chinese; the help texts are in English alone.
"""

from __future__ import annotations

import sys
from typing import Any

import click
import typer

from glassbox.cli.main import build

HEADS = {
    "en": ("argument or option", "meaning", " Default: `{}`."),
    "zh": ("参数或选项", "含义", " 默认值：`{}`。"),
}


def escaped(text: str) -> str:
    """A help text as the cell of a table: bars and brackets outside code are characters, no markup.

    >>> escaped("NAME[/folder][:split] or `a[0]`")
    'NAME\\\\[/folder\\\\]\\\\[:split\\\\] or `a[0]`'
    """
    parts = text.replace("|", r"\|").split("`")
    parts[::2] = [part.replace("[", r"\[").replace("]", r"\]") for part in parts[::2]]
    return "`".join(parts)


def describe(path: list[str], command: Any, language: str) -> None:
    """One command, or a group's commands one after another."""
    if isinstance(command, click.Group) or hasattr(command, "commands"):
        for name in command.list_commands(click.Context(command)):
            describe([*path, name], command.get_command(click.Context(command), name), language)
        return
    print(f"## `{' '.join(path)}`\n\n{(command.help or '').strip()}\n")
    option, meaning, default_is = HEADS[language]
    rows = []
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        about = getattr(parameter, "help", None) or ""
        if parameter.param_type_name == "argument":
            rows.append((f"`{(parameter.metavar or parameter.name or '').upper()}`", about))
        else:
            names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
            default = parameter.default
            shown = not callable(default) and default not in (None, False, (), [], "")
            rows.append((names, about + (default_is.format(default) if shown else "")))
    if rows:
        print(f"| {option} | {meaning} |\n|---|---|")
        for names, about in rows:
            print(f"| {names} | {' '.join(escaped(about).split())} |")
        print()


if __name__ == "__main__":
    describe(["glassbox"], typer.main.get_command(build()), [*sys.argv[1:], "en"][0])
