"""HellaSwag: the likeliest continuation of a situation. Source: Zellers et al., arXiv:1905.07830."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from glassbox.core.errors import UserError
from glassbox.data.text import byte_lines
from glassbox.evaluation.tasks.builtin.arc import ACCURACIES
from glassbox.evaluation.tasks.functions import Function, Rows
from glassbox.evaluation.tasks.spec import Documents, Prompt
from glassbox.evaluation.tasks.task import TaskSpec


def plain(text: str) -> str:
    """WikiHow's marks removed."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def clean(rows: Rows) -> Rows:
    """`query` and `choices` of the hub's columns."""

    def one(doc: dict[str, Any]) -> dict[str, Any]:
        context = f"{doc['ctx_a']} {doc['ctx_b'].capitalize()}"
        return {
            "query": plain(f"{doc['activity_label']}: {context}"),
            "choices": [plain(ending) for ending in doc["endings"]],
            "gold": int(doc["label"]),
        }

    return rows.map(one)


def local(folder: Path, split: str) -> list[dict[str, Any]] | None:
    """`hellaswag/hellaswag_val_full.txt` (also compressed): six lines an item.

    They are the activity and the context, the right ending's index, four endings.
    """
    if split != "validation":
        return None
    for place in (folder / "hellaswag", folder):
        for file in sorted(place.glob("hellaswag_val_full.txt*")):
            return _read(file)
    return None


def _read(file: Path) -> list[dict[str, Any]]:
    lines = [line.decode("utf-8").rstrip("\r") for line in byte_lines(file)]
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) % 6:
        raise UserError(
            f"'{file}' has {len(lines)} lines; an item has six: it is cut off or damaged"
        )
    rows = []
    for start in range(0, len(lines), 6):
        context, label, *endings = lines[start : start + 6]
        activity, colon, context = context.partition(": ")
        if not colon or not re.fullmatch(r" ?[0-3]", label):
            raise UserError(f"'{file}' line {start + 1}: expected an activity, ': ' and a context")
        begun = re.fullmatch(r"(.*[.!?]) ([a-z].*)", context)
        first, second = (begun[1], begun[2]) if begun else (context, "")
        rows.append(
            {
                "activity_label": activity,
                "ctx_a": first,
                "ctx_b": second,
                "endings": endings,
                "label": label.strip(),
            }
        )
    return rows


TASKS = (
    TaskSpec(
        task="hellaswag",
        about="the likeliest of four continuations of a situation",
        trusted=True,
        documents=Documents(
            path="Rowan/hellaswag",
            train="train",
            validation="validation",
            process=Function(function="hellaswag:clean"),
            local=Function(function="hellaswag:local"),
        ),
        prompt=Prompt(text="{{query}}", target="{{label}}", choices="choices"),
        metrics=ACCURACIES,
    ),
)
