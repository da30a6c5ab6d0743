"""Recipes: descriptions of runs. `stage` is the kind of run."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, TypeAdapter

from glassbox.core.config import Spec, apply_overrides, load_recipe, parse, parse_any
from glassbox.core.errors import UserError
from glassbox.runs.stages.base import StageRecipe
from glassbox.runs.stages.distill import DistillRecipe
from glassbox.runs.stages.policy import POLICY_RECIPES
from glassbox.runs.stages.preference import DpoRecipe, PreferenceRecipe
from glassbox.runs.stages.pretrain import PretrainRecipe
from glassbox.runs.stages.reward import RewardRecipe
from glassbox.runs.stages.sft import SftRecipe

if TYPE_CHECKING:
    from glassbox.runs.stages.curate import CurateRecipe
    from glassbox.runs.stages.quickstart import QuickstartRecipe

PACKAGED = Path(__file__).resolve().parents[1] / "recipes"
CHECKOUT = Path(__file__).resolve().parents[3] / "recipes"

TRAINING_RECIPES: tuple[type[StageRecipe], ...] = (
    PretrainRecipe,
    SftRecipe,
    DpoRecipe,
    PreferenceRecipe,
    RewardRecipe,
    *POLICY_RECIPES,
    DistillRecipe,
)
"""Every kind of training run: a new one is its own file in `runs.stages` and a line here."""
TrainingRecipe: Any = Annotated[
    functools.reduce(operator.or_, TRAINING_RECIPES),
    Field(discriminator="stage"),
]


def recipe_folders() -> list[Path]:
    """Where recipes named without a path are looked for: the installed package, then the checkout."""
    return [folder for folder in (PACKAGED, CHECKOUT) if folder.is_dir()]


def read_raw(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a recipe's mapping, merged over those that it extends, with overrides `key.path=value`
    applied.
    """
    return apply_overrides(load_recipe(path, search=recipe_folders()), overrides)


def read_recipe(path: str, overrides: Sequence[str] | None = None) -> StageRecipe:
    """Load a recipe of a training run, and check it strictly.

    Raises UserError with one clause a fault: the key, the value, the remedy.
    """
    return parse_recipe(read_raw(path, overrides or ()), where=path)


def parse_recipe(raw: dict[str, Any], *, where: str) -> StageRecipe:
    """Check a recipe's mapping against the spec of its stage."""
    stage = raw.get("stage")
    if stage == "curate":
        raise UserError(f"{where}: 'stage' = 'curate' trains nothing; run `glassbox data curate`")
    if stage == "quickstart":
        raise UserError(f"{where}: 'stage' = 'quickstart'; run `glassbox quickstart`")
    recipe: StageRecipe = parse_any(TrainingRecipe, raw, where=where)
    return recipe


def read_any_recipe(path: str, overrides: Sequence[str] = ()) -> Spec:
    """A recipe of any stage: of a training run, of curation, or the quickstart's."""
    stage = read_raw(path, overrides).get("stage")
    if stage == "quickstart":
        return read_quickstart(path, overrides)
    if stage == "curate":
        return read_curate_recipe(path, overrides)
    return read_recipe(path, overrides)


def read_curate_recipe(path: str, overrides: Sequence[str] | None = None) -> CurateRecipe:
    """Load a recipe of stage `curate`, with overrides `key.path=value` applied.

    Raises UserError with one clause per error, and for a recipe of another stage.
    """
    from glassbox.runs.stages.curate import CurateRecipe

    raw = read_raw(path, overrides or ())
    if raw.get("stage") != "curate":
        raise UserError(
            f"{path}: 'stage' = {raw.get('stage')!r}; `data curate` runs 'curate' alone"
        )
    return parse(CurateRecipe, raw, where=path)


def read_quickstart(path: str, overrides: Sequence[str] = ()) -> QuickstartRecipe:
    """Load the quickstart's recipe. Raises UserError naming what is wrong."""
    from glassbox.runs.stages.quickstart import QuickstartRecipe

    return parse(QuickstartRecipe, read_raw(path, overrides), where=path)


def recipe_schema() -> dict[str, Any]:
    """JSON schema of all recipes, for editors that complete and check YAML."""
    from glassbox.runs.stages.curate import CurateRecipe

    kinds = Annotated[TrainingRecipe | CurateRecipe, Field(discriminator="stage")]
    adapter: TypeAdapter[Any] = TypeAdapter(kinds)
    return adapter.json_schema()


def list_recipes() -> list[tuple[str, str]]:
    """(name, first comment line) of every recipe that comes with Glassbox."""
    found: dict[str, str] = {}
    for folder in reversed(recipe_folders()):
        for path in sorted(folder.rglob("*.yaml")):
            first = path.read_text(encoding="utf-8").partition("\n")[0]
            found[str(path.relative_to(folder).as_posix())] = first.lstrip("# ").strip()
    return sorted(found.items())
