"""How `glassbox tokenizer` shows pieces and counts in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from glassbox.tokenizers import Tokenizer
    from glassbox.tokenizers.inspection import Inspection

_COLOURS = ("black on cyan", "black on yellow", "black on green", "black on magenta")


def coloured(pieces: Sequence[str]) -> Text:
    """The pieces in colours that change from one to the next; without colours, bars stand between."""
    text = Text()
    for place, piece in enumerate(pieces):
        if place:
            text.append("|", style="dim")
        shown = piece.replace("\n", "⏎").replace("\t", "⇥")
        text.append(shown, style=_COLOURS[place % len(_COLOURS)])
    return text


def side_by_side(tokenizers: Mapping[str, Tokenizer], lines: Sequence[str]) -> Table:
    """Each line in the pieces of each tokenizer, with how many there are."""
    from glassbox.tokenizers.inspection import pieces_of

    table = Table(show_lines=True)
    for name in tokenizers:
        table.add_column(Text(name), ratio=1, overflow="fold")
    for line in lines:
        cells = []
        for one in tokenizers.values():
            pieces = [piece for _, piece in pieces_of(one, line)]
            cells.append(Text(f"{len(pieces)}  ", style="bold") + coloured(pieces))
        table.add_row(*cells)
    return table


def usage_table(found: Mapping[str, Inspection]) -> Table:
    """Tokens, fertility and bytes a token by writing system, for each tokenizer."""
    table = Table()
    columns = ("tokenizer", "writing", "texts", "tokens", "tokens/word", "bytes/token", "unknown")
    for column in columns[not any(found) :]:
        justify: Literal["left", "right"] = "left" if column in columns[:2] else "right"
        # folded, not cut: paths end in what tells them apart
        table.add_column(column, justify=justify, overflow="fold")
    for name, one in found.items():
        for place, (group, usage) in enumerate([*one.groups.items(), ("all", one.total)]):
            row = [
                group,
                f"{usage.texts:,}",
                f"{usage.tokens:,}",
                f"{usage.fertility:.2f}",
                f"{usage.bytes_per_token:.2f}",
                f"{usage.unknown:,}",
            ]
            first = [Text("" if place else name)] if any(found) else []
            table.add_row(*first, *row)
    return table
