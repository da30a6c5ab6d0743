"""Files in the form of the CORE bundle (`query, choices, gold`), read as the columns of the hub's sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glassbox.core.errors import UserError
from glassbox.evaluation.tasks.documents import read_rows

Row = dict[str, Any]
LETTERS = "ABCDEFGHIJ"


def bundle_rows(folder: Path, name: str) -> list[Row] | None:
    """The rows of `core/NAME.jsonl` or `NAME.jsonl` in a folder; None where there is no such file."""
    for file in (folder / "core" / f"{name}.jsonl", folder / f"{name}.jsonl"):
        if file.is_file():
            return read_rows(file)
    return None


def lettered(rows: list[Row] | None, question: str, prefix: str = "") -> list[Row] | None:
    """Rows with `choices` as texts and labels and `answerKey` as a letter, as ARC and OpenBookQA have them."""
    if rows is None:
        return None
    return [
        {
            question: row["query"].removeprefix(prefix),
            "choices": {"text": row["choices"], "label": list(LETTERS[: len(row["choices"])])},
            "answerKey": LETTERS[row["gold"]],
        }
        for row in rows
    ]


def common_beginning(options: list[str]) -> str:
    """What two contexts begin with alike, up to a word's beginning."""
    first, second = options
    count = 0
    while count < min(len(first), len(second)) and first[count] == second[count]:
        count += 1
    return first[: first.rfind(" ", 0, count) + 1]


def need(row: Row, *names: str) -> None:
    """Raise UserError where a row lacks one of these columns."""
    for name in names:
        if name not in row:
            raise UserError(f"a row has no '{name}'; it has {', '.join(row)}")
