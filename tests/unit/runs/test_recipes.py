"""Recipes: what reading one imports, and that every complaint names the key that the user wrote."""

from __future__ import annotations

import subprocess
import sys
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from glassbox.core.config import (
    _choices,
    _items,
    _members,
    _models_in,
    _with_discriminator,
    parse_any,
)
from glassbox.core.errors import UserError
from glassbox.runs.recipe import TrainingRecipe, list_recipes, read_any_recipe, read_raw
from glassbox.runs.stages.curate import CurateRecipe

IMPORTED = """
import sys
from glassbox.runs.recipe import read_recipe
read_recipe("grpo.yaml")
read_recipe("pretrain.yaml")
names = sorted(name for name in sys.modules if name.startswith("glassbox"))
print(len(names), *names)
"""
MOST = 225
"""Modules of ours that reading a recipe may import: most are layers, operations and optimizers, each the
file of its spec. The engine and what it needs are not among them."""


def test_reading_a_recipe_imports_no_engine() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True
    )
    count, *names = done.stdout.split()
    assert int(count) <= MOST, names
    heavy = ("inference.engine", "inference.runner", "inference.scheduler", "serving")
    heavy += (
        "evaluation.hooks",
        "evaluation.scoring",
        "evaluation.tasks.task",
        "evaluation.tasks.run",
    )
    heavy += ("reports", "training.loop", "runs.setup", "runs.train", "data.curation")
    found = [n for n in names if any(n.startswith(f"glassbox.{one}") for one in heavy)]
    assert not found


Path = tuple[str | int, ...]
Tags = dict[Path, tuple[str, str]]
"""At a path: the key that tells a union's specs apart, and the chosen one's value of it."""


def unions(kind: Any, path: Path, tags: Tags, depth: int = 0) -> Iterator[tuple[Path, Tags]]:
    """Every member of every union that a key tells apart below an annotation, and how to come to it."""
    if depth > 7:
        return
    found = _members(kind)
    if found is not None:
        key, members = found
        for value, model in members.items():
            chosen: Tags = {**tags, path: (key, value)}
            yield path, chosen
            yield from below(model, path, chosen, depth)
        return
    for model in _models_in(kind):
        yield from below(model, path, tags, depth)
    for item in _items(kind):
        number: str | int = 0 if _is_list(kind) else "k"
        yield from unions(item, (*path, number), tags, depth + 1)


def below(model: type[BaseModel], path: Path, tags: Tags, depth: int) -> Iterator[Any]:
    for name, field in model.model_fields.items():
        yield from unions(_with_discriminator(field), (*path, name), tags, depth + 1)


def _is_list(kind: Any) -> bool:
    origins = [typing.get_origin(choice) for choice in _choices(kind)]
    return any(origin in (list, tuple) for origin in origins)


def raw_with(path: Path, tags: Tags, inner: dict[str, Any]) -> Any:
    """The mapping in which the unions on the way to a path are chosen, and `inner` stands there."""
    value: Any = inner
    for place in range(len(path), -1, -1):
        if path[:place] in tags:
            key, chosen = tags[path[:place]]
            value = {key: chosen, **value}
        if place:
            part = path[place - 1]
            value = [value] if isinstance(part, int) else {str(part): value}
    return value


CASES = [
    *((TrainingRecipe, *case) for case in unions(TrainingRecipe, (), {})),
    *((CurateRecipe, *case) for case in unions(CurateRecipe, (), {})),
]


def test_the_unions_are_found() -> None:
    told = {tag for _, path, tags in CASES for tag in [tags[path]]}
    assert len(CASES) > 500
    assert {("stage", "grpo"), ("kind", "lora"), ("kind", "muon"), ("kind", "kto")} <= told
    assert {("kind", "retention"), ("kind", "gsm8k"), ("kind", "warmup_linear")} <= told
    assert {("kind", "gpt2"), ("kind", "near_duplicates"), ("kind", "url")} <= told


def test_every_union_names_the_users_own_key() -> None:
    """An unknown key in each member of each union: named where it stands, with no tag in between."""
    seen: set[Any] = set()
    for kind, path, tags in CASES:
        short = (path[-2:], tags[path], tags.get((), ""))
        if short in seen:
            continue  # the same union deeper down
        seen.add(short)
        with pytest.raises(UserError) as caught:
            parse_any(kind, raw_with(path, tags, {"unheard_of": 1}), where="r")
        message = str(caught.value)
        name = ".".join(map(str, (*path, "unheard_of")))
        assert f"unknown key '{name}' = 1;" in message, (path, tags, message)
        for _, value in tags.values():
            assert f".{value}." not in message.replace(name, ""), (path, tags, message)
    assert len(seen) > 200


@pytest.mark.parametrize(
    ("recipe", "words", "said"),
    [
        ("pretrain.yaml", ["model={kind: gpt2, num_layers: 2}"], "missing key 'model.hidden_size'"),
        ("pretrain.yaml", ["train.steps=1.5"], "'train.steps' = 1.5: give a whole number"),
        ("pretrain.yaml", ["train.compile=maybe"], "'train.compile' = 'maybe': give true or false"),
        ("pretrain.yaml", ["train.schedule=3"], "'train.schedule' = 3: give a mapping of keys"),
        ("pretrain.yaml", ["device=gpu"], "'device' = 'gpu': use 'auto', 'cpu', 'cuda' or 'mps'"),
        ("pretrain.yaml", ["data.sources=3"], "'data.sources' = 3: give a list"),
        ("lora.yaml", ["adapter=3"], "'adapter' = 3: give a mapping of keys"),
        ("grpo.yaml", ["graders=[{weight: 2}]"], "missing key 'graders.0.kind'; choose one of"),
        ("pretrain.yaml", ["train.steps=2"], "add train.schedule.warmup_steps=0"),
        ("pretrain.yaml", ["model.num_heads=7"], "no multiple of num_heads = 7"),
    ],
)
def test_complaints_have_our_words(recipe: str, words: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_any_recipe(recipe, [*words, "data.path=x"] if recipe != "lora.yaml" else words)
    message = str(caught.value)
    assert said in message
    for theirs in ("Input should be", "valid ", "validation error", "pydantic", "<class"):
        assert theirs not in message


def test_every_recipe_that_comes_along_can_be_read_and_its_shape_be_built() -> None:
    words = {"distill": ["teacher=x"], "pretrain": ["data.path=x"]}
    for name, _ in list_recipes():
        stage = read_raw(name).get("stage", "")
        recipe: Any = read_any_recipe(name, words.get(stage, []))
        if hasattr(recipe, "check_shape"):
            recipe.check_shape()
