"""`glassbox.run_recipe`: `glassbox train` from Python."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glassbox.api.loaded import Loaded, load
from glassbox.core.config import apply_overrides, load_recipe
from glassbox.core.distributed import process_group
from glassbox.runs.recipe import parse_recipe, recipe_folders
from glassbox.runs.train import run_recipe as run_stage


@dataclass(frozen=True)
class RunResult:
    """The outcome of a run: its folder, its status (finished, already finished, interrupted) and
    its summary.
    """

    folder: Path
    status: str
    summary: Mapping[str, Any]

    def load(self, *, device: str = "auto") -> Loaded:
        """Load the trained model."""
        return load(self.folder, device=device)


def run_recipe(
    recipe: str | Path | Mapping[str, Any],
    overrides: Mapping[str, Any] | Sequence[str] = (),
) -> RunResult:
    """Train as a recipe describes; an interrupted run is resumed.

    recipe: the path or name of a YAML file, or its content as a mapping.
    overrides: {"train.steps": 100} or ["train.steps=100"], applied to the recipe.
    Under torchrun every process calls it. Raises UserError with one clause for each error: the key,
    the value, the remedy. If the run cannot start, nothing is written.

    >>> run_recipe("pretrain.yaml", {"data.path": "book.txt", "out": "runs/book"})  # doctest: +SKIP
    """
    if isinstance(recipe, Mapping):
        where, raw = "recipe", dict(recipe)
    else:
        where, raw = str(recipe), load_recipe(recipe, search=recipe_folders())
    if isinstance(overrides, Mapping):
        words = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    else:
        words = list(overrides)
    parsed = parse_recipe(apply_overrides(raw, words), where=where)
    with process_group(parsed.device) as group:
        summary = run_stage(parsed, group=group)
    return RunResult(Path(parsed.out), str(summary["status"]), summary)
