"""A seeded world of songs and playlists whose exact next-song probabilities are known.

A song has an artist and a mood; an artist has a genre and an era. A playlist has a theme, a genre and
a mood, and an era that its first song sets. Each next song is drawn

    p(song | before) ~ popularity(song) * [ a 1(artist of the last song)
                                          + t fit(song, theme, era of the last song)
                                          + n ],   songs of the list excluded,

each of the three parts scaled to sum to its weight over all songs. fit is 1 for the theme's genre and
mood, `halfway` for one of the two, times `drift` to the power of the distance in eras.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from pydantic import Field, model_validator

from glassbox.core.config import Spec
from glassbox.core.seeding import derive_seed
from glassbox.recommend.playlists import Item, List, Playlists

GENRES = ("folk", "jazz", "metal", "house", "soul", "punk", "country", "reggae")
ERAS = ("60s", "70s", "80s", "90s", "00s", "10s")
MOODS = ("calm", "happy", "sad", "wild")
_FIRST = ("Velvet", "Paper", "Silver", "Hollow", "Midnight", "Northern", "Electric", "Quiet", "Golden",
          "Broken", "Distant", "Summer", "Iron", "Wooden", "Crystal", "Lonely")  # fmt: skip
_SECOND = ("Foxes", "Harbour", "Engines", "Lanterns", "Rivers", "Sisters", "Ghosts", "Gardens", "Wolves",
           "Mirrors", "Pilots", "Shadows", "Kings", "Strangers", "Clouds", "Sailors")  # fmt: skip
_ABOUT = {
    "calm": ("Slow", "Still", "Soft", "Drifting"),
    "happy": ("Bright", "Dancing", "Laughing", "Sunny"),
    "sad": ("Goodbye", "Crying", "Empty", "Fading"),
    "wild": ("Burning", "Running", "Screaming", "Breaking"),
}
_THING = ("Light", "Road", "Water", "Night", "Heart", "Fire", "Window", "Train", "Rain", "City", "Sky",
          "Letter", "Morning", "Ocean", "Radio", "Dream")  # fmt: skip


class World(Spec):
    """How many songs and lists there are, and what a list goes on with."""

    kind: Literal["generated"] = "generated"
    num_artists: int = Field(240, ge=len(GENRES), description="shared out over genres and eras")
    songs_per_artist: int = Field(8, ge=1)
    num_playlists: int = Field(4000, ge=1)
    shortest: int = Field(6, ge=2, description="songs per playlist")
    longest: int = Field(18, ge=2)
    artist_weight: float = Field(0.15, ge=0, description="a: another song of the last artist")
    theme_weight: float = Field(0.75, ge=0, description="t: a song that fits theme and era")
    noise_weight: float = Field(0.10, gt=0, description="n: any song")
    halfway: float = Field(0.1, ge=0, le=1, description="fit of a song of the genre or the mood")
    drift: float = Field(0.3, ge=0, le=1, description="fit a step in eras")
    zipf: float = Field(0.6, ge=0, description="popularity of the song of rank r ~ r ** -zipf")
    seed: int = 0

    @model_validator(mode="after")
    def _lengths_fit(self) -> World:
        if self.longest < self.shortest:
            raise ValueError(f"longest = {self.longest} is below shortest = {self.shortest}")
        if self.longest >= self.num_artists * self.songs_per_artist:
            raise ValueError(
                f"longest = {self.longest}, but there are only "
                f"{self.num_artists * self.songs_per_artist} songs; make lists shorter"
            )
        return self

    def build(self) -> MadeWorld:
        """The songs and the rule of the lists."""
        return MadeWorld(self)

    def playlists(self) -> Playlists:
        """The world's lists."""
        return self.build().playlists()


@dataclass(frozen=True)
class _Songs:
    artist: Int[ndarray, " N"]
    genre: Int[ndarray, " N"]
    era: Int[ndarray, " N"]
    mood: Int[ndarray, " N"]


class MadeWorld:
    """Songs of one world: it draws lists, and it knows what any list goes on with."""

    def __init__(self, config: World) -> None:
        self.config = config
        rng = np.random.Generator(np.random.Philox(derive_seed(config.seed, "songs")))
        artists = np.arange(config.num_artists)
        genre = artists % len(GENRES)
        era = (artists // len(GENRES)) % len(ERAS)
        artist = np.repeat(artists, config.songs_per_artist)
        mood = rng.integers(0, len(MOODS), len(artist))
        self.songs = _Songs(artist, genre[artist], era[artist], mood)
        rank = rng.permutation(len(artist)) + 1
        popularity = rank ** -float(config.zipf)
        self.popularity: Float[ndarray, " N"] = popularity / popularity.sum()
        self.items = self._names(rng)
        self._parts = self._tables()

    def _names(self, rng: np.random.Generator) -> list[Item]:
        pairs = rng.permutation(len(_FIRST) * len(_SECOND))
        bands = [
            f"{_FIRST[pairs[n % len(pairs)] // len(_SECOND)]} {_SECOND[pairs[n % len(pairs)] % len(_SECOND)]}"
            + (f" {n // len(pairs) + 1}" if n >= len(pairs) else "")
            for n in range(self.config.num_artists)
        ]
        items, used = [], set()
        songs = self.songs
        for number, band in enumerate(songs.artist):
            words = _ABOUT[MOODS[songs.mood[number]]]
            title = f"{words[rng.integers(len(words))]} {_THING[rng.integers(len(_THING))]}"
            part = 1
            while (title if part == 1 else f"{title}, Pt. {part}", band) in used:
                part += 1
            title = title if part == 1 else f"{title}, Pt. {part}"
            used.add((title, band))
            genre = GENRES[songs.genre[number]]
            items.append(Item(str(number), title, bands[band], genre))
        return items

    @property
    def num_themes(self) -> int:
        """Genres times moods; theme = genre * moods + mood."""
        return len(GENRES) * len(MOODS)

    def _tables(self) -> Float[ndarray, "Q E N"]:
        """t * fit * popularity, scaled, for each theme and era of the last song; n * popularity added."""
        songs, config = self.songs, self.config
        genres = np.arange(len(GENRES))[:, None] == songs.genre
        moods = np.arange(len(MOODS))[:, None] == songs.mood
        both = genres[:, None] & moods[None]
        either = genres[:, None] | moods[None]
        theme = np.where(both, 1.0, np.where(either, config.halfway, 0.0)).reshape(
            self.num_themes, 1, -1
        )
        distance = np.abs(np.arange(len(ERAS))[:, None] - songs.era).astype(float)
        fit = theme * config.drift**distance * self.popularity  # (Q, E, N)
        total = fit.sum(axis=-1, keepdims=True)
        fit = np.divide(fit, total, out=np.zeros_like(fit), where=total > 0)
        return config.theme_weight * fit + config.noise_weight * self.popularity

    def _step(self, last: int) -> Float[ndarray, "Q N"]:
        """Weights of every next song under every theme, songs of the list not yet excluded."""
        weights = self._parts[:, self.songs.era[last]].copy()
        same = (self.songs.artist == self.songs.artist[last]) * self.popularity
        weights += self.config.artist_weight * same / same.sum()
        return weights

    def _first(self) -> Float[ndarray, "Q N"]:
        """Weights of a list's first song: any era is as likely."""
        return self._parts.mean(axis=1)

    def playlists(self) -> Playlists:
        """The world's lists."""
        config, lists = self.config, []
        for number in range(config.num_playlists):
            seed = derive_seed(config.seed, "playlist", number)
            rng = np.random.Generator(np.random.Philox(seed))
            theme = int(rng.integers(self.num_themes))
            length = int(rng.integers(config.shortest, config.longest + 1))
            one: list[int] = []
            while len(one) < length:
                weights = self._step(one[-1])[theme] if one else self._first()[theme].copy()
                weights[one] = 0.0
                cumulative = np.cumsum(weights)
                draw = min(rng.random() * cumulative[-1], np.nextafter(cumulative[-1], 0))
                one.append(int(np.searchsorted(cumulative, draw, side="right")))
            lists.append(np.array(one, dtype=np.int64))
        empty = np.zeros(0, dtype=np.int64)
        shell = Playlists(
            self.items, empty, np.zeros(1, np.int64), f"generated, seed {config.seed}"
        )
        return shell.with_lists(lists)

    def next_probabilities(self, prefix: List) -> Float[ndarray, " N"]:
        """p(next song | prefix), exact: no model that sees the lists alone can rank better on average.

        sum over themes of p(theme | prefix) p(song | theme, prefix), by Bayes' rule from all songs of
        the prefix. Tested against: counts in lists that are drawn.
        """
        log_theme = np.zeros(self.num_themes)
        done: list[int] = []
        for song in prefix.tolist():
            weights = self._step(done[-1]) if done else self._first()
            weights[:, done] = 0.0
            log_theme += np.log(weights[:, song] / weights.sum(axis=1))
            done.append(song)
        theme = np.exp(log_theme - log_theme.max())
        theme /= theme.sum()
        weights = self._step(done[-1]) if done else self._first()
        weights[:, done] = 0.0
        return theme @ (weights / weights.sum(axis=1, keepdims=True))
