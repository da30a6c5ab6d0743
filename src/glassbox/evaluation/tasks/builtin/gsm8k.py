"""GSM8K: grade-school word problems with worked answers. Source: Cobbe et al., arXiv:2110.14168.

strict-match asks for "#### NUMBER"; flexible-extract takes the last number in the answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glassbox.evaluation.tasks.documents import read_rows
from glassbox.evaluation.tasks.filters import Pipeline, RegexFilter, TakeFirst
from glassbox.evaluation.tasks.functions import Function
from glassbox.evaluation.tasks.metrics import Metric
from glassbox.evaluation.tasks.outputs import GenerateUntil
from glassbox.evaluation.tasks.spec import Documents, FewShot, Prompt
from glassbox.evaluation.tasks.task import TaskSpec


def local(folder: Path, split: str) -> list[dict[str, Any]] | None:
    """`gsm8k/SPLIT.jsonl`, as its authors publish it."""
    for file in (folder / "gsm8k" / f"{split}.jsonl", folder / f"{split}.jsonl"):
        if file.is_file():
            return read_rows(file)
    return None


TASKS = (
    TaskSpec(
        task="gsm8k",
        about="grade-school word problems, worked in words",
        version=3.0,
        trusted=True,
        documents=Documents(
            path="openai/gsm8k",
            name="main",
            train="train",
            test="test",
            local=Function(function="gsm8k:local"),
        ),
        prompt=Prompt(text="Question: {{question}}\nAnswer:", target="{{answer}}"),
        fewshot=FewShot(count=5, split="train"),
        output=GenerateUntil(
            generation_kwargs={
                "until": ["Question:", "</s>", "<|im_end|>"],
                "do_sample": False,
                "temperature": 0.0,
            }
        ),
        filters=(
            Pipeline(
                name="strict-match",
                filter=(RegexFilter(regex_pattern=r"#### (\-?[0-9\.\,]+)"), TakeFirst()),
            ),
            Pipeline(
                name="flexible-extract",
                filter=(
                    RegexFilter(group_select=-1, regex_pattern=r"(-?[$0-9.,]{2,})|(-?[0-9]+)"),
                    TakeFirst(),
                ),
            ),
        ),
        metrics=(
            Metric(
                metric="exact_match",
                options={
                    "ignore_case": True,
                    "ignore_punctuation": False,
                    "regexes_to_ignore": [",", r"\$", "(?s).*#### ", r"\.$"],
                },
            ),
        ),
    ),
)
