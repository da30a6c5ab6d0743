"""Which recipes leave models that transformers opens: those whose shape one of its families has."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from glassbox.models.causal_lm import CausalLM
from glassbox.models.families import family_of
from glassbox.runs.recipe import read_recipe
from glassbox.runs.shards import PackedRows, describe_rows

ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "docs/guides/models.md"
ALONE = {"hybrid-delta", "hybrid-mamba2"}
"""Recipes of mixed blocks, which no family of transformers has."""


def shapes() -> list[str]:
    """Every recipe that decides a model's shape; the others begin with a model that is there."""
    files = [
        file for part in ("pretrain", "distill") for file in (ROOT / "recipes" / part).iterdir()
    ]
    return sorted(str(file.relative_to(ROOT)) for file in files)


@pytest.mark.parametrize("recipe", shapes())
def test_a_recipes_model_opens_in_transformers_or_is_said_not_to(recipe: str) -> None:
    model = read_recipe(str(ROOT / recipe)).model  # type: ignore[attr-defined]
    family = family_of(model.config(512))
    name = Path(recipe).stem
    assert (family is None) == (name in ALONE), name
    row = re.search(rf"^\| `{name}`.*\|$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert row is not None, f"the guide does not name {name}"
    assert row[0].endswith("| no |" if family is None else f"| {family.architecture} |")


@pytest.mark.parametrize("recipe", ["pretrain", "hybrid-delta"])
def test_training_says_where_transformers_has_no_such_model(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = read_recipe(str(ROOT / f"recipes/pretrain/{recipe}.yaml"))
    with torch.device("meta"):
        model = CausalLM(found.model.config(512))  # type: ignore[attr-defined]
    shard = SimpleNamespace(num_documents=1, num_tokens=8, info={})
    rows = MagicMock(spec=PackedRows, row_length=8, shard=shard, num_pairs=7)
    rows.__len__.return_value = 1
    describe_rows([rows], model, tmp_path)
    said = "opens in Glassbox alone" in capsys.readouterr().err
    assert said == (recipe in ALONE)
