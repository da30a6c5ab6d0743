"""CORE held to its own definition, written out as a loop: an item at a time, all of it read anew."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from glassbox.evaluation.tasks.catalogue import Catalogue, build_tasks
from glassbox.evaluation.tasks.documents import Data
from glassbox.evaluation.tasks.local import LocalModel
from glassbox.evaluation.tasks.results import read_samples
from glassbox.evaluation.tasks.run import evaluate_tasks
from support.harness_rows import Rows
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

CONTEXT = 256


def options_row(r: Rows) -> dict[str, Any]:
    return {"query": f"Question: {r.question()}\n", "choices": r.options(4), "gold": r.index(4)}


def contexts_row(r: Rows) -> dict[str, Any]:
    start = f"The {r.option()} met Eve because"
    options = [f"{start} {one}" for one in r.options(2)]
    return {"context_options": options, "continuation": r.phrase(), "gold": r.index(2)}


def continuation_row(r: Rows) -> dict[str, Any]:
    return {
        "context": f"{r.phrase()} is  ",
        "continuation": r.generator.choice(["the", "the", "e"]),
    }


# task: its file, a row, examples, delimiter, what guessing gets; 15 rows each
TASKS: dict[str, tuple[str, Any, int, str, float]] = {
    "core_piqa": ("piqa", options_row, 10, "\nAnswer: ", 0.5),
    "core_copa": ("copa", options_row, 0, " ", 0.5),
    "core_winogrande": ("winogrande", contexts_row, 0, " ", 0.5),
    "core_bigbench_operators": ("bigbench_operators", continuation_row, 10, " ", 0.0),
    "core_squad": ("squad", continuation_row, 10, " ", 0.0),
    "core_coqa": ("coqa", continuation_row, 0, " ", 0.0),
    "core_boolq": ("boolq", options_row, 10, "\nAnswer: ", 0.62),
}


def plain(
    model: LocalModel, data: list[dict[str, Any]], index: int, count: int, delimiter: str
) -> bool:
    """One item by the definition. Source: DCLM, as nanochat's core_eval states it."""
    item = data[index]
    generator = random.Random(1234 + index)
    others = [n for n in range(len(data)) if n != index]
    examples = [data[n] for n in generator.sample(others, count)]
    if "query" in item:
        before = "".join(f"{e['query']}{delimiter}{e['choices'][e['gold']]}\n\n" for e in examples)
        texts = [f"{before}{item['query']}{delimiter}{choice}" for choice in item["choices"]]
    elif "context_options" in item:
        texts = [f"{one}{delimiter}{item['continuation']}" for one in item["context_options"]]
    else:
        before = "".join(
            f"{e['context'].strip()}{delimiter}{e['continuation']}\n\n" for e in examples
        )
        start = f"{before}{item['context'].strip()}{delimiter}"
        texts = [start.strip(), start + item["continuation"]]
    rows = [[model.prefix_id, *model.tokenizer.encode(text)] for text in texts]
    if "query" in item:
        alike = next(n for n in range(999) if len({tuple(row[: n + 1]) for row in rows}) > 1)
        starts = [alike] * len(rows)
    elif "context_options" in item:
        alike = next(
            n for n in range(999) if len({tuple(row[len(row) - n - 1 :]) for row in rows}) > 1
        )
        starts = [len(row) - alike for row in rows]
    else:
        assert rows[1][: len(rows[0])] == rows[0]
        starts, rows = [len(rows[0])], rows[1:]
    losses = []
    for start, row in zip(starts, rows, strict=True):
        cut = max(0, len(row) - CONTEXT)
        ids, first = row[cut:], start - cut
        with torch.no_grad():
            logits = model.model(torch.tensor([ids[:-1]]))[0].log_softmax(-1)[first - 1 :]
        targets = torch.tensor(ids[first:])
        if "context" in item:
            return bool((logits.argmax(-1) == targets).all())
        losses.append(-float(logits.gather(-1, targets[:, None]).mean()))
    return losses.index(min(losses)) == item["gold"]


def make_likely(model: LocalModel, rows: list[dict[str, Any]], word: str) -> None:
    """Have greedy decoding write this word behind most contexts."""
    (token,) = model.tokenizer.encode(word)
    with torch.no_grad():
        ends = [
            model.model.hidden_states(torch.tensor([model.encode(one["context"].strip())]))[0, -1]
            for one in rows
        ]
        model.model.output_weight[token] = 2 * torch.stack(ends).mean(0)


@pytest.mark.parametrize("name", TASKS)
def test_verdicts_are_those_of_the_definition(name: str, tmp_path: Path) -> None:
    file, row, count, delimiter, baseline = TASKS[name]
    tokenizer = tiny_tokenizer()
    model = LocalModel(tiny_chat_model(tokenizer, context_length=CONTEXT), tokenizer, "tiny")
    r = Rows(7)
    rows = [row(r) for _ in range(15)]
    if "context" in rows[0]:
        make_likely(model, rows, " the")
    (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    specs, _ = Catalogue.builtin().select([name])
    found = evaluate_tasks(
        model, build_tasks(specs, Data(tmp_path)), folder=tmp_path / "out", log_samples=True
    )
    random.Random(1337).shuffle(rows)
    expected = [plain(model, rows, n, count, delimiter) for n in range(len(rows))]
    verdicts = [bool(one["acc"]) for one in read_samples(tmp_path / "out", name)]
    assert verdicts == expected
    entry = found["tasks"][name]["metrics"]["acc,none"]
    share = sum(expected) / len(expected)
    assert entry["centred"] == pytest.approx((share - baseline) / (1 - baseline))
    assert 0 < share < 1  # both verdicts are there


def test_the_group_is_the_mean_of_what_is_centred() -> None:
    groups = Catalogue.builtin().groups
    assert len(groups["core"].tasks) == 20
    assert len(groups["core_22"].tasks) == 22
    from glassbox.evaluation.tasks.run import group_figures

    def figure(value: float, baseline: float) -> dict[str, Any]:
        entry = {"value": value, "standard_error": 0.1, "n": 10, "baseline": baseline}
        return {"metrics": {"acc,none": {**entry, "centred": (value - baseline) / (1 - baseline)}}}

    tasks = {name: figure(0.5, 0.0) for name in groups["core"].tasks}
    tasks["core_copa"] = figure(0.5, 0.5)
    found = group_figures(groups["core"], tasks, groups)["metrics"]["centred,none"]
    assert found["value"] == pytest.approx(19 * 0.5 / 20)
    assert found["standard_error"] == pytest.approx((19 * 0.01 + 0.04) ** 0.5 / 20)
