"""glassbox compare and glassbox report as a user runs them, on evaluations of two models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from glassbox.cli.main import build
from glassbox.evaluation.tasks.catalogue import Catalogue, build_tasks
from glassbox.evaluation.tasks.documents import Data
from glassbox.evaluation.tasks.local import LocalModel
from glassbox.evaluation.tasks.run import EvaluationSettings, evaluate_tasks
from support.tiny_chat import tiny_chat_model, tiny_tokenizer


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a tiny model, and of the same with noise on its weights, in folders a and b."""
    root = tmp_path_factory.mktemp("compare")
    rows = [
        {
            "question": f"What is {n}?",
            "choices": {"text": [f"a {n}", f"bb {n}", "ccc"], "label": ["A", "B", "C"]},
            "answerKey": "ABC"[n % 3],
        }
        for n in range(40)
    ]
    (root / "data" / "arc_easy").mkdir(parents=True)
    text = "\n".join(map(json.dumps, rows))
    (root / "data" / "arc_easy" / "test.jsonl").write_text(text)
    specs, groups = Catalogue.builtin().select(["arc_easy"])
    tasks = build_tasks(specs, Data(str(root / "data")), num_fewshot=0)
    tokenizer = tiny_tokenizer()
    model = tiny_chat_model(tokenizer)
    for name in ("a", "b"):
        asked = LocalModel(model, tokenizer, name)
        evaluate_tasks(
            asked, tasks, groups, EvaluationSettings(), folder=root / name, log_samples=True
        )
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in model.parameters():
                p += torch.randn(p.shape, generator=generator) * 0.1
    return root


def test_compare_prints_a_table_and_writes_a_page(evaluated: Path, tmp_path: Path) -> None:
    a, b = str(evaluated / "a"), str(evaluated / "b")
    out = str(tmp_path / "page")
    shown = CliRunner().invoke(build(), ["compare", a, b, "--out", out], env={"COLUMNS": "160"})
    assert shown.exit_code == 0, shown.output
    assert "arc_easy" in shown.output
    assert "points" in shown.output
    page = (tmp_path / "page" / "compare.html").read_text(encoding="utf-8")
    assert "What is " in page
    read = json.loads((tmp_path / "page" / "compare.json").read_text(encoding="utf-8"))
    (row,) = read["rows"]
    figures = [
        json.loads((evaluated / n / "results.json").read_text())["tasks"]["arc_easy"]["metrics"]
        for n in "ab"
    ]
    assert [row["first"], row["other"]] == pytest.approx([f["acc,none"]["value"] for f in figures])
    assert row["gained"] - row["lost"] == pytest.approx(40 * row["difference"])
    assert row["gained"] + row["lost"] > 0


def test_compare_prints_json_and_takes_metrics_by_name(evaluated: Path) -> None:
    arguments = ["compare", str(evaluated / "a"), f"tuned={evaluated / 'b'}", "--json"]
    shown = CliRunner().invoke(build(), [*arguments, "--metric", "acc_norm", "--metric", "acc"])
    assert shown.exit_code == 0, shown.output
    read = json.loads(shown.stdout)
    assert [row["metric"] for row in read["rows"]] == ["acc", "acc_norm"]
    assert read["methods"] == ["a", "tuned"]


def test_report_of_an_evaluation_shows_scores_calibration_places_and_items(evaluated: Path) -> None:
    shown = CliRunner().invoke(build(), ["report", str(evaluated / "a")])
    assert shown.exit_code == 0, shown.output
    page = (evaluated / "a" / "report.html").read_text(encoding="utf-8")
    assert "Calibration" in page
    assert "arc_easy: accuracy by confidence" in page
    assert "First items of arc_easy" in page
    assert "<script" not in page
    several = CliRunner().invoke(build(), ["report", str(evaluated)])
    assert several.exit_code == 1
    assert "several models (a, b)" in str(several.exception)
