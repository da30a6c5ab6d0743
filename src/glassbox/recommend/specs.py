"""All recommenders and sources of lists by their `kind`: a new one is its own file and a line here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from glassbox.core.config import Spec
from glassbox.recommend.baselines import Bpr, CoOccurrence, Popularity
from glassbox.recommend.continuation import Continuation
from glassbox.recommend.item_vectors import Cbow, SkipGram
from glassbox.recommend.playlists import Playlists, read_playlists
from glassbox.recommend.world import World


class PlaylistFiles(Spec):
    """Lists in files, see `read_playlists`."""

    kind: Literal["files"] = "files"
    path: str
    min_rating: float = Field(0.0, description="MovieLens: minimum rating")

    def playlists(self) -> Playlists:
        """Read them."""
        return read_playlists(Path(self.path), min_rating=self.min_rating)


ListSource = Annotated[World | PlaylistFiles, Field(discriminator="kind")]
RecommenderConfig = Annotated[
    SkipGram | Cbow | Continuation | Popularity | CoOccurrence | Bpr, Field(discriminator="kind")
]


class Recipe(Spec):
    """All that decides a saved recommender.

    held_out: the last item of each list is kept for `glassbox recommend eval`; false: it is learnt.
    """

    data: ListSource = World()
    model: RecommenderConfig = SkipGram()
    held_out: bool = True
    seed: int = 0
