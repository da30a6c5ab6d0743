"""Docstrings as this project writes them, made into Markdown: an extension of griffe, which reads the source.

A line `name: text` (or `one, two: text`), with what follows it indented, describes an argument and
becomes an item of a list. Worked examples (`>>> ...`) become blocks of code.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^(>>> .*?)(?=\n\s*\n|\Z)", flags=re.DOTALL | re.MULTILINE)
ARGUMENT = re.compile(r"^(\*{0,2}[a-z_]\w*(?:, [a-z_]\w*)*): (?=\S)")


class Docstrings(griffe.Extension):
    """Rewrite the docstring of every object."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)


def to_markdown(text: str) -> str:
    """A docstring as Markdown.

    >>> to_markdown("Add.\\n\\na: the first\\n    number\\nb: the second")
    'Add.\\n\\n- `a`: the first number\\n- `b`: the second'
    """
    text = re.sub(r"\s*# doctest: \+\w+", "", text)
    lines: list[str] = []
    item = False
    for line in text.splitlines():
        found = ARGUMENT.match(line)
        if found and not line.startswith(">>>"):
            if not item and lines and lines[-1]:
                lines.append("")
            lines.append(f"- `{found[1]}`: {line[found.end() :]}")
            item = True
        elif item and line.startswith("    ") and line.strip():
            lines[-1] += " " + line.strip()
        else:
            if item and line.strip():
                lines.append("")
            item = False
            lines.append(line)
    return EXAMPLE.sub(r"```pycon\n\1\n```", "\n".join(lines))
