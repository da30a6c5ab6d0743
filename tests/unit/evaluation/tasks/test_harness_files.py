"""Task files in lm-evaluation-harness's own form: what is read, and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glassbox.core.errors import UserError
from glassbox.evaluation.tasks.catalogue import Catalogue
from glassbox.evaluation.tasks.documents import Data
from glassbox.evaluation.tasks.filters import Pipeline
from glassbox.evaluation.tasks.outputs import GenerateUntil, MultipleChoice
from glassbox.evaluation.tasks.task import Task, TaskSpec

ROWS = [
    {"q": f" What is {n}? ", "options": [f"a{n}", f"b{n}"], "gold": n % 2, "worked": f"so #### {n}"}
    for n in range(6)
]
TASK = """
task: small
dataset_path: json
dataset_kwargs:
  data_files: {test: ROWS}
  trust_remote_code: true
test_split: test
fewshot_split: test
fewshot_config:
  sampler: first_n
output_type: multiple_choice
doc_to_text: "Q: {{q.strip()}}\\nA:"
doc_to_choice: options
doc_to_target: gold
tag: [tiny, other]
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 2.5
"""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return file


def write(folder: Path, name: str, text: str, rows: Path | None = None) -> str:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text.replace("ROWS", json.dumps(str(rows))), encoding="utf-8")
    return str(file)


def read(*files: str, **options: Any) -> list[TaskSpec]:
    catalogue = Catalogue.of(files=files, **options)
    return catalogue.select(catalogue.named)[0]


def build(spec: TaskSpec, **options: Any) -> Task:
    return spec.build(Data(), **options)


def test_a_task_file(tmp_path: Path, rows: Path) -> None:
    (spec,) = read(write(tmp_path, "a.yaml", TASK, rows))
    assert (spec.task, spec.version, spec.trusted) == ("small", 2.5, False)
    assert isinstance(spec.output, MultipleChoice)
    items = build(spec, num_fewshot=2).items()
    # the document itself is no example of itself
    assert items[0].requests[1].arguments == (
        "Q: What is 1?\nA: b1\n\nQ: What is 2?\nA: a2\n\nQ: What is 0?\nA:",
        " b0",
    )
    assert items[5].requests[0].arguments[0].startswith("Q: What is 0?\nA: a0\n\nQ: What is 1?")


def test_includes_are_laid_over(tmp_path: Path, rows: Path) -> None:
    write(tmp_path, "base/_template_yaml", TASK, rows)
    file = write(
        tmp_path, "b.yaml", "include: base/_template_yaml\ntask: other\ndescription: 'D '\n"
    )
    (spec,) = read(file)
    assert spec.task == "other"
    assert spec.prompt.description == "D "
    assert spec.prompt.choices == "options"
    write(tmp_path, "x.yaml", "include: y.yaml\ntask: x\n")
    circle = write(tmp_path, "y.yaml", "include: x.yaml\ntask: y\n")
    with pytest.raises(UserError, match=r"includes itself \(y.yaml -> x.yaml -> y.yaml\)"):
        read(circle)


GENERATED = """
task: worked
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
doc_to_text: "{{q}}"
doc_to_target: "{{worked}}"
generation_kwargs: {until: ["\\n"], do_sample: true, temperature: "0.5"}
repeats: 3
filter_list:
  - name: first
    filter: [{function: regex, regex_pattern: "#### (\\\\d+)"}, {function: take_first}]
  - name: vote
    filter:
      - {function: take_first_k, k: 3}
      - {function: regex, regex_pattern: "#### (\\\\d+)"}
      - {function: majority_vote}
      - {function: take_first}
metric_list:
  - {metric: exact_match, ignore_case: true, regexes_to_ignore: ["(?s).*#### "]}
"""


def test_answers_that_are_drawn_several_times(tmp_path: Path, rows: Path) -> None:
    (spec,) = read(write(tmp_path, "a.yaml", GENERATED, rows))
    assert isinstance(spec.output, GenerateUntil)
    assert spec.output.generation_kwargs["temperature"] == 0.5
    task = build(spec)
    item = task.items()[3]
    assert [one.repeat for one in item.requests] == [0, 1, 2]
    assert len({one.key for one in item.requests}) == 3
    answers = ["so #### 4", "#### 3", "it is #### 3"]
    first, vote = (pipeline.apply([answers], [item.doc]) for pipeline in spec.filters)
    assert (first, vote) == (["4"], ["3"])
    assert task.judge(item, first) == {"exact_match": 0.0}
    assert task.judge(item, vote) == {"exact_match": 1.0}


def test_groups_tags_and_overrides(tmp_path: Path, rows: Path) -> None:
    write(tmp_path, "t/a.yaml", TASK, rows)
    write(tmp_path, "t/b.yaml", "include: a.yaml\ntask: second\n")
    write(
        tmp_path,
        "t/group.yaml",
        "group: all_of_it\n"
        "num_fewshot: 1\n"
        "task:\n"
        "  - {group: inner, task: [tiny], aggregate_metric_list: [{metric: acc}]}\n"
        "  - {task: small, description: 'Now: '}\n"
        "aggregate_metric_list:\n"
        "  - {metric: acc, weight_by_size: false}\n",
    )
    catalogue = Catalogue.of(include_paths=[str(tmp_path / "t")])
    specs, groups = catalogue.select(["all_of_it"])
    assert {spec.task for spec in specs} == {"small", "second"}
    assert all(spec.fewshot.count == 1 for spec in specs)
    assert next(one for one in specs if one.task == "small").prompt.description == "Now: "
    assert groups["all_of_it"].tasks == ("all_of_it::inner", "small")
    assert groups["all_of_it"].metrics[0].weight_by_size is False
    assert groups["all_of_it::inner"].tasks == ("second", "small")
    tagged, _ = catalogue.select(["other"])
    assert [spec.task for spec in tagged] == ["second", "small"]


def test_functions_that_are_built_in(tmp_path: Path, rows: Path) -> None:
    text = TASK.replace("doc_to_text:", "process_docs: !function utils.process_docs\ndoc_to_text:")
    (spec,) = read(write(tmp_path, "hellaswag/hellaswag.yaml", text, rows))
    assert spec.documents.process is not None
    assert spec.documents.process.function == "hellaswag:clean"
    write(tmp_path, "hellaswag/utils.py", "def process_docs(docs):\n    raise SystemExit\n")
    with pytest.raises(
        UserError, match=r"!function utils.process_docs names Python code.*--allow-code"
    ):
        read(str(tmp_path / "hellaswag" / "hellaswag.yaml"))


def test_functions_of_a_folder_that_is_allowed(tmp_path: Path, rows: Path) -> None:
    code = tmp_path / "code"
    text = TASK.replace("doc_to_choice: options", "doc_to_choice: !function utils.choices").replace(
        "test_split", "process_docs: !function utils.docs\ntest_split"
    )
    file = write(code, "a.yaml", text, rows)
    write(
        code,
        "utils.py",
        "def docs(dataset):\n"
        "    dataset = dataset.filter(lambda doc: doc['gold'] == 1)\n"
        "    return dataset.map(lambda doc: {'q': doc['q'].upper()})\n"
        "def choices(doc):\n"
        "    return [one + '!' for one in doc['options']]\n",
    )
    with pytest.raises(UserError, match="is not run"):
        read(file)
    with pytest.raises(UserError, match="is not run"):
        read(file, allow_code=[str(tmp_path / "another")])
    (spec,) = read(file, allow_code=[str(code)])
    items = build(spec).items()
    assert len(items) == 3
    assert items[0].requests[0].arguments == ("Q: WHAT IS 1?\nA:", " a1!")
    before = spec.digest
    (code / "utils.py").write_text((code / "utils.py").read_text() + "# changed\n")
    assert spec.digest != before


HOSTILE = {
    "python object": (
        "task: x\nfoo: !!python/object/apply:os.system ['touch /tmp/p']\n",
        "line 2.*python",
    ),
    "python name": ("task: !!python/name:os.system x\n", "line 1"),
    "unknown tag": ("task: !exec x\n", "!exec"),
    "no mapping": ("- a\n- b\n", "expected a mapping"),
    "broken": ("task: [a\n", "line 2"),
    "endless": (
        "task: x\na: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n"
            for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "more than 200,000 values",
    ),
    "a class": ("task: x\nclass: !function task.Thing\n", "'class' is a Python class"),
    "unknown key": ("task: x\nfoo: 1\n", "unknown key 'foo'"),
    "promptsource": ("task: x\nuse_prompt: promptsource:*\n", "'use_prompt'"),
    "no name": ("doc_to_text: x\n", "'task' = null"),
    "a filter of Python": (
        "task: x\nfilter_list:\n  - {name: a, filter: [{function: !function utils.F}]}\n",
        "!function utils.F names Python code",
    ),
    "an unknown filter": (
        "task: x\nfilter_list:\n  - {name: a, filter: [{function: regexx}]}\n",
        "'regexx' is unknown; did you mean 'regex'",
    ),
    "a bad pattern": (
        "task: x\nfilter_list:\n  - {name: a, filter: [{function: regex, regex_pattern: '('}]}\n",
        "no regular expression",
    ),
    "another package's metric": (
        "task: x\nmetric_list: [{metric: rouge, hf_evaluate: true}]\n",
        "metric 'rouge' is one of the package evaluate",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_refused(name: str, tmp_path: Path) -> None:
    text, message = HOSTILE[name]
    file = write(tmp_path, "a.yaml", text)
    with pytest.raises(UserError, match=message) as error:
        read(file)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ q.__class__.__mro__ }}", "the template of 'text' failed: access"),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
            "failed",
        ),
        ("{{ missing }}", "failed: 'missing' is undefined"),
        ("{% if %}", "cannot be compiled"),
        ("{% include '/etc/passwd' %}", "failed"),
    ],
)
def test_hostile_templates(template: str, message: str, tmp_path: Path, rows: Path) -> None:
    text = TASK.replace('"Q: {{q.strip()}}\\nA:"', json.dumps(template))
    (spec,) = read(write(tmp_path, "a.yaml", text, rows))
    with pytest.raises(UserError, match=f"task 'small'.*{message}"):
        build(spec).items()


def test_metrics_that_are_not_there(tmp_path: Path, rows: Path) -> None:
    text = TASK.replace("aggregation: mean", "aggregation: bleu")
    (spec,) = read(write(tmp_path, "a.yaml", text, rows))
    with pytest.raises(
        UserError, match="aggregation 'bleu' of metric 'acc' is not supported; those are"
    ):
        build(spec)


def test_the_default_pipeline_takes_the_first_answer() -> None:
    assert Pipeline().apply([["a", "b"], ["c"]], [{}, {}]) == ["a", "c"]
