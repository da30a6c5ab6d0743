"""Protocol of recommenders: scores of all items given a list, and similarities of items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from glassbox.recommend.playlists import List, Playlists, Seen


class Recommender(Protocol):
    """A trained model over N items."""

    def scores(
        self, lists: Sequence[List], rows: Int[ndarray, " B"] | None = None
    ) -> Float[ndarray, "B N"]:
        """Score each item as the continuation of each list; larger is better, -inf excludes an
        item.

        rows: indices of these lists in the training data, for models with per-list parameters;
        None: lists that were not trained on.
        """

    def item_vectors(self) -> Float[ndarray, "N D"] | None:
        """A row an item, alike where items are alike, for the map; None where a model has no such thing."""

    def similarities(
        self, items: Int[ndarray, " A"], others: Int[ndarray, " B"]
    ) -> Float[ndarray, "A B"] | None:
        """How alike each item is to each of the others, 1 at most; None where a model cannot tell."""

    def tensors(self) -> Mapping[str, Tensor]:
        """All learned parameters, for a safetensors file."""


class RecommenderSpec(Protocol):
    """Settings of a kind of recommender; `build` trains one, `restore` makes one of what was saved."""

    def build(self, train: Playlists, *, seed: int, folder: Path | None = None) -> Recommender:
        """Train. folder: where a model that saves its progress does so; None: nowhere."""

    def restore(self, tensors: Mapping[str, Tensor], seen: Seen) -> Recommender:
        """Put a saved model together. Raises UserError where tensors are missing or do not fit."""


def cosines(
    rows: Float[ndarray, "N D"], items: Int[ndarray, " A"], others: Int[ndarray, " B"]
) -> Float[ndarray, "A B"]:
    """The cosine of each of the rows `items` with each of the rows `others`."""
    return normalized(rows[items]) @ normalized(rows[others]).T


def normalized(rows: Float[ndarray, "N D"]) -> Float[ndarray, "N D"]:
    """Rows of length 1; rows of zeros stay.

    >>> normalized(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
