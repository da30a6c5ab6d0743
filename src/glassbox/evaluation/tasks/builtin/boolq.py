"""BoolQ: yes-or-no questions about a passage. Source: Clark et al., arXiv:1905.10044; SuperGLUE's form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glassbox.evaluation.tasks.builtin.bundle import bundle_rows
from glassbox.evaluation.tasks.functions import Function
from glassbox.evaluation.tasks.metrics import Metric
from glassbox.evaluation.tasks.spec import Documents, Prompt
from glassbox.evaluation.tasks.task import TaskSpec


def local(folder: Path, split: str) -> list[dict[str, Any]] | None:
    """`core/boolq.jsonl`, which is the validation split."""
    rows = bundle_rows(folder, "boolq") if split == "validation" else None
    if rows is None:
        return None
    found = []
    for row in rows:
        passage, _, question = row["query"].removeprefix("Passage: ").rpartition("\nQuestion: ")
        question = question.strip().removesuffix("?")
        found.append({"passage": passage, "question": question, "label": row["gold"]})
    return found


TASKS = (
    TaskSpec(
        task="boolq",
        about="yes-or-no questions about a passage",
        version=2.0,
        trusted=True,
        documents=Documents(
            path="aps/super_glue",
            name="boolq",
            train="train",
            validation="validation",
            cluster="passage",
            local=Function(function="boolq:local"),
        ),
        prompt=Prompt(
            text="{{passage}}\nQuestion: {{question}}?\nAnswer:",
            target="label",
            choices=("no", "yes"),
        ),
        metrics=(Metric(metric="acc"),),
    ),
)
