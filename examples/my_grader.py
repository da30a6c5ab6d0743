"""A grader of your own: how near the last number of an answer is to the right one.

    glassbox train grpo.yaml init=MODEL data.path=problems.jsonl out=runs/own \
        graders='[{kind: python, path: "examples/my_grader.py:nearness", options: {half: 5}}]'
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def nearness(completion: str, problem: Mapping[str, Any], *, half: float = 10.0) -> float:
    """1 for the right number, 1/2 for one that is `half` away, 0 where there is no number."""
    numbers = re.findall(r"-?\d+(?:\.\d+)?", completion)
    if not numbers:
        return 0.0
    return half / (half + abs(float(numbers[-1]) - float(problem["answer"])))
