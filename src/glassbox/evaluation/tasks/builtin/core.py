"""CORE: 22 tasks, each centred by what guessing gets. Source: Li et al., arXiv:2406.11794 (DCLM), section 3.5.

The files are already rendered; what is added is examples, a delimiter, and the way of judging:
multiple choice and schema tasks take the option with the smallest mean loss over the tokens in which
the options differ, the others ask whether greedy decoding writes the continuation. Examples are drawn
from the same file, by chance and anew for each document. Text begins with beginning-of-text.
Tested against: nanochat's definition, written out as a loop.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from glassbox.core.errors import UserError
from glassbox.evaluation.tasks.builtin import hellaswag
from glassbox.evaluation.tasks.builtin.bundle import bundle_rows
from glassbox.evaluation.tasks.functions import Function, Rows
from glassbox.evaluation.tasks.metrics import Metric
from glassbox.evaluation.tasks.outputs import Spans
from glassbox.evaluation.tasks.spec import Documents, FewShot, GroupSpec, Prompt
from glassbox.evaluation.tasks.task import TaskSpec

SHUFFLE_SEED = 1337
ANSWER = "\nAnswer: "
_TABLE: tuple[tuple[str, str, str, int, str, float], ...] = (
    # label, file, form, examples, delimiter, what guessing gets
    ("hellaswag_zeroshot", "hellaswag", "options", 0, " ", 0.25),
    ("jeopardy", "jeopardy_all", "continuation", 10, ANSWER, 0.0),
    ("bigbench_qa_wikidata", "bigbench_qa_wikidata", "continuation", 10, " ", 0.0),
    ("arc_easy", "arc_easy", "options", 10, ANSWER, 0.25),
    ("arc_challenge", "arc_challenge", "options", 10, ANSWER, 0.25),
    ("copa", "copa", "options", 0, " ", 0.5),
    ("commonsense_qa", "commonsense_qa", "options", 10, " ", 0.2),
    ("piqa", "piqa", "options", 10, ANSWER, 0.5),
    ("openbook_qa", "openbook_qa", "options", 0, " ", 0.25),
    ("lambada_openai", "lambada_openai", "continuation", 0, " ", 0.0),
    ("hellaswag", "hellaswag", "options", 10, " ", 0.25),
    ("winograd", "winograd_wsc", "contexts", 0, " ", 0.5),
    ("winogrande", "winogrande", "contexts", 0, " ", 0.5),
    ("bigbench_dyck_languages", "bigbench_dyck_languages", "continuation", 10, " ", 0.0),
    ("agi_eval_lsat_ar", "agi_eval_lsat_ar", "options", 3, " ", 0.2),
    ("bigbench_cs_algorithms", "bigbench_cs_algorithms", "continuation", 10, " ", 0.0),
    ("bigbench_operators", "bigbench_operators", "continuation", 10, " ", 0.0),
    ("bigbench_repeat_copy_logic", "bigbench_repeat_copy_logic", "continuation", 10, " ", 0.0),
    ("squad", "squad", "continuation", 10, " ", 0.0),
    ("coqa", "coqa", "continuation", 0, " ", 0.0),
    ("boolq", "boolq", "options", 10, ANSWER, 0.62),
    ("bigbench_language_identification", "bigbench_language_identification", "options", 10, " ", 0.091),
)  # fmt: skip
_FIELDS = {
    "options": ("query", "choices", "gold"),
    "contexts": ("context_options", "continuation", "gold"),
    "continuation": ("context", "continuation"),
}
WITHOUT_FILES = ("squad", "coqa")
"""Tasks whose files are not part of every copy of the bundle."""


def shuffled(rows: Rows) -> Rows:
    """The rows in the order in which CORE takes them."""
    rows = Rows(rows)
    random.Random(SHUFFLE_SEED).shuffle(rows)
    return rows


def __getattr__(name: str) -> Any:
    """`local_FILE`: reads that file of the bundle."""
    if name.startswith("local_"):
        return lambda folder, split: _read(folder, name.removeprefix("local_"))
    raise AttributeError(name)


def _read(folder: Path, name: str) -> list[dict[str, Any]] | None:
    rows = bundle_rows(folder, name)
    if rows is None and name == "hellaswag":
        own = hellaswag.local(folder, "validation")
        return own and [_as_bundle(row) for row in own]
    form = next(one for _, file, one, *_ in _TABLE if file == name)
    for number, row in enumerate(rows or (), start=1):
        missing = [field for field in _FIELDS[form] if field not in row]
        if missing:
            raise UserError(f"{name}.jsonl row {number} has no '{missing[0]}'; mend or remove it")
    return rows


def _as_bundle(row: dict[str, Any]) -> dict[str, Any]:
    context = f"{row['ctx_a']} {row['ctx_b'].capitalize()}".rstrip()
    return {
        "query": hellaswag.plain(f"{row['activity_label']}: {context}"),
        "choices": [hellaswag.plain(ending) for ending in row["endings"]],
        "gold": int(row["label"]),
    }


_PROMPTS: dict[str, dict[str, Any]] = {
    "options": {"text": "query", "choices": "choices", "target": "gold"},
    "contexts": {"text": "gold", "choices": "context_options", "target": "continuation"},
    "continuation": {"text": "{{context|trim}}", "target": "continuation"},
}


def _task(
    label: str, file: str, form: str, count: int, delimiter: str, baseline: float
) -> TaskSpec:
    return TaskSpec(
        task=f"core_{label}",
        alias=label,
        about=f"CORE, {label.replace('_', ' ')}",
        trusted=True,
        documents=Documents(
            test="test",
            process=Function(function="core:shuffled"),
            local=Function(function=f"core:local_{file}"),
        ),
        prompt=Prompt(target_delimiter=delimiter, **_PROMPTS[form]),
        fewshot=FewShot(count=count, sampler="per_document"),
        output=Spans(form=form),
        metrics=(Metric(metric="acc", baseline=baseline),),
    )


TASKS = tuple(_task(*row) for row in _TABLE)
GROUPS = (
    GroupSpec(
        group="core",
        about="CORE, the 20 of its 22 tasks whose files are usually there, centred",
        tasks=tuple(f"core_{label}" for label, *_ in _TABLE if label not in WITHOUT_FILES),
        centred=True,
    ),
    GroupSpec(
        group="core_22",
        about="CORE, all 22 tasks, centred",
        tasks=tuple(f"core_{label}" for label, *_ in _TABLE),
        centred=True,
    ),
)
