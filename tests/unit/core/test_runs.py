"""A run's folder that was moved is the same run: paths beside it follow it, others do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.core.runs import RunFolder, follow


class Recipe(Spec):
    """A recipe with a path."""

    out: str
    init: str
    steps: int = 1


def begun(recipe: Recipe) -> RunFolder:
    run = RunFolder(recipe.out)
    with run:
        run.begin(recipe)
        run.finish({})
    return run


def test_paths_beside_a_run_follow_it_and_others_do_not(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    begun(Recipe(out=f"{old}/dpo", init=f"{old}/sft"))
    old.rename(new)
    moved = RunFolder(new / "dpo")
    moved.compare(Recipe(out=f"{new}/dpo", init=f"{new}/sft"))
    for other in (f"{new}/other", f"{old}/sft", "sft", f"{tmp_path}/newer/sft"):
        with pytest.raises(UserError, match="init"):
            moved.compare(Recipe(out=f"{new}/dpo", init=other))
    with pytest.raises(UserError, match="steps: 1 -> 2"):
        moved.compare(Recipe(out=f"{new}/dpo", init=f"{new}/sft", steps=2))


def test_under_another_name_beside_the_old_one_nothing_else_changes() -> None:
    value = {"init": "runs/sft", "parts": [{"path": "runs/a.jsonl", "weight": 2}], "text": "runs"}
    assert follow(value, "runs/a", "runs/b") == value
    assert follow(value, "runs/a", "kept/b") == {
        "init": "kept/sft",
        "parts": [{"path": "kept/a.jsonl", "weight": 2}],
        "text": "runs",
    }
    assert follow({"init": "sft", "data": "./x"}, "dpo", "kept/dpo") == {
        "init": "sft",
        "data": "./x",
    }
    assert follow(value, None, "kept/b") == value
