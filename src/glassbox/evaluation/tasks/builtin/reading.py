"""Questions about passages: CoQA (Reddy et al., arXiv:1808.07042) and SQuAD completions.

SQuAD's form is that of Arora et al., arXiv:2402.18668: a passage that ends where its answer begins.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from glassbox.evaluation.tasks.functions import Function
from glassbox.evaluation.tasks.metrics import Metric
from glassbox.evaluation.tasks.outputs import GenerateUntil
from glassbox.evaluation.tasks.spec import Documents, Prompt
from glassbox.evaluation.tasks.task import TaskSpec


def normalized(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces: SQuAD's comparison."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact(gold: str, answer: str) -> float:
    """1 where both are the same once normalised."""
    return float(normalized(gold) == normalized(answer))


def overlap_f1(gold: str, answer: str) -> float:
    """F1 of the words that both have; 1 or 0 where one has none."""
    left, right = normalized(gold).split(), normalized(answer).split()
    if not left or not right:
        return float(left == right)
    common = sum((Counter(left) & Counter(right)).values())
    return 2 * common / (len(left) + len(right))


def coqa_text(doc: dict[str, Any]) -> str:
    """The story, the conversation so far, the question."""
    text = f"{doc['story']}\n\n"
    asked, answered = doc["questions"]["input_text"], doc["answers"]["input_text"][:-1]
    for question, answer in zip_longest(asked, answered):
        text += f"Q: {question}\n\n" + ("A:" if answer is None else f"A: {answer}\n\n")
    return text


def coqa_target(doc: dict[str, Any]) -> list[str]:
    """The last answer, and other people's where they differ."""
    turn = len(doc["questions"]["input_text"]) - 1
    answers = [doc["answers"]["input_text"][turn]]
    for other in (doc.get("additional_answers") or {}).values():
        answer = other["input_text"][turn]
        if answer.lower() not in (one.lower() for one in answers):
            answers.append(answer)
    return answers


def coqa_results(doc: dict[str, Any], results: Sequence[Any]) -> dict[str, Any]:
    """em and f1 against the best of the other answers, each left out in turn, as people are judged."""
    golds = coqa_target(doc)
    answer = str(results[0]).strip().split("\n")[0]
    sums = {"em": 0.0, "f1": 0.0}
    for left_out in range(len(golds)):
        others = golds[:left_out] + golds[left_out + 1 :] or golds
        sums["em"] += max(exact(one, answer) for one in others)
        sums["f1"] += max(overlap_f1(one, answer) for one in others)
    return {name: value / len(golds) for name, value in sums.items()}


def contains(doc: dict[str, Any], results: Sequence[Any]) -> dict[str, Any]:
    """Whether the answer stands in what was written, in any case."""
    return {"contains": int(str(doc["value"]).strip().lower() in str(results[0]).lower())}


TASKS = (
    TaskSpec(
        task="coqa",
        about="the last question of a conversation about a story",
        version=3.0,
        trusted=True,
        documents=Documents(
            path="EleutherAI/coqa", train="train", validation="validation", cluster="story"
        ),
        prompt=Prompt(
            text=Function(function="reading:coqa_text"),
            target=Function(function="reading:coqa_target"),
        ),
        output=GenerateUntil(generation_kwargs={"until": ["\nQ:"]}),
        results=Function(function="reading:coqa_results"),
        metrics=(Metric(metric="em"), Metric(metric="f1", aggregation="mean")),
    ),
    TaskSpec(
        task="squad_completion",
        about="a passage that ends where its answer begins",
        trusted=True,
        documents=Documents(
            path="hazyresearch/based-squad", name="default", validation="validation"
        ),
        prompt=Prompt(text="{{text.strip()}}", target="{{value.strip()}}"),
        output=GenerateUntil(generation_kwargs={"until": ["\n"], "max_gen_toks": 48}),
        results=Function(function="reading:contains"),
        metrics=(Metric(metric="contains"),),
    ),
)
