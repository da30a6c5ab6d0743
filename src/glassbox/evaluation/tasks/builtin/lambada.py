"""LAMBADA: the last word of a passage. Source: Paperno et al., arXiv:1606.06031; OpenAI's preprocessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glassbox.evaluation.tasks.builtin.bundle import bundle_rows
from glassbox.evaluation.tasks.functions import Function
from glassbox.evaluation.tasks.metrics import Metric
from glassbox.evaluation.tasks.outputs import Loglikelihood
from glassbox.evaluation.tasks.spec import Documents, Prompt
from glassbox.evaluation.tasks.task import TaskSpec


def local(folder: Path, split: str) -> list[dict[str, Any]] | None:
    """`core/lambada_openai.jsonl`, which is the test split."""
    rows = bundle_rows(folder, "lambada_openai") if split == "test" else None
    return rows and [{"text": f"{row['context']} {row['continuation']}"} for row in rows]


def _lambada(task: str, documents: Documents) -> TaskSpec:
    return TaskSpec(
        task=task,
        about="the last word of a passage",
        trusted=True,
        documents=documents,
        prompt=Prompt(
            text="{{text.split(' ')[:-1]|join(' ')}}", target="{{' '+text.split(' ')[-1]}}"
        ),
        output=Loglikelihood(),
        metrics=(Metric(metric="perplexity"), Metric(metric="acc")),
    )


TASKS = (
    _lambada(
        "lambada_openai",
        Documents(
            path="EleutherAI/lambada_openai",
            name="default",
            test="test",
            local=Function(function="lambada:local"),
        ),
    ),
    _lambada(
        "lambada_standard",
        Documents(path="cimec/lambada", test="test", validation="validation"),
    ),
)
