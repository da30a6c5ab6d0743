"""The Winograd schema challenge, 273 items. Source: Levesque et al., 2012; partial evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glassbox.evaluation.tasks.builtin.bundle import bundle_rows, common_beginning
from glassbox.evaluation.tasks.functions import Function, Rows
from glassbox.evaluation.tasks.metrics import Metric
from glassbox.evaluation.tasks.spec import Documents, Prompt
from glassbox.evaluation.tasks.task import TaskSpec

POSSESSIVE = ("my", "his", "her", "our", "their")
LOWERED = ("A", "An", "The", "She", "He", "It", "They", "My", "His", "Her", "Their")


def clean(rows: Rows) -> Rows:
    """Options as they read in the pronoun's place: with 's, and in lower case within a sentence."""

    def one(doc: dict[str, Any]) -> dict[str, Any]:
        doc["text"] = doc["text"].replace("  ", " ")
        doc["options"] = [_fit(doc, option) for option in doc["options"][:2]]
        return doc

    return rows.map(one)


def _fit(doc: dict[str, Any], option: str) -> str:
    if doc["pronoun"].lower() in POSSESSIVE:
        option += "'s"
    word = option.split()[0]
    begins = doc["text"][doc["pronoun_loc"] - 2] == "."
    return option if begins or word not in LOWERED else option.replace(word, word.lower())


def local(folder: Path, split: str) -> list[dict[str, Any]] | None:
    """`core/winograd_wsc.jsonl`; the pronoun, which these rows do not name, is "_"."""
    rows = bundle_rows(folder, "winograd_wsc") if split == "test" else None
    if rows is None:
        return None
    found = []
    for row in rows:
        before = common_beginning(row["context_options"])
        found.append(
            {
                "text": f"{before}_ {row['continuation']}",
                "pronoun": "_",
                "pronoun_loc": len(before),
                "options": [one[len(before) :] for one in row["context_options"]],
                "label": row["gold"],
            }
        )
    return found


TASKS = (
    TaskSpec(
        task="wsc273",
        about="whom a pronoun means, the original 273",
        trusted=True,
        documents=Documents(
            path="lighteval/winograd_wsc",
            name="wsc273",
            test="test",
            process=Function(function="winograd:clean"),
            local=Function(function="winograd:local"),
        ),
        prompt=Prompt(
            text="label",
            target="{% set index = pronoun_loc + pronoun | length %}{{text[index:]}}",
            choices="{% set template = text[:pronoun_loc] %}"
            "{{[template+options[0], template+options[1]]}}",
        ),
        metrics=(Metric(metric="acc"),),
    ),
)
