"""Winogrande: whom a pronoun means. Source: Sakaguchi et al., arXiv:1907.10641.

Both sentences with the blank filled in are contexts, and the rest of the sentence is scored behind each
(Trinh and Le, arXiv:1806.02847, partial evaluation).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glassbox.evaluation.tasks.builtin.bundle import bundle_rows, common_beginning
from glassbox.evaluation.tasks.functions import Function
from glassbox.evaluation.tasks.metrics import Metric
from glassbox.evaluation.tasks.spec import Documents, Prompt
from glassbox.evaluation.tasks.task import TaskSpec


def text(doc: dict[str, Any]) -> int:
    """The right option's index."""
    return {"1": 0, "2": 1}[str(doc["answer"])]


def target(doc: dict[str, Any]) -> str:
    """What stands behind the blank."""
    sentence = doc["sentence"]
    return str(sentence[sentence.index("_") + 1 :]).strip()


def choices(doc: dict[str, Any]) -> list[str]:
    """The sentence up to and with each option."""
    before = doc["sentence"][: doc["sentence"].index("_")]
    return [before + doc["option1"], before + doc["option2"]]


def local(folder: Path, split: str) -> list[dict[str, Any]] | None:
    """`core/winogrande.jsonl`, which is the validation split."""
    rows = bundle_rows(folder, "winogrande") if split == "validation" else None
    if rows is None:
        return None
    found = []
    for row in rows:
        before = common_beginning(row["context_options"])
        first, second = (one[len(before) :] for one in row["context_options"])
        sentence = f"{before}_ {row['continuation']}"
        answer = str(row["gold"] + 1)
        found.append({"sentence": sentence, "option1": first, "option2": second, "answer": answer})
    return found


TASKS = (
    TaskSpec(
        task="winogrande",
        about="whom a pronoun means, adversarially chosen",
        trusted=True,
        documents=Documents(
            path="allenai/winogrande",
            name="winogrande_xl",
            train="train",
            validation="validation",
            local=Function(function="winogrande:local"),
        ),
        prompt=Prompt(
            text=Function(function="winogrande:text"),
            target=Function(function="winogrande:target"),
            choices=Function(function="winogrande:choices"),
        ),
        metrics=(Metric(metric="acc"),),
    ),
)
