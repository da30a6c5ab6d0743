"""Metrics of the user's own: measured in a run, usable as the best metric, faults told before it begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import glassbox
from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.training.python_metric import PythonMetric
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

SOURCE = """
import torch

def norm(model, tokenizer, *, scale=1.0):
    return scale * model.embedding.weight.detach().norm()

class Sizes:
    def __init__(self, unit=1): self.unit = unit
    def __call__(self, model, tokenizer):
        return {"vocab": tokenizer.vocab_size // self.unit, "parameters": model.num_parameters}

calls = []
def falling(model, tokenizer):
    calls.append(1)
    return 10 - len(calls)

def words(model, tokenizer): return "good"
def nothing(model, tokenizer): return None
def fails(model, tokenizer): raise RuntimeError("no\\nluck")
def short(model): return 0.0
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE, encoding="utf-8")
    return str(path)


def measured(file: str, name: str, **options: Any) -> dict[str, float | str]:
    tokenizer = tiny_tokenizer()
    hook = PythonMetric(path=f"{file}:{name}", options=options).build(
        tokenizer, every=5, group=Group()
    )
    assert hook.every == 5
    return dict(hook(tiny_chat_model(tokenizer), 1))


def test_a_number_and_a_mapping(file: str) -> None:
    one = measured(file, "norm")["norm"]
    assert isinstance(one, float)
    assert measured(file, "norm", scale=2.0)["norm"] == pytest.approx(2 * one)
    sizes = measured(file, "Sizes", unit=10)
    assert set(sizes) == {"Sizes/vocab", "Sizes/parameters"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("words", "gave a str; return a number"),
        ("nothing", "gave a NoneType; return a number"),
        (
            "fails",
            r"evaluation\.metrics: '.*:fails' raised RuntimeError in .* line \d+, in fails: no luck",
        ),
        ("short", r"cannot be called with \(str, str\): too many positional"),
    ],
)
def test_a_fault_is_one_line(file: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        measured(file, name)
    assert "\n" not in str(caught.value)


def changes(file: str, out: Path, *metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "out": str(out),
        "data.path": str(Path(__file__).parents[3] / "examples" / "data" / "mybook.txt"),
        "evaluation.metrics": [{"kind": "python", **one} for one in metrics],
        "train.steps": 6,
        "train.schedule.warmup_steps": 2,
        "model.hidden_size": 16,
        "model.num_layers": 1,
        "model.num_heads": 2,
        "model.ffn_size": 16,
        "model.context_length": 32,
        "data.row_length": 32,
        "data.rows_per_step": 2,
        "tokenizer.vocab_size": 300,
    }


def test_a_run_records_it_and_keeps_the_best(file: str, tmp_path: Path) -> None:
    settings = changes(file, tmp_path / "run", {"path": f"{file}:falling", "every": 2})
    best = {"metric": "falling", "mode": "max", "patience": 2}
    glassbox.run_recipe(
        "pretrain.yaml", {**settings, "evaluation.every": 3, "train.best_metric": best}
    )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    values = {one["step"]: one["falling"] for one in records if "falling" in one}
    assert values == {0: 9.0, 2: 8.0, 4: 7.0, 6: 6.0}
    assert json.loads((tmp_path / "run" / "best.json").read_text(encoding="utf-8"))["step"] == 2


def test_faults_are_told_before_the_run_has_a_folder(file: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(UserError, match=r"evaluation\.metrics: .*cannot be called"):
        glassbox.run_recipe(
            "pretrain.yaml", changes(file, out, {"path": f"{file}:short", "every": 2})
        )
    off = {"evaluation.every": 0}
    with pytest.raises(UserError, match=r"norm' is never measured; set its `every`"):
        glassbox.run_recipe(
            "pretrain.yaml", {**changes(file, out, {"path": f"{file}:norm"}), **off}
        )
    assert not out.exists()
