"""Which recipes leave models that transformers opens: those whose shape one of its families has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from glassbox.models.families import family_of
from glassbox.runs.recipe import read_recipe

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
