"""HumanEval: Python functions from their docstrings, run against tests. Source: Chen et al., arXiv:2107.03374.

Answers run in the sandbox (`sandbox.code_tests`), which they cannot leave.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glassbox.evaluation.tasks.documents import read_rows
from glassbox.evaluation.tasks.filters import Custom, Pipeline
from glassbox.evaluation.tasks.functions import Function
from glassbox.evaluation.tasks.metrics import Metric
from glassbox.evaluation.tasks.outputs import GenerateUntil
from glassbox.evaluation.tasks.spec import Documents, FewShot, Prompt
from glassbox.evaluation.tasks.task import TaskSpec
from glassbox.sandbox.code_tests import run_tests

STOPS = ["\nclass", "\ndef", "\n#", "\nif", "\nprint"]


def complete(responses: list[list[str]], docs: list[dict[str, Any]]) -> list[list[str]]:
    """Each answer behind its prompt: a program."""
    return [
        [doc["prompt"] + one for one in answers]
        for answers, doc in zip(responses, docs, strict=True)
    ]


def complete_fenced(responses: list[list[str]], docs: list[dict[str, Any]]) -> list[list[str]]:
    """As `complete`, answers cut where their code block ends."""
    return [
        [doc["prompt"] + one.partition("```")[0] for one in answers]
        for answers, doc in zip(responses, docs, strict=True)
    ]


def pass_at_k(
    references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int] | int = (1,)
) -> dict[str, float]:
    """pass@k of one problem from n programs of which c pass: 1 - C(n - c, k) / C(n, k).

    Source: Chen et al., equation 1 (unbiased). k above n is left out.
    """
    wanted = [k] if isinstance(k, int) else list(k)
    (tests,), (programs,) = references, predictions
    passed = sum(passes(program, tests) for program in programs)
    return {
        f"pass@{one}": unbiased_pass_at_k(len(programs), passed, one)
        for one in wanted
        if one <= len(programs)
    }


def unbiased_pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that k of n answers, drawn without replacement, hold one of the c that pass.

    >>> unbiased_pass_at_k(10, 1, 5)
    0.5
    """
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


@functools.lru_cache(maxsize=4096)
def passes(program: str, tests: str) -> bool:
    """Whether a program passes tests that end with `check(NAME)`."""
    body, _, name = tests.rpartition("\ncheck(")
    return run_tests(program, body, entry_point=name.removesuffix(")").strip()).passed


def local(folder: Path, split: str) -> list[dict[str, Any]] | None:
    """`humaneval/HumanEval.jsonl.gz`, as its authors publish it."""
    if split != "test":
        return None
    for place in (folder / "humaneval", folder):
        for name in ("HumanEval.jsonl.gz", "HumanEval.jsonl"):
            if (place / name).is_file():
                return read_rows(place / name)
    return None


def _task(name: str, ks: list[int], repeats: int, sampling: dict[str, Any], about: str) -> TaskSpec:
    return TaskSpec(
        task=name,
        about=about,
        trusted=True,
        documents=Documents(
            path="openai/openai_humaneval", test="test", local=Function(function="humaneval:local")
        ),
        prompt=Prompt(text="{{prompt}}", target="{{test}}\ncheck({{entry_point}})"),
        fewshot=FewShot(count=0),
        output=GenerateUntil(
            generation_kwargs={"until": STOPS, "max_gen_toks": 1024, **sampling}, repeats=repeats
        ),
        filters=(
            Pipeline(
                name="create_test",
                filter=(Custom(filter_fn=Function(function="humaneval:complete")),),
            ),
        ),
        metrics=(
            Metric(
                metric=Function(function="humaneval:pass_at_k"),
                aggregation="mean",
                options={"k": ks},
            ),
        ),
    )


TASKS = (
    _task("humaneval", [1], 1, {"do_sample": False}, "Python functions, greedy, run against tests"),
    _task(
        "humaneval_64",
        [2, 8, 16, 32, 64],
        64,
        {"do_sample": True, "temperature": 0.2, "top_p": 0.95},
        "the same, 64 answers each, pass@k",
    ),
)
