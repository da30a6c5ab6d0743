"""lessons/models/music.py, run as a user runs it, and held to the package."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from glassbox.recommend.item_vectors import SkipGram
from glassbox.recommend.playlists import Item, Playlists, write_classic
from glassbox.recommend.recommender import normalized
from glassbox.recommend.world import World

SCRIPT = Path(__file__).parents[3] / "lessons" / "models" / "music.py"


def run(*options: object, code: int = 0) -> str:
    """What the script prints, with torch alone at hand; for another exit status, what it says last."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    words = [sys.executable, str(SCRIPT), *map(str, options)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done.stderr.strip().splitlines()[-1] if code else done.stdout


@pytest.fixture(scope="module")
def music() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lesson_music", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_learns_what_goes_together_and_says_why() -> None:
    out = run("--playlist", "calm jazz 1; calm jazz 5")
    losses = [float(x) for x in re.findall(r"loss (\d+\.\d+)", out)]
    assert losses[-1] < 0.6 * losses[0]
    ours, popular, chance = map(float, re.search(
        r"skip-gram (\S+), popularity (\S+), chance (\S+)", out).groups())  # fmt: skip
    assert ours > 0.45  # a list's last song is of its theme but for a fifth of the lists, 10 of 20
    assert popular < 3 * chance
    songs = re.findall(r"^  (\w+) (\w+) \d+ - .* most like (.*)$", out, re.MULTILINE)
    assert len(songs) == 5
    assert all(song[:2] == ("calm", "jazz") for song in songs)
    assert all(song[2].startswith("calm jazz") for song in songs)


def test_the_classic_files_and_what_is_wrong_in_them(tmp_path: Path) -> None:
    write_classic(World(num_artists=24, songs_per_artist=3, num_playlists=60).playlists(), tmp_path)
    assert "60 playlists, 72 songs" in run("--path", tmp_path, "--epochs", 1)
    with (tmp_path / "train.txt").open("a", encoding="utf-8") as stream:
        stream.write("1 99\n")
    said = run("--path", tmp_path, code=1)
    assert (
        said == f"{tmp_path / 'train.txt'} line 63: song 99 is not in song_hash.txt; add it there"
    )
    assert "song_hash.txt is missing" in run("--path", tmp_path / "none", code=1)
    assert "no song is called 'x'" in run("--playlist", "x", "--epochs", 1, "--count", 20, code=1)


def test_pairs_are_those_within_reach(music: ModuleType) -> None:
    lists = [[0, 1, 2, 3], [4, 5], [6]]
    counts: dict[tuple[int, int], int] = {}
    for seed in range(200):
        pairs = music.pairs_of(lists, 3, torch.Generator().manual_seed(seed))
        for pair in zip(*(part.tolist() for part in pairs), strict=True):
            counts[pair] = counts.get(pair, 0) + 1
    inside = {(a, b) for one in lists for a in one for b in one if a != b}
    assert set(counts) == inside
    for (a, b), count in counts.items():  # a reach of 1, 2 or 3, each as likely
        chance = (4 - abs(a - b)) / 3
        assert abs(count - 200 * chance) <= 5 * (200 * chance * (1 - chance)) ** 0.5


def test_its_neighbours_are_the_packages(music: ModuleType) -> None:
    """On its own lists, where any two runs agree: songs of one genre and mood are nearest."""
    names, lists = music.make_playlists(400, 0)
    settings = {"dimension": 16, "window": 5, "negatives": 5, "epochs": 20, "lr": 0.1}
    v, _ = music.train(lists, len(names), argparse.Namespace(**settings, seed=0))
    shell = Playlists([Item(str(n), name) for n, name in enumerate(names)], np.zeros(0, np.int64),
                      np.zeros(1, np.int64), "lesson")  # fmt: skip
    whole = shell.with_lists([np.array(one) for one in lists])
    ours = SkipGram(**settings).build(whole, seed=0).vectors.numpy()
    group = np.array([n % 24 for n in range(480)])  # genre and mood
    shares = []
    for rows in (v.numpy(), ours):
        cosine = normalized(rows) @ normalized(rows).T
        np.fill_diagonal(cosine, -np.inf)
        nearest = np.argsort(-cosine, axis=1)[:, :10]
        shares.append(float((group[nearest] == group[:, None]).mean()))
    assert min(shares) > 0.8, shares  # by chance 0.04
    assert abs(shares[0] - shares[1]) < 0.05, shares
