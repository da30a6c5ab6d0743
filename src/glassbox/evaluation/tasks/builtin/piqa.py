"""PIQA: which of two ways reaches a physical goal. Source: Bisk et al., arXiv:1911.11641."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glassbox.evaluation.tasks.builtin.arc import ACCURACIES
from glassbox.evaluation.tasks.builtin.bundle import bundle_rows
from glassbox.evaluation.tasks.functions import Function
from glassbox.evaluation.tasks.spec import Documents, Prompt
from glassbox.evaluation.tasks.task import TaskSpec


def local(folder: Path, split: str) -> list[dict[str, Any]] | None:
    """`core/piqa.jsonl`, which is the validation split."""
    rows = bundle_rows(folder, "piqa") if split == "validation" else None
    if rows is None:
        return None
    return [
        {
            "goal": row["query"].removeprefix("Question: ").rstrip("\n"),
            "sol1": row["choices"][0],
            "sol2": row["choices"][1],
            "label": row["gold"],
        }
        for row in rows
    ]


TASKS = (
    TaskSpec(
        task="piqa",
        about="which of two ways reaches a physical goal",
        trusted=True,
        documents=Documents(
            path="baber/piqa",
            train="train",
            validation="validation",
            local=Function(function="piqa:local"),
        ),
        prompt=Prompt(
            text="Question: {{goal}}\nAnswer:", target="label", choices="{{[sol1, sol2]}}"
        ),
        metrics=ACCURACIES,
    ),
)
