"""A run that has begun accepts what changes nothing about its steps, records it, and refuses the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from glassbox.core.errors import UserError
from glassbox.core.metrics import read_metrics
from glassbox.runs.recipe import parse_recipe
from glassbox.runs.train import check_recipe, run_recipe
from support.tiny_run import last_weights

TEXT = "\n\n".join(
    f"The {w} fox number {n} sat by the river." for n, w in enumerate("abcdefgh" * 30)
)


def recipe(folder: Path, **changes):
    """A run of four steps; `changes` are laid over it, dots as double underscores."""
    source = folder / "text.txt"
    if not source.exists():
        source.write_text(TEXT, encoding="utf-8")
    raw = {
        "stage": "pretrain",
        "out": str(folder / "run"),
        "device": "cpu",
        "tokenizer": {"vocab_size": 270},
        "data": {"path": str(source), "row_length": 32, "rows_per_step": 4, "rows_per_batch": 4},
        "model": {
            "kind": "llama",
            "hidden_size": 16,
            "num_layers": 1,
            "num_heads": 2,
            "ffn_size": 32,
            "context_length": 32,
        },
        "train": {"steps": 4, "lr": 0.01, "schedule": {"kind": "constant"}, "log_every": 1},
        "evaluation": {"every": 2},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        place = raw
        for part in path:
            place = place[part]  # type: ignore[assignment]
        place[last] = value
    return parse_recipe(raw, where="r.yaml")


def test_a_finished_run_goes_on_for_more_steps_with_other_batches(tmp_path: Path) -> None:
    assert run_recipe(recipe(tmp_path))["status"] == "finished"
    assert run_recipe(recipe(tmp_path))["status"] == "already finished"
    more = recipe(
        tmp_path,
        train__steps=8,
        data__rows_per_batch=1,
        train__keep_last=1,
        evaluation__every=4,
        train__log_every=2,
    )
    assert any("train.steps: 4 -> 8" in line for line in check_recipe(more))
    assert run_recipe(more)["status"] == "finished"
    run = tmp_path / "run"
    records = read_metrics(run / "metrics.jsonl")
    (changed,) = [r for r in records if r.get("event") == "changed"]
    assert changed["step"] == 4
    assert changed["changes"] == {
        "train.steps": [4, 8],
        "data.rows_per_batch": [4, 1],
        "train.keep_last": [2, 1],
        "evaluation.every": [2, 4],
        "train.log_every": [1, 2],
    }
    assert yaml.safe_load((run / "recipe.yaml").read_text())["train"]["steps"] == 8
    assert [r["step"] for r in records if "loss" in r] == [1, 2, 3, 4, 6, 8]
    assert json.loads((run / "DONE.json").read_text())["steps"] == 8
    whole = tmp_path / "whole"
    whole.mkdir()
    run_recipe(recipe(whole, train__steps=8))
    mine, theirs = last_weights(run), last_weights(whole / "run")
    for name, tensor in theirs.items():  # the same sums in another order: float32 rounding
        assert float((mine[name] - tensor).abs().max()) < 1e-5, name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train__lr": 0.02}, r"train\.lr: 0\.01 -> 0\.02"),
        ({"train__steps": 3}, r"train\.steps: 4 -> 3"),
        ({"data__rows_per_step": 8}, r"data\.rows_per_step: 4 -> 8"),
        ({"evaluation__every": 0}, r"evaluation\.every: 2 -> 0"),
        ({"train__keep_last": 1, "seed": 1}, r"seed: 0 -> 1"),
    ],
)
def test_what_would_change_the_mathematics_is_refused(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    run_recipe(recipe(tmp_path))
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=said):
        run_recipe(recipe(tmp_path, **changes))
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_recipe_of_an_older_version_lacks_keys_and_still_goes_on(tmp_path: Path) -> None:
    run_recipe(recipe(tmp_path))
    path = tmp_path / "run" / "recipe.yaml"
    written = yaml.safe_load(path.read_text())
    del written["z_loss"], written["train"]["ema"]
    path.write_text(yaml.safe_dump(written))
    assert run_recipe(recipe(tmp_path))["status"] == "already finished"
    with pytest.raises(UserError, match=r"z_loss: 0\.0 -> 0\.1"):
        run_recipe(recipe(tmp_path, z_loss=0.1))
