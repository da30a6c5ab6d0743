"""What item vectors must beat: popularity, co-occurrence, and matrix factorization by BPR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from glassbox.core.config import Spec
from glassbox.core.progress import ProgressLine
from glassbox.core.seeding import derive_seed
from glassbox.optim.adamw import AdamWConfig
from glassbox.recommend.item_vectors import check_tensor
from glassbox.recommend.playlists import List, Playlists, Seen
from glassbox.recommend.recommender import cosines


class Popularity(Spec):
    """Popularity baseline: score(i) = number of occurrences of i in the training lists."""

    kind: Literal["popularity"] = "popularity"

    def build(self, train: Playlists, *, seed: int, folder: Path | None = None) -> PopularItems:
        """Count."""
        return PopularItems(torch.from_numpy(train.counts.astype(np.float32)))

    def restore(self, tensors: Mapping[str, Tensor], seen: Seen) -> PopularItems:
        """Of `counts`."""
        check_tensor(tensors, "counts", (seen.num_items,))
        return PopularItems(tensors["counts"])


class PopularItems:
    """A `Recommender` that recommends the same to all."""

    def __init__(self, counts: Tensor) -> None:
        self.counts = counts

    def scores(
        self, lists: Sequence[List], rows: Int[ndarray, " B"] | None = None
    ) -> Float[ndarray, "B N"]:
        """The counts, for each list."""
        return np.tile(self.counts.numpy(), (len(lists), 1))

    def item_vectors(self) -> None:
        """None: popularity has no item vectors."""
        return

    def similarities(self, items: Int[ndarray, " A"], others: Int[ndarray, " B"]) -> None:
        """None: popularity has no similarities."""
        return

    def tensors(self) -> dict[str, Tensor]:
        """counts (N)."""
        return {"counts": self.counts}


class CoOccurrence(Spec):
    """score(j | list) = sum over items i of the list of c_ij / (c_i c_j) ** `power`.

    c_ij: in how many training lists both are; c_i: in how many i is. power = 0: plain counts; 0.5:
    the cosine of the items' columns, item-based collaborative filtering. Equal scores are ordered by
    popularity. The defaults are the best of a grid on generated lists of another seed.
    Source: Sarwar et al., Item-based collaborative filtering recommendation algorithms, WWW 2001.
    """

    kind: Literal["cooccurrence"] = "cooccurrence"
    power: float = Field(0.25, ge=0, le=1)
    recent: int = Field(6, gt=0, description="number of last items used")

    def build(self, train: Playlists, *, seed: int, folder: Path | None = None) -> TogetherItems:
        """Count."""
        present = np.zeros((len(train), train.num_items), dtype=np.float32)
        present[train.rows, train.flat] = 1.0
        return TogetherItems(self, torch.from_numpy(present.T @ present))

    def restore(self, tensors: Mapping[str, Tensor], seen: Seen) -> TogetherItems:
        """Of `together`."""
        check_tensor(tensors, "together", (seen.num_items, seen.num_items))
        return TogetherItems(self, tensors["together"])


class TogetherItems:
    """A `Recommender` by counts of pairs."""

    def __init__(self, config: CoOccurrence, together: Tensor) -> None:
        self.config, self.together = config, together
        counts = together.numpy().astype(np.float64)
        own = counts.diagonal().copy()
        scale = np.maximum(own, 1.0) ** -config.power
        self._table = counts * scale[:, None] * scale
        np.fill_diagonal(self._table, 0.0)
        self._tie = own / max(1.0, own.max(initial=1.0)) * 1e-9

    def scores(
        self, lists: Sequence[List], rows: Int[ndarray, " B"] | None = None
    ) -> Float[ndarray, "B N"]:
        """Sums of rows of the table."""
        found = [self._table[one[-self.config.recent :]].sum(axis=0) for one in lists]
        return np.stack(found) + self._tie

    def item_vectors(self) -> Float[ndarray, "N N"]:
        """Rows of c_ij / (c_i c_j) ** power, each item at 1 with itself."""
        rows = self._table.copy()
        np.fill_diagonal(rows, self._tie > 0)
        return rows

    def similarities(
        self, items: Int[ndarray, " A"], others: Int[ndarray, " B"]
    ) -> Float[ndarray, "A B"]:
        """c_ij / sqrt(c_i c_j), the cosine of the items' columns, whatever `power` is."""
        return self._cosine(items, others)

    def _cosine(self, items: ndarray, others: ndarray) -> Float[ndarray, "A B"]:
        counts = self.together.numpy()
        own = np.maximum(counts.diagonal(), 1.0)
        return counts[np.ix_(items, others)] / np.sqrt(own[items, None] * own[others])

    def tensors(self) -> dict[str, Tensor]:
        """together (N, N)."""
        return {"together": self.together}


class Bpr(Spec):
    """Matrix factorization by Bayesian personalized ranking.

    score(p, i) = w_p . h_i + b_i, w one vector a list. For i in list p and j drawn outside of it:
    loss = -log sigmoid(score(p, i) - score(p, j)) + l2 (|w_p|^2 + |h_i|^2 + |h_j|^2 + b_i^2 + b_j^2).
    A list that was not trained on gets a w by the same loss with all h and b fixed.
    Source: Rendle et al., arXiv:1205.2618. Optimized by this package's AdamW without decay.
    """

    kind: Literal["bpr"] = "bpr"
    dimension: int = Field(64, gt=0)
    epochs: int = Field(60, gt=0)
    batch: int = Field(1024, gt=0)
    lr: float = Field(0.005, gt=0)
    l2: float = Field(0.05, ge=0)
    new_list_steps: int = Field(100, gt=0, description="steps that find the w of a new list")

    def build(self, train: Playlists, *, seed: int, folder: Path | None = None) -> Factors:
        """Train."""
        factors = Factors(self, len(train), train.num_items)
        generator = torch.Generator().manual_seed(derive_seed(seed, "bpr"))
        for parameter in (factors.lists, factors.items):
            parameter.data.normal_(0.0, 0.1, generator=generator)
        optimizer = AdamWConfig(beta2=0.999, weight_decay=0.0).build(factors)
        rows, items = torch.from_numpy(train.rows), torch.from_numpy(train.flat)
        taken = torch.zeros(len(train), train.num_items, dtype=torch.bool)
        taken[rows, items] = True
        with ProgressLine("bpr", self.epochs) as line:
            for epoch in range(self.epochs):
                total = 0.0
                for part in torch.randperm(len(items), generator=generator).split(self.batch):
                    other = _outside(taken, rows[part], generator)
                    loss = factors.loss(factors.lists[rows[part]], items[part], other)
                    optimizer.zero_grad()
                    (loss / len(part)).backward()
                    optimizer.step(self.lr)
                    total += float(loss.detach())
                line.update(epoch + 1, f"loss {total / len(items):.3f}")
        return factors.frozen(train.seen)

    def restore(self, tensors: Mapping[str, Tensor], seen: Seen) -> Factors:
        """Of `lists`, `items` and `bias`."""
        shapes = {
            "lists": (seen.num_lists, self.dimension),
            "items": (seen.num_items, self.dimension),
            "bias": (seen.num_items,),
        }
        for name, shape in shapes.items():  # before anything of that size is allocated
            check_tensor(tensors, name, shape)
        factors = Factors(self, seen.num_lists, seen.num_items)
        for name, parameter in factors.named_parameters():
            parameter.data.copy_(tensors[name])
        return factors.frozen(seen)


def _outside(taken: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """For each row an item that its list does not hold, each as likely; a list of all items gets any."""
    other = torch.randint(taken.shape[1], rows.shape, generator=generator)
    for _ in range(100):
        wrong = taken[rows, other]
        if not wrong.any():
            break
        again = torch.randint(taken.shape[1], (int(wrong.sum()),), generator=generator)
        other[wrong] = again
    return other


class Factors(nn.Module):
    """Vectors of lists and items: a `Recommender`."""

    def __init__(self, config: Bpr, num_lists: int, num_items: int) -> None:
        super().__init__()
        self.config = config
        self.lists = nn.Parameter(torch.zeros(num_lists, config.dimension))
        self.items = nn.Parameter(torch.zeros(num_items, config.dimension))
        self.bias = nn.Parameter(torch.zeros(num_items))
        self._unseen = np.zeros(num_items, dtype=bool)

    def frozen(self, seen: Seen) -> Factors:
        """Itself, trained: items that training never saw are never recommended."""
        self._unseen = seen.counts == 0
        return self.requires_grad_(False)

    def loss(
        self, w: Float[Tensor, "B D"], right: Int[Tensor, " B"], other: Int[Tensor, " B"]
    ) -> Float[Tensor, ""]:
        """The summed loss of triples."""
        h, g = self.items[right], self.items[other]
        difference = (w * (h - g)).sum(-1) + self.bias[right] - self.bias[other]
        squares = w.square().sum() + h.square().sum() + g.square().sum()
        squares = squares + self.bias[right].square().sum() + self.bias[other].square().sum()
        return -F.logsigmoid(difference).sum() + self.config.l2 * squares

    def scores(
        self, lists: Sequence[List], rows: Int[ndarray, " B"] | None = None
    ) -> Float[ndarray, "B N"]:
        """w . h + b; a new list's w is found first."""
        if rows is None:
            w = torch.stack([self._new_list(one) for one in lists])
        else:
            w = self.lists[torch.from_numpy(rows)]
        found = (w.detach() @ self.items.detach().T + self.bias.detach()).numpy()
        found[:, self._unseen] = -np.inf
        return found

    def _new_list(self, one: List) -> Float[Tensor, " D"]:
        right = torch.from_numpy(one[~self._unseen[one]])
        module = nn.ParameterDict({"w": torch.zeros(self.config.dimension)})
        if not len(right):
            return module["w"]
        generator = torch.Generator().manual_seed(derive_seed("new list", *one.tolist()))
        optimizer = AdamWConfig(beta2=0.999, weight_decay=0.0).build(module)
        taken = torch.zeros(1, self.items.shape[0], dtype=torch.bool)
        taken[0, right] = True
        right = right.repeat(max(1, 64 // len(right)))
        for _ in range(self.config.new_list_steps):
            other = _outside(taken, torch.zeros_like(right), generator)
            optimizer.zero_grad()
            (self.loss(module["w"].expand(len(right), -1), right, other) / len(right)).backward()
            optimizer.step(0.05)
        return module["w"].detach()

    def item_vectors(self) -> Float[ndarray, "N D"]:
        """The h; zeros for items that training never saw."""
        vectors = self.items.detach().numpy().copy()
        vectors[self._unseen] = 0.0
        return vectors

    def similarities(
        self, items: Int[ndarray, " A"], others: Int[ndarray, " B"]
    ) -> Float[ndarray, "A B"]:
        """Cosines of the h."""
        return cosines(self.item_vectors(), items, others)

    def tensors(self) -> dict[str, Tensor]:
        """lists (P, D), items (N, D), bias (N)."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}
