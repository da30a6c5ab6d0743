"""ARC, easy and challenge: grade-school science questions. Source: Clark et al., arXiv:1803.05457."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glassbox.evaluation.tasks.builtin.bundle import bundle_rows, lettered
from glassbox.evaluation.tasks.functions import Function
from glassbox.evaluation.tasks.metrics import Metric
from glassbox.evaluation.tasks.spec import Documents, GroupMetric, GroupSpec, Prompt
from glassbox.evaluation.tasks.task import TaskSpec

ACCURACIES = (Metric(metric="acc"), Metric(metric="acc_norm"))


def easy(folder: Path, split: str) -> list[dict[str, Any]] | None:
    """`core/arc_easy.jsonl`, which is the test split."""
    rows = bundle_rows(folder, "arc_easy") if split == "test" else None
    return lettered(rows, "question", "Question: ")


def challenge(folder: Path, split: str) -> list[dict[str, Any]] | None:
    """`core/arc_challenge.jsonl`, which is the test split."""
    rows = bundle_rows(folder, "arc_challenge") if split == "test" else None
    return lettered(rows, "question", "Question: ")


def _arc(task: str, name: str, about: str) -> TaskSpec:
    return TaskSpec(
        task=task,
        about=about,
        trusted=True,
        documents=Documents(
            path="allenai/ai2_arc",
            name=name,
            train="train",
            validation="validation",
            test="test",
            local=Function(function=f"arc:{task.removeprefix('arc_')}"),
        ),
        prompt=Prompt(
            text="Question: {{question}}\nAnswer:",
            target="{{choices.label.index(answerKey)}}",
            choices="{{choices.text}}",
        ),
        metrics=ACCURACIES,
    )


TASKS = (
    _arc("arc_easy", "ARC-Easy", "grade-school science questions, the easy ones"),
    _arc(
        "arc_challenge", "ARC-Challenge", "grade-school science questions that simple methods miss"
    ),
)
GROUPS = (
    GroupSpec(
        group="ai2_arc",
        about="ARC, both halves",
        tasks=("arc_easy", "arc_challenge"),
        metrics=(GroupMetric(metric="acc"), GroupMetric(metric="acc_norm")),
    ),
)
