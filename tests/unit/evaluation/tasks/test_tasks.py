"""Tasks on small local data: prompts, judged answers, result files, resumed runs, one line for bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from glassbox.core.errors import UserError
from glassbox.evaluation.tasks.cache import Cache
from glassbox.evaluation.tasks.catalogue import Catalogue, build_tasks
from glassbox.evaluation.tasks.documents import Data, read_rows
from glassbox.evaluation.tasks.local import LocalModel
from glassbox.evaluation.tasks.metrics import clustered_mean, exact_match
from glassbox.evaluation.tasks.requests import Request
from glassbox.evaluation.tasks.results import read_results, read_samples
from glassbox.evaluation.tasks.run import EvaluationSettings, evaluate_tasks
from glassbox.evaluation.tasks.task import FEWSHOT_SEED, Task
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

BUILTIN = Catalogue.builtin()


@pytest.fixture(scope="module")
def model() -> LocalModel:
    tokenizer = tiny_tokenizer()
    return LocalModel(tiny_chat_model(tokenizer), tokenizer, "tiny")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(
        tmp_path / "arc_easy" / "test.jsonl",
        [
            {
                "question": f"What is {n}?",
                "choices": {"text": [f"a {n}", f"bb {n}", "ccc"], "label": ["A", "B", "C"]},
                "answerKey": "ABC"[n % 3],
            }
            for n in range(7)
        ],
    )
    write(
        tmp_path / "arc_easy" / "train.jsonl",
        [
            {
                "question": f"Which {n}?",
                "choices": {"text": [f"x{n}", f"y{n}"], "label": ["A", "B"]},
                "answerKey": "B",
            }
            for n in range(9)
        ],
    )
    write(tmp_path / "lambada_openai" / "test.jsonl", [{"text": f"one two {n}"} for n in range(3)])
    return tmp_path


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def built(name: str, folder: Path, **options: Any) -> Task:
    return BUILTIN.tasks[name].build(Data(folder), **options)


def test_a_question_with_examples_is_one_text(data: Path) -> None:
    items = built("arc_easy", data, num_fewshot=2).items()
    context, option = items[0].requests[1].arguments
    *examples, question = context.split("\n\n")
    assert question == "Question: What is 0?\nAnswer:"
    assert len(examples) == 2
    assert all(
        e.startswith("Question: Which ") and e.split("Answer: ")[1][0] == "y" for e in examples
    )
    assert option == " bb 0"
    others = [item.requests[0].arguments[0].split("\n\n")[:2] for item in items]
    assert any(one != examples for one in others)  # each document draws its own
    assert items == built("arc_easy", data, num_fewshot=2).items(seed=FEWSHOT_SEED)


def test_options_that_are_contexts(tmp_path: Path) -> None:
    row = {
        "sentence": "Ann met Eve, so _ smiled.",
        "option1": "Ann",
        "option2": "Eve",
        "answer": "2",
    }
    write(tmp_path / "winogrande" / "validation.jsonl", [row])
    task = built("winogrande", tmp_path)
    (item,) = task.items()
    assert [one.arguments for one in item.requests] == [
        ("Ann met Eve, so Ann", " smiled."),
        ("Ann met Eve, so Eve", " smiled."),
    ]
    assert task.judge(item, [(-3.0, False), (-2.0, False)]) == {"acc": 1.0}
    assert task.judge(item, [(-2.0, False), (-3.0, False)]) == {"acc": 0.0}


def test_each_normalisation_can_pick_another_option(tmp_path: Path) -> None:
    row = {
        "question": "?",
        "choices": {"text": ["é", "long answer"], "label": ["A", "B"]},
        "answerKey": "A",
    }
    write(tmp_path / "arc_easy" / "test.jsonl", [row])
    task = built("arc_easy", tmp_path)
    (item,) = task.items()
    assert task.judge(item, [(-4.0, False, 1), (-5.0, False, 2)]) == {"acc": 1.0, "acc_norm": 0.0}


def test_mc2_is_the_share_of_probability_on_right_answers(tmp_path: Path) -> None:
    targets = {"choices": ["a", "b", "c"], "labels": [1, 1, 0]}
    row = {"question": "Q?", "mc1_targets": targets, "mc2_targets": targets}
    write(tmp_path / "truthful_qa" / "multiple_choice" / "validation.jsonl", [row])
    task = built("truthfulqa_mc2", tmp_path)
    (item,) = task.items()
    judged = task.judge(item, [(0.0, False), (0.0, False), (0.0, False)])
    assert judged["acc"] == pytest.approx(2 / 3)


def test_result_file_and_samples(data: Path, model: LocalModel, tmp_path: Path) -> None:
    out = tmp_path / "out"
    specs, groups = BUILTIN.select(["arc_easy", "lambada_openai"])
    results = evaluate_tasks(
        model,
        build_tasks(specs, Data(data)),
        groups,
        EvaluationSettings(limit=5),
        folder=out,
        log_samples=True,
    )
    assert read_results(out) == results
    arc = results["tasks"]["arc_easy"]
    assert (arc["n"], arc["n_total"], arc["metrics"]["acc,none"]["n"]) == (5, 7, 5)
    assert arc["metrics"]["acc,none"]["baseline"] == pytest.approx(1 / 3)
    samples = list(read_samples(out, "arc_easy"))
    assert [one["doc_id"] for one in samples] == list(range(5))
    accuracy = sum(one["acc"] for one in samples) / 5
    assert accuracy == arc["metrics"]["acc,none"]["value"]
    first = samples[0]
    assert first["target"] == 0
    assert first["arguments"]["gen_args_1"] == {
        "arg_0": "Question: What is 0?\nAnswer:",
        "arg_1": " bb 0",
    }
    ((log_prob, greedy),) = first["resps"][0]
    assert first["filtered_resps"][0] == [log_prob, greedy]
    ids = model.encode("Question: What is 0?\nAnswer: a 0")
    logits = model.model(torch.tensor([ids]))[0].log_softmax(-1)
    start = len(model.encode("Question: What is 0?\nAnswer:"))
    expected = sum(float(logits[n - 1, ids[n]].detach()) for n in range(start, len(ids)))
    assert log_prob == pytest.approx(expected, abs=1e-3)


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_to_the_same_files(
    data: Path, model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = build_tasks(BUILTIN.select(["arc_easy", "lambada_openai"])[0], Data(data))
    small = LocalModel(model.model, model.tokenizer, "tiny", batch_tokens=60)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    evaluate_tasks(small, tasks, folder=whole, log_samples=True)
    cache = next(whole.glob("requests-*.jsonl"))
    num_groups = len(cache.read_bytes().splitlines())
    assert num_groups > 4
    keep = Cache.add
    counted: list[str] = []
    for moment in range(num_groups):
        added = 0

        def add(self: Cache, pairs: Any, moment: int = moment) -> None:
            nonlocal added
            counted.extend(key for key, _ in pairs)
            keep(self, pairs)
            added += 1
            if added == 1 and len(self.answers) < 1000 and moment < num_groups - 1:
                raise Killed

        monkeypatch.setattr(Cache, "add", add)
        try:
            evaluate_tasks(small, tasks, folder=broken, log_samples=True)
        except Killed:
            file = next(broken.glob("requests-*.jsonl"))
            with file.open("ab") as stream:  # and half of the next line
                stream.write(b'[["abc", [-1.0, fal')
    monkeypatch.setattr(Cache, "add", keep)
    assert len(counted) == len(set(counted))  # nothing was asked twice
    for name in (
        "results.json",
        "samples_arc_easy.jsonl",
        "samples_lambada_openai.jsonl",
        cache.name,
    ):
        assert (whole / name).read_bytes() == (broken / name).read_bytes(), name


def test_answers_are_shared_between_tasks_and_runs(
    data: Path, model: LocalModel, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    evaluate_tasks(model, {"arc_easy": built("arc_easy", data)}, folder=out)
    again = built("arc_easy", data)
    evaluate_tasks(model, {"other_name": again}, folder=out)
    assert json.loads((out / "timing.json").read_text())["asked"] == 0


def test_groups_weigh_items_or_tasks() -> None:
    from glassbox.evaluation.tasks.run import group_figures
    from glassbox.evaluation.tasks.spec import GroupMetric, GroupSpec

    def figure(value: float, error: float, n: int) -> dict[str, Any]:
        metric = {"value": value, "standard_error": error, "n": n, "higher_is_better": True}
        return {"metrics": {"acc,none": metric}}

    tasks = {"a": figure(0.5, 0.1, 10), "b": figure(1.0, 0.0, 30)}
    group = GroupSpec(group="g", tasks=("a", "b"), metrics=(GroupMetric(metric="acc"),))
    found = group_figures(group, tasks, {})["metrics"]["acc,none"]
    assert found["value"] == pytest.approx(35 / 40)
    assert found["standard_error"] == pytest.approx(0.1 * 10 / 40)
    assert found["n"] == 40
    macro = group.model_copy(update={"metrics": (GroupMetric(metric="acc", weight_by_size=False),)})
    found = group_figures(macro, tasks, {})["metrics"]["acc,none"]
    assert found["value"] == pytest.approx(0.75)
    assert found["standard_error"] == pytest.approx(0.05)


def test_errors_of_items_that_share_a_passage() -> None:
    values, passages = [1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "b"]
    whole = clustered_mean(values, passages)
    apart = clustered_mean(values, None)
    assert whole.value == apart.value == 0.5
    assert whole.standard_error == pytest.approx(0.5)
    assert apart.standard_error == pytest.approx((1 / 3) ** 0.5 / 2)


def test_exact_match_ignores_what_it_is_told_to() -> None:
    assert exact_match("The Answer.", "the answer", ignore_case=True, ignore_punctuation=True) == 1
    assert exact_match("The Answer.", "the answer", ignore_case=True) == 0
    assert exact_match("a1", "a2", ignore_numbers=True) == 1


def test_white_space_at_a_contexts_end_goes_to_the_continuation(model: LocalModel) -> None:
    context, continuation = model.encode_pair("abc  ", "d")
    assert context == model.encode("abc")
    assert context + continuation == model.encode("abc  d")
    empty, after = model.encode_pair("", "d")
    assert empty == [model.prefix_id]
    assert after == model.tokenizer.encode("d")


# ---- bad input, one line each ----------------------------------------------------------------


def test_a_broken_row_is_named(data: Path) -> None:
    file = data / "arc_easy" / "test.jsonl"
    file.write_text(file.read_text() + '{"question": ', encoding="utf-8")
    with pytest.raises(UserError, match=r"test.jsonl' line 8 is no JSON .*mend or remove it"):
        built("arc_easy", data)


def test_a_row_without_its_columns_is_named(data: Path) -> None:
    file = data / "arc_easy" / "test.jsonl"
    file.write_text(file.read_text() + '{"question": "x"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"task 'arc_easy', document 7: .*'choices'"):
        built("arc_easy", data).items()


def test_a_task_without_data_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"task 'piqa': no documents of split 'validation' in .*piqa"
    ):
        built("piqa", tmp_path)
    rows = [{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}]
    write(tmp_path / "piqa" / "validation.jsonl", rows)
    task = built("piqa", tmp_path, num_fewshot=1)
    with pytest.raises(UserError, match=r"split 'train'.*--num-fewshot 0"):
        task.items()


def test_a_context_too_short_for_an_option(model: LocalModel) -> None:
    with pytest.raises(UserError, match="context_length = 128"):
        model.plan([Request("loglikelihood", ("a", " word" * 400))])
    with pytest.raises(
        UserError, match=r"max_gen_toks = 256, but context_length = 128.*--max-tokens"
    ):
        model.plan([Request("generate_until", ("a", {"until": ["x"]}))])


def test_names_are_checked() -> None:
    with pytest.raises(UserError, match="no task or group 'helaswag'; did you mean 'hellaswag'"):
        BUILTIN.select(["helaswag"])


def test_two_evaluations_cannot_write_to_one_file(model: LocalModel, tmp_path: Path) -> None:
    description = model.describe()
    with Cache(tmp_path, description), pytest.raises(UserError, match="another evaluation writes"):
        Cache(tmp_path, description)


def test_csv_columns_are_numbers_where_all_are(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('n,x,t\n1,0.5,1a\n-2,3,"b,\nc"\n', encoding="utf-8")
    assert read_rows(file) == [{"n": 1, "x": 0.5, "t": "1a"}, {"n": -2, "x": 3.0, "t": "b,\nc"}]
    file.write_text("n,x\n1\n", encoding="utf-8")
    with pytest.raises(UserError, match="row 1 has 1 columns, not 2"):
        read_rows(file)
