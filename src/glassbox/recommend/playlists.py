"""Chronological lists of items: read from files, and split for evaluation."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from glassbox.core.errors import UserError
from glassbox.core.files import write_text

PLAYLISTS, SONGS = "train.txt", "song_hash.txt"
HEADER_LINES = 2
RECBOLE = "pip install --no-deps recbole==1.2.1"

List = Int[ndarray, " L"]


@dataclass(frozen=True)
class Item:
    """A song or a film.

    key: its id in the file it was read from. artist: whom unseen items are related by (MovieLens:
    the film's genres). group: what the map colours by; may be empty.
    """

    key: str
    title: str
    artist: str = ""
    group: str = ""

    def __str__(self) -> str:
        return f"{self.title} - {self.artist}" if self.artist else self.title


@dataclass(frozen=True)
class Seen:
    """What a trained model must know of its lists: N items, how often each occurred, how many lists."""

    items: Sequence[Item]
    counts: Int[ndarray, " N"]
    num_lists: int

    @property
    def num_items(self) -> int:
        """N, items that never occurred included."""
        return len(self.items)


@dataclass(frozen=True)
class Playlists:
    """N items and P lists of item numbers 0 ... N - 1, the lists one after another in `flat`.

    offsets: list p is flat[offsets[p]:offsets[p + 1]]. left_out: reason -> how many lists were not
    taken.
    """

    items: Sequence[Item]
    flat: Int[ndarray, " N"]
    offsets: Int[ndarray, " P1"]
    source: str
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, number: int) -> List:
        return self.flat[self.offsets[number] : self.offsets[number + 1]]

    def __iter__(self) -> Iterator[List]:
        return (self[number] for number in range(len(self)))

    @property
    def num_items(self) -> int:
        """How many items there are, those in no list included."""
        return len(self.items)

    @cached_property
    def counts(self) -> Int[ndarray, " N"]:
        """How often each item occurs."""
        return np.bincount(self.flat, minlength=self.num_items)

    @property
    def seen(self) -> Seen:
        """What a model that is trained on these lists must know of them later."""
        return Seen(self.items, self.counts, len(self))

    @cached_property
    def rows(self) -> Int[ndarray, " N"]:
        """The list that each entry of `flat` stands in."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def with_lists(self, lists: Sequence[List], left_out: Mapping[str, int] = {}) -> Playlists:
        """Other lists of the same items."""
        flat, offsets = _flatten(lists)
        return Playlists(self.items, flat, offsets, self.source, {**self.left_out, **left_out})


def _flatten(lists: Sequence[List]) -> tuple[Int[ndarray, " N"], Int[ndarray, " P1"]]:
    offsets = np.zeros(len(lists) + 1, dtype=np.int64)
    np.cumsum([len(one) for one in lists], out=offsets[1:])
    flat = np.concatenate(lists).astype(np.int64) if lists else np.zeros(0, dtype=np.int64)
    return flat, offsets


@dataclass(frozen=True)
class Split:
    """Leave-last-out: what models learn from, and what each list went on with.

    train: every list without its last item. asked: the numbers of the lists whose last item is
    asked for; targets: those items. An item that stands in the list already is never recommended,
    so a list whose last item is a repetition is not asked about; left_out counts these.
    """

    train: Playlists
    asked: Int[ndarray, " A"]
    targets: Int[ndarray, " A"]
    left_out: Mapping[str, int]


def leave_last_out(playlists: Playlists) -> Split:
    """Take the last item of every list away, to be asked for; raises UserError where none is left."""
    prefixes, asked, targets, repeated = [], [], [], 0
    for number, one in enumerate(playlists):
        prefixes.append(one[:-1])
        if one[-1] in one[:-1]:
            repeated += 1
            continue
        asked.append(number)
        targets.append(int(one[-1]))
    if not asked:
        raise UserError(
            f"'{playlists.source}' has no list of two different items or more, so nothing can be "
            "asked for; give longer lists"
        )
    left_out = {"the last item stands in the list already": repeated} if repeated else {}
    return Split(
        playlists.with_lists(prefixes),
        np.array(asked, dtype=np.int64),
        np.array(targets, dtype=np.int64),
        left_out,
    )


def without_items(split: Split, forgotten: Int[ndarray, " F"]) -> Split:
    """The same split as if `forgotten` had come out after training: what a cold start is measured on.

    They are taken from every training list, and only lists that went on with one of them are asked.
    """
    gone = np.zeros(split.train.num_items, dtype=bool)
    gone[forgotten] = True
    lists = [one[~gone[one]] for one in split.train]
    kept = gone[split.targets] & np.array([len(lists[number]) > 0 for number in split.asked])
    return Split(
        split.train.with_lists(lists), split.asked[kept], split.targets[kept], split.left_out
    )


def read_playlists(path: Path | str, *, min_rating: float = 0.0) -> Playlists:
    """Lists from a folder in the classic form or from MovieLens' atomic files.

    The classic form: `train.txt`, two header lines, then a list a line, song ids between spaces;
    `song_hash.txt`, id, title and artist between tabs. MovieLens: `NAME.inter` and `NAME.item`; each
    user's films of `min_rating` or better in the order of their time stamps are a list, films of
    the same second in the order of the file. `path` is the folder or one of its files. Lists of
    fewer than two items are left out and counted.
    Raises UserError naming file and line. Source: the classic form: Chen et al., Playlist
    prediction via metric embedding, KDD 2012.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise UserError(
            f"'{path}' is not there; give a folder with {PLAYLISTS} and {SONGS}, or MovieLens-100k: "
            f"{RECBOLE}, then recbole/dataset_example/ml-100k in the site-packages folder"
        )
    if path.is_file() and path.suffix in (".inter", ".item"):
        return _read_atomic(path.with_suffix(".inter"), min_rating)
    found = sorted(folder.glob("*.inter"))
    if (folder / PLAYLISTS).exists():
        return _read_classic(folder)
    if len(found) == 1:
        return _read_atomic(found[0], min_rating)
    several = f"{len(found)} files *.inter; name one" if found else f"no {PLAYLISTS} and no *.inter"
    raise UserError(
        f"'{folder}' has {several}; expected {PLAYLISTS} and {SONGS}, or MovieLens-100k: {RECBOLE}, "
        "then recbole/dataset_example/ml-100k in the site-packages folder"
    )


def write_classic(playlists: Playlists, folder: Path) -> None:
    """Write lists in the classic form; the headers are the ids and how often each occurs."""
    words = [
        " ".join(item.key for item in playlists.items),
        " ".join(map(str, playlists.counts)),
        *(" ".join(playlists.items[i].key for i in one) for one in playlists),
    ]
    write_text(folder / PLAYLISTS, "\n".join(words) + "\n")
    songs = (f"{item.key}\t{item.title}\t{item.artist}\n" for item in playlists.items)
    write_text(folder / SONGS, "".join(songs))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of a text file; UserError where it cannot be read."""
    try:
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise UserError(
                        f"'{path}' line {number} is no UTF-8; convert the file to UTF-8"
                    ) from None
                yield number, line.rstrip("\r\n")
    except FileNotFoundError:
        raise UserError(f"'{path}' is missing; put it beside the other file") from None


def _read_classic(folder: Path) -> Playlists:
    songs, lists = folder / SONGS, folder / PLAYLISTS
    items: list[Item] = []
    number_of: dict[str, int] = {}
    for number, line in _lines(songs):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != 3:
            raise UserError(
                f"'{songs}' line {number} has {len(parts)} fields; give id, title and artist "
                "between tabs"
            )
        if not parts[0] or " " in parts[0]:
            raise UserError(f"'{songs}' line {number}: id '{parts[0]}'; give one word")
        if parts[0] in number_of:
            raise UserError(f"'{songs}' line {number} gives song {parts[0]} again; remove the line")
        number_of[parts[0]] = len(items)
        items.append(Item(*parts))
    flat, offsets, short, last = array("q"), array("q", [0]), 0, 0
    for number, line in _lines(lists):
        last = number
        if number <= HEADER_LINES:
            continue
        words = line.split()
        try:
            ids = [number_of[word] for word in words]
        except KeyError as error:
            raise UserError(
                f"'{lists}' line {number}: song {error.args[0]!r} is not in {SONGS}; add its line "
                "there or take it out of the list"
            ) from None
        if len(ids) < 2:
            short += bool(ids)
            continue
        flat.extend(ids)
        offsets.append(len(flat))
    if last < HEADER_LINES:
        raise UserError(f"'{lists}' has {last} lines; two header lines come before the lists")
    return _checked(items, flat, offsets, str(folder), short)


def _checked(
    items: Sequence[Item], flat: array[int], offsets: array[int], source: str, short: int
) -> Playlists:
    if len(offsets) < 2:
        raise UserError(f"'{source}' has no list of two items or more; give longer lists")
    left_out = {"fewer than two items": short} if short else {}
    return Playlists(items, np.array(flat, np.int64), np.array(offsets, np.int64), source, left_out)


def _columns(path: Path, wanted: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(line, values of the wanted columns) of a file whose first line is name:type between tabs."""
    places: list[int] = []
    width = 0
    for number, line in _lines(path):
        parts = line.split("\t")
        if number == 1:
            names = [part.partition(":")[0] for part in parts]
            for name in wanted:
                if name not in names:
                    raise UserError(
                        f"'{path}' line 1 has no column '{name}', only {', '.join(names)[:80]}; "
                        f"take the file as {RECBOLE} ships it"
                    )
            places, width = [names.index(name) for name in wanted], len(names)
        elif line.strip():
            if len(parts) != width:
                raise UserError(
                    f"'{path}' line {number} has {len(parts)} fields, line 1 has {width}; mend the line"
                )
            yield number, [parts[place] for place in places]


def _read_atomic(path: Path, min_rating: float) -> Playlists:
    film_file = path.with_suffix(".item")
    items: list[Item] = []
    number_of: dict[str, int] = {}
    films = ("item_id", "movie_title", "release_year", "class")
    for number, (key, title, year, genres) in _columns(film_file, films):
        if key in number_of:
            raise UserError(f"'{film_file}' line {number} gives film {key} again; remove the line")
        number_of[key] = len(items)
        name = f"{title} ({year})" if year else title
        items.append(Item(key, name, genres, genres.split(" ")[0]))
    by_user: dict[str, list[tuple[float, int, int]]] = {}
    columns = ("user_id", "item_id", "rating", "timestamp")
    for number, (user, key, rating, when) in _columns(path, columns):
        if key not in number_of:
            raise UserError(
                f"'{path}' line {number}: film {key!r} is not in {film_file.name}; add its line there"
            )
        try:
            seen, score = float(when), float(rating)
        except ValueError:
            raise UserError(
                f"'{path}' line {number}: rating {rating!r}, timestamp {when!r}; give two numbers"
            ) from None
        films_of_user = by_user.setdefault(user, [])
        if score >= min_rating:
            films_of_user.append((seen, number, number_of[key]))
    flat, offsets, short = array("q"), array("q", [0]), 0
    for films_of_user in by_user.values():
        if len(films_of_user) < 2:
            short += 1
            continue
        flat.extend(film for _, _, film in sorted(films_of_user))
        offsets.append(len(flat))
    return _checked(items, flat, offsets, str(path), short)
