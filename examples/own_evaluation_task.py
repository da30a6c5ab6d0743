"""An evaluation task of your own: which of four numbers is the sum of two.

    python examples/own_evaluation_task.py MODEL
    glassbox eval MODEL --tasks examples/own_evaluation_task.py:addition

The documents are made by a function; those of a file are named by Documents(path="json", kwargs=...).
"""

from __future__ import annotations

import random
import sys
from typing import Any

from glassbox.evaluation.tasks.functions import Function
from glassbox.evaluation.tasks.metrics import Metric
from glassbox.evaluation.tasks.outputs import MultipleChoice
from glassbox.evaluation.tasks.spec import Documents, FewShot, Prompt
from glassbox.evaluation.tasks.task import TaskSpec
from glassbox.runs.tasks import TaskSources, evaluate_on_tasks


def rows(split: str) -> list[dict[str, Any]]:
    """Sums of two numbers with four options: the same ones each time, others for each split."""
    chance = random.Random(split)
    made = []
    for _ in range(40):
        a, b = chance.randint(1, 9), chance.randint(1, 9)
        options = sorted({a + b, *chance.sample([n for n in range(2, 19) if n != a + b], 3)})
        made.append({"a": a, "b": b, "options": [str(n) for n in options], "sum": str(a + b)})
    return made


addition = TaskSpec(
    task="addition",
    about="the sum of two numbers below ten, of four options",
    documents=Documents(rows=Function(function=f"{__file__}:rows"), train="train", test="test"),
    prompt=Prompt(text="{{a}} + {{b}} =", choices="options", target="sum"),
    fewshot=FewShot(count=3),
    output=MultipleChoice(),
    metrics=(Metric(metric="acc"),),
)


def main(model: str) -> float:
    """The share of sums for which the right option is the most probable one; by chance a quarter."""
    results = evaluate_on_tasks([model], TaskSources(tasks=(f"{__file__}:addition",)))
    figure = results[model]["tasks"]["addition"]["metrics"]["acc,none"]
    print(f"{figure['value']:.2f} +- {figure['standard_error']:.2f}")
    return float(figure["value"])


if __name__ == "__main__":
    main(sys.argv[1])
