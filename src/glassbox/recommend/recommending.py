"""Functions behind the commands: train a recommender, evaluate several, recommend items for a list."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from glassbox.core.errors import UserError
from glassbox.recommend.map import draw_map
from glassbox.recommend.playlists import Item, Split, leave_last_out
from glassbox.recommend.ranking import Ranked, difference, rank_metrics, rank_targets
from glassbox.recommend.saved import RECIPE, Saved, open_recommender, save_recommender
from glassbox.recommend.specs import Recipe
from glassbox.recommend.world import World

SEPARATOR = ";"
MOST_SHOWN = 5


def train_recommender(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Train by a recipe and write `out`; returns what was trained on.

    Raises UserError where the lists cannot be read, or `out` holds a recommender or other files.
    """
    if (out / RECIPE).exists():
        raise UserError(f"--out = '{out}' holds a recommender already; name another folder")
    if out.exists() and any(path.name != "training" for path in out.iterdir()):
        raise UserError(f"--out = '{out}' is not empty; name another folder")
    playlists = recipe.data.playlists()
    train = leave_last_out(playlists).train if recipe.held_out else playlists
    model = recipe.model.build(train, seed=recipe.seed, folder=out / "training")
    vectors = model.item_vectors()
    out.mkdir(parents=True, exist_ok=True)
    mapped = vectors is not None and draw_map(vectors, train.seen, out / "map.svg")
    save_recommender(out, recipe, model, playlists, train)
    return {
        "lists": len(playlists),
        "items": playlists.num_items,
        "entries": len(playlists.flat),
        "unseen": int((train.counts == 0).sum()),
        "left_out": dict(playlists.left_out),
        "map": mapped,
    }


@dataclass(frozen=True)
class Measured:
    """A recommender's metrics, and its difference to the first one's on the same lists."""

    name: str
    kind: str
    summary: dict[str, Any]
    over_first: dict[str, dict[str, float]] | None


def measure(folders: Sequence[Path | str], *, ceiling: bool = False) -> list[Measured]:
    """Rank all items behind each list of held-out last items, with each recommender.

    ceiling: also with the exact probabilities, where the lists were generated; it comes last.
    Raises UserError where the recommenders were not trained on the same lists.
    """
    opened = [open_recommender(folder) for folder in folders]
    first = opened[0]
    for other in opened[1:]:
        if other.lists_checksum != first.lists_checksum:
            raise UserError(
                f"'{other.folder}' was trained on other lists than '{first.folder}'; compare "
                "recommenders of the same lists"
            )
    split = first.split()
    found: list[Measured] = []
    reference: Ranked | None = None
    for saved in opened:
        _check_held_out(saved)
        ranked = rank_targets(saved.model, split)
        over = None if reference is None else difference(ranked, reference)
        reference = reference or ranked
        kind = saved.recipe.model.kind
        found.append(Measured(str(saved.folder), kind, ranked.summary(), over))
    if ceiling:
        data = first.recipe.data
        if not isinstance(data, World):
            raise UserError("--ceiling: only of generated lists is the right answer known")
        ranked = rank_exactly(data, split)
        assert reference is not None
        found.append(Measured("exact", "exact", ranked.summary(), difference(ranked, reference)))
    return found


def _check_held_out(saved: Saved) -> None:
    if not saved.recipe.held_out:
        raise UserError(
            f"'{saved.folder}' has learnt whole lists, so there is nothing to ask it for; train one "
            "without --whole-lists"
        )


def rank_exactly(world: World, split: Split) -> Ranked:
    """The metrics of who knows the world: the most that any model can reach, on average."""
    made = world.build()
    parts = []
    for row, target in zip(split.asked, split.targets, strict=True):
        scores = made.next_probabilities(split.train[row])[None]
        scores[0, split.train[row]] = -np.inf
        parts.append(rank_metrics(scores, np.array([target])))
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Ranked(values, split.train.counts[split.targets] == 0)


@dataclass(frozen=True)
class Suggestion:
    """An item to go on with; nearest: the item of the list that it is most like, and the cosine."""

    item: Item
    score: float
    nearest: Item | None
    similarity: float


def suggest(saved: Saved, names: str, *, count: int) -> tuple[list[Item], list[Suggestion]]:
    """The items that `names` names between semicolons, and `count` items to go on with.

    Raises UserError for names that no item has or several have, and where training saw none of them.
    """
    chosen = find_items(saved.seen.items, names)
    if not saved.seen.counts[chosen].any() and saved.recipe.model.kind != "popularity":
        raise UserError(
            f"--playlist: training saw none of these {len(chosen)}, so nothing is known of them; "
            "add one that is in the lists"
        )
    scores = np.array(saved.model.scores([chosen])[0], dtype=np.float64)
    scores[chosen] = -np.inf
    order = np.argsort(-scores, kind="stable")[:count]
    nearest = _nearest(saved.model.similarities(order, chosen), chosen, len(order))
    items = saved.seen.items
    found = []
    for place, item in enumerate(order):
        if np.isneginf(scores[item]):
            break
        near, similarity = nearest[place]
        why = None if near is None else items[near]
        found.append(Suggestion(items[item], float(scores[item]), why, similarity))
    return [items[number] for number in chosen], found


def _nearest(
    alike: Float[ndarray, "C L"] | None, chosen: Int[ndarray, " L"], count: int
) -> list[tuple[int | None, float]]:
    if alike is None:
        return [(None, 0.0)] * count
    best = alike.argmax(axis=1)
    return [(int(chosen[b]), float(alike[place, b])) for place, b in enumerate(best)]


def find_items(items: Sequence[Item], names: str) -> Int[ndarray, " L"]:
    """Numbers of the items named between semicolons: by title, "title - artist", or "#id".

    Case does not matter. Raises UserError for a name that fits none or several.
    """
    words = [word.strip() for word in names.split(SEPARATOR) if word.strip()]
    if not words:
        raise UserError(f"--playlist = {names!r}; name songs between semicolons")
    by_name: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        for name in {item.title.casefold(), str(item).casefold(), f"#{item.key}".casefold()}:
            by_name.setdefault(name, []).append(number)
    return np.array([_find(items, by_name, word) for word in words], dtype=np.int64)


def _find(items: Sequence[Item], by_name: dict[str, list[int]], word: str) -> int:
    found = by_name.get(word.casefold(), [])
    if len(found) == 1:
        return found[0]
    if found:
        shown = "; ".join(f"#{items[n].key} {items[n]}" for n in found[:MOST_SHOWN])
        more = f" and {len(found) - MOST_SHOWN} more" if len(found) > MOST_SHOWN else ""
        raise UserError(f"--playlist: '{word}' is the name of several: {shown}{more}; give the #id")
    near = difflib.get_close_matches(word.casefold(), by_name, n=1, cutoff=0.5)
    inside = [name for name in by_name if word.casefold() in name]
    hint = near or inside[:1]
    remedy = (
        f"did you mean '{items[by_name[hint[0]][0]]}'?"
        if hint
        else "the names stand in items.json of the model's folder"
    )
    raise UserError(f"--playlist: no item is called '{word}'; {remedy}")
