"""How `glassbox inspect` shows a text in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from glassbox.inspection.summary import TokenSummary


def summary_table(tokens: Sequence[TokenSummary], *, num_layers: int) -> Table:
    """A row a token."""
    table = Table(
        caption=f"layer: from which of {num_layers} on the likeliest next token is that one"
    )
    table.add_column("token", overflow="fold")
    for column in ("log prob", "entropy", "layer"):
        table.add_column(column, justify="right")
    table.add_column("next", overflow="fold")
    for one in tokens:
        table.add_row(
            Text(_shown(one.text)),
            "" if one.log_prob is None else f"{one.log_prob:.2f}",
            f"{one.entropy:.2f}",
            str(one.depth),
            Text("  ".join(f"{_shown(text)} {share:.0%}" for text, share in one.likeliest)),
        )
    return table


def _shown(text: str) -> str:
    """With its spaces to be seen."""
    return text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·")
