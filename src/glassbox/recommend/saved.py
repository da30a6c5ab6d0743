"""A recommender's folder: `recommender.json`, `items.json`, `model.safetensors`, `map.svg`, nothing else.

OUT/recommender.json    recipe, checksum of the lists, losses, version of this layout
OUT/items.json          id, title, artist and group of each item; how often training saw it
OUT/model.safetensors   what was learnt
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.core.files import write_json
from glassbox.formats.tensor_files import TensorFiles, read_json, write_tensors
from glassbox.recommend.playlists import Item, Playlists, Seen, Split, leave_last_out
from glassbox.recommend.recommender import Recommender
from glassbox.recommend.specs import Recipe

RECIPE, ITEMS, LAYOUT = "recommender.json", "items.json", 1


@dataclass(frozen=True)
class Saved:
    """A recommender as it was opened; `seen` is of its training."""

    folder: Path
    recipe: Recipe
    model: Recommender
    seen: Seen
    lists_checksum: str

    def split(self) -> Split:
        """Its lists, read or generated again, and what they are asked for.

        Raises UserError where these are not the lists it was trained on, or nothing was held out.
        """
        if not self.recipe.held_out:
            raise UserError(
                f"'{self.folder}' has learnt whole lists, so there is nothing to ask it for; train one "
                "without --whole-lists"
            )
        playlists = self.recipe.data.playlists()
        if lists_checksum(playlists) != self.lists_checksum:
            raise UserError(
                f"'{self.folder}' was trained on other lists than '{playlists.source}' holds now; train "
                "it again"
            )
        return leave_last_out(playlists)


def lists_checksum(playlists: Playlists) -> str:
    """What tells lists from others: BLAKE2b-128 of items and numbers."""
    digest = hashlib.blake2b(digest_size=16)
    for item in playlists.items:
        digest.update(f"{item.key}\t{item}\n".encode())
    digest.update(playlists.flat.astype("<i8").tobytes())
    digest.update(playlists.offsets.astype("<i8").tobytes())
    return digest.hexdigest()


def save_recommender(
    folder: Path, recipe: Recipe, model: Recommender, playlists: Playlists, train: Playlists
) -> None:
    """Write a folder; `recommender.json` comes last, so that one without it is not whole."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECIPE).unlink(missing_ok=True)
    write_tensors(folder / "model.safetensors", model.tensors())
    columns = ("key", "title", "artist", "group")
    items: dict[str, Any] = {c: [getattr(item, c) for item in train.items] for c in columns}
    write_json(folder / ITEMS, {**items, "count": train.counts.tolist()}, indent=None)
    write_json(
        folder / RECIPE,
        {
            "layout": LAYOUT,
            "lists": len(train),
            "checksum": lists_checksum(playlists),
            "losses": getattr(model, "losses", []),
            "recipe": recipe.model_dump(mode="json"),
        },
    )


def open_recommender(folder: Path | str) -> Saved:
    """Open what `save_recommender` wrote. Raises UserError naming the file and what is wrong."""
    folder = Path(folder)
    path = folder / RECIPE
    if not path.exists():
        raise UserError(
            f"'{folder}' holds no {RECIPE}; make one: glassbox recommend train --out {folder}"
        )
    raw = read_json(path)
    if raw.get("layout") != LAYOUT:
        raise UserError(f"'{path}': layout = {raw.get('layout')!r}, this version reads {LAYOUT}")
    recipe = parse(Recipe, raw.get("recipe"), where=f"'{path}'")
    checksum, num_lists = raw.get("checksum"), raw.get("lists")
    if not isinstance(checksum, str) or not isinstance(num_lists, int) or num_lists < 0:
        raise UserError(f"'{path}' lacks 'checksum' or 'lists'; the file is damaged: train again")
    items, counts = _read_items(folder / ITEMS)
    with TensorFiles(folder) as files:
        tensors = {name: files.get(name) for name in files.names}
    seen = Seen(items, counts, num_lists)
    return Saved(folder, recipe, recipe.model.restore(tensors, seen), seen, checksum)


def _read_items(path: Path) -> tuple[list[Item], Int[ndarray, " N"]]:
    raw = read_json(path)
    columns = [raw.get(name) for name in ("key", "title", "artist", "group")]
    counts = raw.get("count")
    whole = all(
        isinstance(column, list) and all(isinstance(word, str) for word in column)
        for column in columns
    ) and (isinstance(counts, list) and all(type(n) is int and n >= 0 for n in counts))
    if not whole or len({len(column) for column in (*columns, counts) if column is not None}) != 1:
        raise UserError(
            f"'{path}' needs key, title, artist, group and count, as many of each; train again"
        )
    items = [Item(*words) for words in zip(*columns, strict=True)]
    return items, np.array(counts, dtype=np.int64)
