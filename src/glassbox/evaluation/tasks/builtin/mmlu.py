"""MMLU: 57 subjects, four options. Source: Hendrycks et al., arXiv:2009.03300.

Three forms: by letter (`mmlu`), by the options' texts (`mmlu_continuation`), and as the model writes it
(`mmlu_generative`). Groups weigh subjects by their questions; `mmlu_macro` is the mean over subjects.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glassbox.core.errors import UserError
from glassbox.data.text import byte_lines
from glassbox.evaluation.tasks.documents import read_csv
from glassbox.evaluation.tasks.filters import Pipeline, RegexFilter, RemoveWhitespace, TakeFirst
from glassbox.evaluation.tasks.functions import Function
from glassbox.evaluation.tasks.metrics import Metric
from glassbox.evaluation.tasks.outputs import GenerateUntil
from glassbox.evaluation.tasks.spec import Documents, FewShot, GroupMetric, GroupSpec, Prompt
from glassbox.evaluation.tasks.task import TaskSpec

SUBJECTS = {
    "stem": [
        "abstract_algebra",
        "anatomy",
        "astronomy",
        "college_biology",
        "college_chemistry",
        "college_computer_science",
        "college_mathematics",
        "college_physics",
        "computer_security",
        "conceptual_physics",
        "electrical_engineering",
        "elementary_mathematics",
        "high_school_biology",
        "high_school_chemistry",
        "high_school_computer_science",
        "high_school_mathematics",
        "high_school_physics",
        "high_school_statistics",
        "machine_learning",
    ],
    "other": [
        "business_ethics",
        "clinical_knowledge",
        "college_medicine",
        "global_facts",
        "human_aging",
        "management",
        "marketing",
        "medical_genetics",
        "miscellaneous",
        "nutrition",
        "professional_accounting",
        "professional_medicine",
        "virology",
    ],
    "social_sciences": [
        "econometrics",
        "high_school_geography",
        "high_school_government_and_politics",
        "high_school_macroeconomics",
        "high_school_microeconomics",
        "high_school_psychology",
        "human_sexuality",
        "professional_psychology",
        "public_relations",
        "security_studies",
        "sociology",
        "us_foreign_policy",
    ],
    "humanities": [
        "formal_logic",
        "high_school_european_history",
        "high_school_us_history",
        "high_school_world_history",
        "international_law",
        "jurisprudence",
        "logical_fallacies",
        "moral_disputes",
        "moral_scenarios",
        "philosophy",
        "prehistory",
        "professional_law",
        "world_religions",
    ],
}
LETTERED = (
    "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\n"
    "D. {{choices[3]}}\nAnswer:"
)


def _local(subject: str) -> Function:
    return Function(function=f"mmlu:local_{subject}")


def _read(folder: Path, split: str, subject: str) -> list[dict[str, Any]] | None:
    """`mmlu/SPLIT/SUBJECT_SPLIT.csv`, as its authors publish it (`data/` in their archive)."""
    short = {"validation": "val"}.get(split, split)
    for place in (folder / "mmlu", folder / "data", folder):
        file = place / short / f"{subject}_{short}.csv"
        if file.is_file():
            text = "\n".join(line.decode("utf-8-sig") for line in byte_lines(file))
            rows = read_csv(text, file)
            for number, row in enumerate(rows, start=1):
                if len(row) != 6 or row[5] not in "ABCD":
                    raise UserError(
                        f"'{file}' row {number}: expected a question, four options and a letter, not "
                        f"{len(row)} columns ending in {row[-1][:20]!r}"
                    )
            return [
                {"question": row[0], "choices": row[1:5], "answer": "ABCD".index(row[5])}
                for row in rows
            ]
    return None


def __getattr__(name: str) -> Any:
    """`local_SUBJECT`: reads that subject's files."""
    if name.startswith("local_"):
        subject = name.removeprefix("local_")
        return lambda folder, split: _read(folder, split, subject)
    raise AttributeError(name)


def _task(subject: str, form: str) -> TaskSpec:
    named = subject.replace("_", " ")
    kind = "questions" if form == "continuation" else "multiple choice questions"
    documents = Documents(path="cais/mmlu", name=subject, test="test", local=_local(subject))
    description = f"The following are {kind} (with answers) about {named}.\n\n"
    common: dict[str, Any] = {
        "alias": named,
        "about": f"MMLU, {named}",
        "trusted": True,
        "documents": documents,
        "fewshot": FewShot(split="dev", sampler="first_n"),
    }
    if form == "continuation":
        return TaskSpec(
            task=f"mmlu_{subject}_continuation",
            prompt=Prompt(
                text="Question: {{question.strip()}}\nAnswer:",
                target="{{answer}}",
                choices="{{choices}}",
                description=description,
            ),
            **common,
        )
    if form == "generative":
        return TaskSpec(
            task=f"mmlu_{subject}_generative",
            version=3.0,
            prompt=Prompt(
                text=LETTERED, target="{{['A', 'B', 'C', 'D'][answer]}}", description=description
            ),
            output=GenerateUntil(generation_kwargs={"until": ["</s>", "\n"]}),
            filters=(
                Pipeline(
                    name="get_response",
                    filter=(
                        RegexFilter(regex_pattern=r"^(.*?)(?=\n|$)"),
                        RemoveWhitespace(),
                        RegexFilter(regex_pattern=r"^(.*?)\s*$"),
                        TakeFirst(),
                    ),
                ),
            ),
            metrics=(
                Metric(
                    metric="exact_match",
                    options={"ignore_punctuation": True, "ignore_case": True},
                ),
            ),
            **common,
        )
    return TaskSpec(
        task=f"mmlu_{subject}",
        prompt=Prompt(
            text=LETTERED, target="answer", choices=tuple("ABCD"), description=description
        ),
        metrics=(Metric(metric="acc"),),
        **common,
    )


_FORMS = {"": "acc", "continuation": "acc", "generative": "exact_match"}


def _groups(form: str, metric: str) -> list[GroupSpec]:
    end = f"_{form}" if form else ""
    weighted = (GroupMetric(metric=metric),)
    parts = [
        GroupSpec(
            group=f"mmlu{end}_{part}" if form else f"mmlu_{part}",
            alias=part.replace("_", " "),
            about=f"MMLU, {part.replace('_', ' ')}" + (f", {form}" if form else ""),
            tasks=tuple(f"mmlu_{subject}{end}" for subject in subjects),
            metrics=weighted,
        )
        for part, subjects in SUBJECTS.items()
    ]
    members = tuple(part.group for part in parts)
    whole = GroupSpec(
        group=f"mmlu{end}",
        about="MMLU, 57 subjects, every question alike" + (f", {form}" if form else ""),
        tasks=members,
        metrics=weighted,
    )
    macro = GroupSpec(
        group=f"mmlu_macro{end}",
        about="MMLU, 57 subjects, every subject alike" + (f", {form}" if form else ""),
        tasks=members,
        metrics=(GroupMetric(metric=metric, weight_by_size=False),),
    )
    return [*parts, whole, macro]


TASKS = tuple(
    _task(subject, form) for form in _FORMS for part in SUBJECTS.values() for subject in part
)
GROUPS = tuple(group for form, metric in _FORMS.items() for group in _groups(form, metric))
