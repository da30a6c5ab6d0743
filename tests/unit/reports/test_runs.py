"""`glassbox runs`: what is listed of runs in every state, and runs side by side."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from glassbox.core.errors import UserError
from glassbox.reports.runs import (
    compare_runs,
    comparison_json,
    comparison_page,
    comparison_tables,
    describe,
    find_runs,
    runs_json,
    runs_table,
)


def make(folder: Path, *, steps: int = 20, lr: float = 0.1, done: bool = True) -> Path:
    folder.mkdir(parents=True)
    recipe = f"stage: pretrain\nout: {folder}\nmodel: {{kind: llama, hidden_size: 64, num_layers: 2}}\ntrain: {{steps: {steps}, lr: {lr}}}\n"
    (folder / "recipe.yaml").write_text(recipe)
    lines = [
        {
            "step": s,
            "loss": 3 - lr * s / 10,
            "lr": lr,
            "tokens": 100 * s,
            "seconds": 2.0 * s,
            "tokens_per_second": 50,
        }
        for s in range(1, steps + 1)
    ]
    lines.append({"step": steps, "event": "evaluation", "heldout_loss": 2.5 + lr})
    lines.append({"step": steps, "event": "evaluation", "heldout_loss": 2.6 + lr})
    lines.append({"step": 3, "event": "skipped", "reason": "x"})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    if done:
        summary = {
            "steps": steps,
            "parameters": 1000,
            "tokens": 100 * steps,
            "seconds": 2.0 * steps,
        }
        (folder / "DONE.json").write_text(json.dumps(summary))
    return folder


def shown(what: object) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(what)
    return console.export_text()


def test_runs_are_found_below_a_folder_and_told_by_state(tmp_path: Path) -> None:
    finished = make(tmp_path / "a")
    make(tmp_path / "deep" / "er" / "b", done=False)
    running = make(tmp_path / "c", done=False)
    begun = make(tmp_path / "d", done=False)
    checkpoint = begun / "checkpoints" / "step-00000010"
    checkpoint.mkdir(parents=True)
    (checkpoint / "COMPLETE").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 60]}}).encode()
    (checkpoint / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (tmp_path / "no run").mkdir()
    with FileLock(str(running / ".lock")):
        lines = {Path(line.path).name: line for line in map(describe, find_runs(tmp_path))}
    assert {name: line.state for name, line in lines.items()} == {
        "a": "finished",
        "b": "not begun",
        "c": "running",
        "d": "interrupted",
    }
    assert lines["d"].parameters == 15
    line = lines["a"]
    assert (line.step, line.steps, line.tokens, line.parameters) == (20, 20, 2000, 1000)
    assert line.loss == pytest.approx(2.8)
    assert line.heldout_loss == pytest.approx(2.7)
    assert line.bytes == sum(f.stat().st_size for f in finished.rglob("*") if f.is_file())
    text = shown(runs_table(list(lines.values())))
    assert "llama x 64 x 2 (1,000)" in text
    assert runs_json(lines.values())[0]["stage"] == "pretrain"
    with pytest.raises(UserError, match="--in"):
        find_runs(tmp_path / "none")


def test_runs_side_by_side(tmp_path: Path) -> None:
    a, b = make(tmp_path / "one" / "run"), make(tmp_path / "two" / "run", lr=0.2, steps=40)
    found = compare_runs([a, b], price=3.6)
    assert found.names == ["one/run", "two/run"]
    assert dict(found.settings) == {"train.steps": ["20", "40"], "train.lr": ["0.1", "0.2"]}
    results, cost = dict(found.results), dict(found.cost)
    assert results["best held-out loss"] == ["2.6000", "2.7000"]
    assert results["skipped steps"] == ["1", "1"]
    assert len(results["loss curve"][1]) == 24
    assert cost["time"] == ["40s", "1m20s"]
    assert cost["price"] == ["0.04", "0.08"]
    assert cost["compute, 6 N D"] == ["1.2e+07 FLOPs", "2.4e+07 FLOPs"]
    text = shown(comparison_tables(found))
    assert "Settings that differ" in text
    assert comparison_json(found)["settings"]["train.lr"] == {"one/run": "0.1", "two/run": "0.2"}
    page = comparison_page(found)
    assert page.count("<svg") == 4
    assert "two/run" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    with pytest.raises(UserError, match="2 to 6"):
        compare_runs([a])
    shutil.rmtree(a)
    with pytest.raises(UserError, match=r"no recipe\.yaml"):
        compare_runs([a, b])


def test_text_of_a_recipe_is_escaped_on_the_page(tmp_path: Path) -> None:
    a, b = make(tmp_path / "a"), make(tmp_path / "b")
    recipe = (b / "recipe.yaml").read_text().replace("pretrain", '"<script>alert(1)</script>"')
    (b / "recipe.yaml").write_text(recipe)
    page = comparison_page(compare_runs([a, b]))
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page
