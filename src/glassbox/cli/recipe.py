"""glassbox recipe: list, show and describe recipes."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        help="List, show and check recipes. Example: `glassbox recipe show pretrain.yaml`",
        no_args_is_help=True,
    )
    group.command("list")(list_)
    group.command("show")(show)
    group.command("check")(check)
    group.command("schema")(schema)
    app.add_typer(group, name="recipe", rich_help_panel="Look")


def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """The recipes that come with Glassbox. Example: `glassbox recipe list`"""
    from glassbox.runs.recipe import list_recipes

    if as_json:
        rows = [{"name": name, "about": about} for name, about in list_recipes()]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for name, about in list_recipes():
        print(f"{name:<28} {about}")


def show(
    recipe: Annotated[str, typer.Argument(help="A recipe's path or name.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value words.")] = None,
) -> None:
    """Print a recipe with all defaults, and the recipes that it extends merged in.

    Example: `glassbox recipe show pretrain.yaml train.steps=50`
    """
    from glassbox.core.config import dump_yaml
    from glassbox.runs.recipe import read_any_recipe
    from glassbox.runs.stages.base import StageRecipe

    parsed = read_any_recipe(recipe, overrides or [])
    if isinstance(parsed, StageRecipe):
        parsed.check_shape()
    print(dump_yaml(parsed), end="")


def check(
    recipe: Annotated[str, typer.Argument(help="A recipe's path or name.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value words.")] = None,
) -> None:
    """Check a recipe and everything that it names, as a run does before it starts; nothing is
    written.

    Example: `glassbox recipe check pretrain.yaml data.path=mybook.txt`
    """
    from glassbox.runs.check import check_any
    from glassbox.runs.recipe import read_any_recipe

    for line in check_any(read_any_recipe(recipe, overrides or [])):
        print(line)


def schema() -> None:
    """Print the JSON schema of recipes, for editors that complete and check YAML.

    Example: `glassbox recipe schema > recipe.schema.json`
    """
    from glassbox.runs.recipe import recipe_schema

    print(json.dumps(recipe_schema(), indent=2, ensure_ascii=False))
