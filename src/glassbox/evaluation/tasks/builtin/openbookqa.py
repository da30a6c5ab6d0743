"""OpenBookQA: elementary science with common knowledge. Source: Mihaylov et al., arXiv:1809.02789."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glassbox.evaluation.tasks.builtin.arc import ACCURACIES
from glassbox.evaluation.tasks.builtin.bundle import bundle_rows, lettered
from glassbox.evaluation.tasks.functions import Function
from glassbox.evaluation.tasks.spec import Documents, Prompt
from glassbox.evaluation.tasks.task import TaskSpec


def local(folder: Path, split: str) -> list[dict[str, Any]] | None:
    """`core/openbook_qa.jsonl`, which is the test split."""
    rows = bundle_rows(folder, "openbook_qa") if split == "test" else None
    return lettered(rows, "question_stem")


TASKS = (
    TaskSpec(
        task="openbookqa",
        about="elementary science facts applied to everyday situations",
        trusted=True,
        documents=Documents(
            path="allenai/openbookqa",
            name="main",
            train="train",
            validation="validation",
            test="test",
            local=Function(function="openbookqa:local"),
        ),
        prompt=Prompt(
            text="question_stem",
            target="{{choices.label.index(answerKey.lstrip())}}",
            choices="{{choices.text}}",
        ),
        metrics=ACCURACIES,
    ),
)
