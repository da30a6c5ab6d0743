"""docs/guides/optimization.md names every kind, with words that a recipe takes and a test that exists."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pytest

from glassbox.optim.clipping import Clip
from glassbox.optim.schedules import Schedule
from glassbox.optim.specs import OptimizerConfig
from glassbox.runs.recipe import read_recipe

ROOT = Path(__file__).resolve().parents[3]
ROWS = [
    re.findall(r"`([^`]+)`", line)
    for line in (ROOT / "docs/guides/optimization.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| `") and "tests/" in line
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1])
def test_a_recipe_takes_the_words_and_the_test_exists(row: list[str]) -> None:
    _, words, test = row
    recipe = read_recipe("sft.yaml", ["init=model", "train.steps=1000", "train.epochs=null", "train.schedule.kind=constant", "train.schedule.warmup_steps=0", *words.split()])  # fmt: skip
    assert recipe.stage == "sft"
    path, _, name = test.partition("::")
    assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")


def test_every_kind_is_on_the_page() -> None:
    told = {row[0] for row in ROWS} | {"python"}
    for union in (OptimizerConfig, Schedule, Clip):
        for spec in typing.get_args(typing.get_args(union)[0]):
            assert spec.model_fields["kind"].default in told, spec
