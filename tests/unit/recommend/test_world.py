"""The generated world: the same for a seed, and as likely as it says."""

from __future__ import annotations

import numpy as np
import pytest

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.recommend.playlists import leave_last_out
from glassbox.recommend.recommending import rank_exactly
from glassbox.recommend.world import World

SMALL = {"num_artists": 8, "songs_per_artist": 1, "zipf": 0.5, "theme_weight": 0.6}
SHORT = {**SMALL, "shortest": 2, "longest": 5}


def test_a_seed_makes_one_world() -> None:
    first, again = (World(**SHORT, num_playlists=20).playlists() for _ in range(2))
    other = World(**SHORT, num_playlists=20, seed=1).playlists()
    assert first.items == again.items
    assert first.flat.tolist() == again.flat.tolist()
    assert first.flat.tolist() != other.flat.tolist()


def test_more_lists_go_on_where_fewer_end() -> None:
    few, many = (World(**SHORT, num_playlists=count).playlists() for count in (5, 9))
    assert many.flat[: len(few.flat)].tolist() == few.flat.tolist()


def test_songs_have_names_of_their_own_and_lists_no_song_twice() -> None:
    made = World().build()
    assert len({str(item) for item in made.items}) == len(made.items)
    assert all(len(set(one.tolist())) == len(one) for one in World(num_playlists=50).playlists())


@pytest.mark.parametrize("length", [2, 3])
def test_lists_go_on_as_the_exact_probabilities_say(length: int) -> None:
    """Counts of the last song of 6,000 lists, given what is before it: within 5 deviations."""
    world = World(**SMALL, num_playlists=6000, shortest=length, longest=length)
    made = world.build()
    expected = np.zeros(8)
    variance = np.zeros(8)
    counts = np.zeros(8)
    by_first: dict[int, list[np.ndarray]] = {}
    for one in made.playlists():
        chances = made.next_probabilities(one[:-1])
        assert abs(chances.sum() - 1) < 1e-12
        assert (chances[one[:-1]] == 0).all()
        expected += chances
        variance += chances * (1 - chances)
        counts[one[-1]] += 1
        by_first.setdefault(int(one[0]), []).append(np.eye(8)[one[-1]] - chances)
    assert (np.abs(counts - expected) < 5 * np.sqrt(variance)).all()
    for differences in by_first.values():  # and for each beginning
        apart = np.stack(differences)
        assert (np.abs(apart.sum(axis=0)) < 5 * np.sqrt(len(apart)) * 0.5).all()


def test_the_exact_probabilities_beat_any_blind_order() -> None:
    world = World(num_artists=48, songs_per_artist=4, num_playlists=150)
    split = leave_last_out(world.playlists())
    best = rank_exactly(world, split).values["ndcg@10"].mean()
    assert best > 3 * 10 / split.train.num_items


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="longest = 3 is below shortest = 6"):
        parse(World, {"longest": 3})
    with pytest.raises(UserError, match="there are only 8 songs; make lists shorter"):
        parse(World, {**SMALL})
