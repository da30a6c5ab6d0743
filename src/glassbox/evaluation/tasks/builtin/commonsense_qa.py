"""CommonsenseQA: five-way questions of common sense. Source: Talmor et al., arXiv:1811.00937."""

from __future__ import annotations

from glassbox.evaluation.tasks.metrics import Metric
from glassbox.evaluation.tasks.spec import Documents, Prompt
from glassbox.evaluation.tasks.task import TaskSpec

_OPTIONS = "\n".join(f"{letter}. {{{{choices['text'][{n}]}}}}" for n, letter in enumerate("ABCDE"))

TASKS = (
    TaskSpec(
        task="commonsense_qa",
        about="five-way questions of common sense, answered by letter",
        trusted=True,
        documents=Documents(path="tau/commonsense_qa", train="train", validation="validation"),
        prompt=Prompt(
            text=f"Question: {{{{ question.strip() }}}}\n{_OPTIONS}\nAnswer:",
            target="answerKey",
            choices=tuple("ABCDE"),
        ),
        metrics=(Metric(metric="acc"),),
    ),
)
