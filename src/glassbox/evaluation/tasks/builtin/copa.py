"""COPA: the likelier cause or effect. Source: Roemmele et al., 2011; SuperGLUE's form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glassbox.evaluation.tasks.builtin.bundle import bundle_rows
from glassbox.evaluation.tasks.functions import Function
from glassbox.evaluation.tasks.metrics import Metric
from glassbox.evaluation.tasks.spec import Documents, Prompt
from glassbox.evaluation.tasks.task import TaskSpec

CONNECTORS = {"cause": "because", "effect": "therefore"}


def text(doc: dict[str, Any]) -> str:
    """The premise without its full stop, and the connector."""
    return str(doc["premise"]).strip()[:-1] + f" {CONNECTORS[doc['question']]}"


def choices(doc: dict[str, Any]) -> list[str]:
    """Both continuations, in lower case, behind a space."""
    return [f" {one[0].lower()}{one[1:]}" for one in (doc["choice1"], doc["choice2"])]


def target(doc: dict[str, Any]) -> str:
    """The right continuation."""
    return choices(doc)[0 if doc["label"] == 0 else 1]


def local(folder: Path, split: str) -> list[dict[str, Any]] | None:
    """`core/copa.jsonl`, which is the validation split."""
    rows = bundle_rows(folder, "copa") if split == "validation" else None
    if rows is None:
        return None
    found = []
    for row in rows:
        premise, _, connector = row["query"].strip().rpartition(" ")
        found.append(
            {
                "premise": premise.rstrip(", .") + ".",
                "question": "cause" if connector == "because" else "effect",
                "choice1": row["choices"][0],
                "choice2": row["choices"][1],
                "label": row["gold"],
            }
        )
    return found


TASKS = (
    TaskSpec(
        task="copa",
        about="the likelier of two causes or effects",
        trusted=True,
        documents=Documents(
            path="aps/super_glue",
            name="copa",
            train="train",
            validation="validation",
            local=Function(function="copa:local"),
        ),
        prompt=Prompt(
            text=Function(function="copa:text"),
            target=Function(function="copa:target"),
            choices=Function(function="copa:choices"),
        ),
        metrics=(Metric(metric="acc"),),
    ),
)
