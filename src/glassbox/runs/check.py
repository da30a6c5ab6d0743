"""Checks a recipe as a run does before it starts."""

from __future__ import annotations

from collections.abc import Iterator

from glassbox.core.config import Spec
from glassbox.runs.curate import check_curation
from glassbox.runs.quickstart import Quickstart
from glassbox.runs.stages.base import StageRecipe
from glassbox.runs.stages.curate import CurateRecipe
from glassbox.runs.stages.quickstart import QuickstartRecipe
from glassbox.runs.train import check_recipe


def check_any(recipe: Spec) -> Iterator[str]:
    """Check a recipe of any kind; lines that say what was found. Raises UserError."""
    if isinstance(recipe, StageRecipe):
        yield from check_recipe(recipe)
    elif isinstance(recipe, CurateRecipe):
        check_curation(recipe)
    elif isinstance(recipe, QuickstartRecipe):
        Quickstart(recipe).check()
    yield "nothing is wrong with it"
