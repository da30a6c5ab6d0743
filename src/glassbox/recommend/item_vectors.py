"""Skip-gram and CBOW with negative sampling, written by hand: item vectors from lists.

For a centre item c and an item o within the window, with K items n drawn ~ count ** 0.75:

    loss = -log sigmoid(v_c . u_o) - sum_n log sigmoid(-v_c . u_n)

CBOW predicts the centre from the mean of the v of its window instead. Vectors v start uniform in
+-1/(2D), outputs u at zero; plain SGD, the rate falling linearly to `last_lr`.
Source: Mikolov et al., arXiv:1301.3781 and arXiv:1310.4546.
Tested against: gensim's Word2Vec (loss and neighbours), torch's autograd (gradients).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.core.progress import ProgressLine
from glassbox.core.seeding import derive_seed
from glassbox.recommend.playlists import Item, List, Playlists, Seen
from glassbox.recommend.recommender import cosines, normalized

POWER = 0.75
LISTS_PER_CHUNK = 256


@dataclass(frozen=True)
class Examples:
    """B predictions: the items that predict, `inputs` padded with -1, and what is to be told apart.

    The first of `outputs` is the item that is right, the others are drawn; `valid` is false for a
    drawn one that is the right one itself, which then counts for nothing.
    """

    inputs: Int[ndarray, "B W"]
    outputs: Int[ndarray, "B K1"]
    valid: Bool[ndarray, "B K1"]


def keep_probability(counts: Int[ndarray, " N"], sample: float) -> Float[ndarray, " N"]:
    """Subsampling: an occurrence of an item of frequency f stays with sqrt(t/f) + t/f, at most 1.

    sample is t; 0 keeps all. Source: word2vec.c (the paper has 1 - sqrt(t/f) for leaving out).

    >>> keep_probability(np.array([90, 10]), 0.1).round(3).tolist()
    [0.444, 1.0]
    """
    frequency = counts / max(1, counts.sum())
    if not sample:
        return np.ones(len(counts))
    ratio = sample / np.maximum(frequency, 1e-12)
    return np.minimum(1.0, np.sqrt(ratio) + ratio)


def window_pairs(
    rows: Int[ndarray, " N"], reach: Int[ndarray, " N"], window: int
) -> Iterator[tuple[Int[ndarray, " M"], Int[ndarray, " M"]]]:
    """For each distance: places of centres, and of the neighbours that far away in the same list.

    reach: how far each centre looks, 1 ... window, drawn anew for each as in word2vec.
    """
    places = np.arange(len(rows))
    for distance in (d for step in range(1, window + 1) for d in (-step, step)):
        other = places + distance
        inside = (other >= 0) & (other < len(rows)) & (reach >= abs(distance))
        centre = places[inside]
        centre = centre[rows[centre] == rows[centre + distance]]
        yield centre, centre + distance


class ItemVectors:
    """Vectors of items and how lists are scored by them: a `Recommender`.

    A list's query is the mean of the vectors of its last `recent` items. score = "cosine", of
    normalized vectors, as word2vec's most_similar: the query's cosine with each item's vector;
    "output": query . u_i + log count_i ** 0.75. At the loss's minimum v . u is the logarithm of how much
    likelier i is beside the item than among the drawn ones, so with the drawn ones' own probability
    it is log p(i | item) but for a constant. Items that training never saw have, with `relatives`,
    the mean vector of their artist's items that it did, and count as one of them; without any they
    score -inf.
    """

    def __init__(self, config: ItemVectorSpec, vectors: Tensor, outputs: Tensor, lists: Seen):
        self.config = config
        self.vectors, self.outputs = vectors, outputs
        self.losses: list[float] = []
        seen = lists.counts > 0
        known, aims = vectors.numpy().copy(), outputs.numpy().copy()
        counts = lists.counts.astype(np.float64)
        known[~seen], aims[~seen] = 0.0, 0.0
        if config.relatives:
            for relatives, unseen in _unseen_with_relatives(lists.items, seen):
                known[unseen] = known[relatives].mean(axis=0)
                aims[unseen] = aims[relatives].mean(axis=0)
                counts[unseen] = counts[relatives].mean()
        self._known, self._aims = known, aims
        self._log_drawn = POWER * np.log(np.maximum(counts, 1).astype(np.float32))
        self._unknown = ~known.any(axis=1)

    def item_vectors(self) -> Float[ndarray, "N D"]:
        """The vectors; zeros for items that nothing is known of."""
        return self._known

    def scores(
        self, lists: Sequence[List], rows: Int[ndarray, " B"] | None = None
    ) -> Float[ndarray, "B N"]:
        """Cosines, or mean products."""
        cosine = self.config.score == "cosine"
        table = normalized(self._known) if cosine else self._known
        aims = table if cosine else self._aims
        queries = np.stack([_mean(table[one[-self.config.recent :]]) for one in lists])
        found = queries @ aims.T
        if not cosine:
            found += self._log_drawn
        found[:, self._unknown] = -np.inf
        return found

    def similarities(
        self, items: Int[ndarray, " A"], others: Int[ndarray, " B"]
    ) -> Float[ndarray, "A B"]:
        """Cosines of the vectors."""
        return cosines(self.item_vectors(), items, others)

    def tensors(self) -> dict[str, Tensor]:
        """vectors and outputs, (N, D) each."""
        return {"vectors": self.vectors, "outputs": self.outputs}


def _mean(rows: Float[ndarray, "L D"]) -> Float[ndarray, " D"]:
    return rows.mean(axis=0) if len(rows) else np.zeros(rows.shape[1], rows.dtype)


def _unseen_with_relatives(
    items: Sequence[Item], seen: Bool[ndarray, " N"]
) -> Iterator[tuple[list[int], list[int]]]:
    """Items of one artist that training saw, and those that it did not; both where there are any."""
    by_artist: dict[str, tuple[list[int], list[int]]] = {}
    for number, item in enumerate(items):
        if item.artist:
            by_artist.setdefault(item.artist, ([], []))[0 if seen[number] else 1].append(number)
    return (pair for pair in by_artist.values() if all(pair))


class ItemVectorSpec(Spec):
    """Settings that skip-gram and CBOW share; defaults chosen on generated lists of another seed."""

    dimension: int = Field(16, gt=0)
    window: int = Field(
        5, gt=0, description="maximum context window; each centre draws from 1 ... window"
    )
    negatives: int = Field(5, gt=0, description="negative samples per positive one")
    sample: float = Field(0.0, ge=0, description="subsampling threshold t; 0: none")
    epochs: int = Field(30, gt=0)
    lr: float = Field(0.1, gt=0)
    last_lr: float = Field(1e-4, ge=0)
    batch: int = Field(128, gt=0, description="predictions per update")
    score: Literal["cosine", "output"] = "output"
    recent: int = Field(2, gt=0, description="number of last items that form the query")
    relatives: bool = Field(
        True, description="unseen items get the mean vector of their artist's items"
    )
    workers: int = Field(
        1, ge=1, description="threads that draw examples; results do not depend on it"
    )

    @property
    def _bag(self) -> bool:
        raise NotImplementedError

    @property
    def _whole_gradient(self) -> bool:
        return False

    def build(self, train: Playlists, *, seed: int, folder: Path | None = None) -> ItemVectors:
        """Train. The same seed gives the same bits for any number of workers and threads."""
        generator = torch.Generator().manual_seed(derive_seed(seed, "vectors"))
        shape = (train.num_items, self.dimension)
        vectors = (torch.rand(shape, generator=generator) - 0.5) / self.dimension
        outputs = torch.zeros(shape)
        if train.counts.max(initial=0) == 0:
            raise UserError(f"'{train.source}' leaves nothing to train on; give longer lists")
        losses = []
        chunks = list(range(0, len(train), LISTS_PER_CHUNK))
        work = [(epoch, first) for epoch in range(self.epochs) for first in chunks]
        orders = {
            epoch: np.random.Generator(
                np.random.Philox(derive_seed(seed, "order", epoch))
            ).permutation(len(train))
            for epoch in range(self.epochs)
        }
        draw = _Drawing(self, train, seed, orders)
        with (
            ThreadPoolExecutor(self.workers) as pool,
            ProgressLine(str(getattr(self, "kind", "")), len(work)) as line,
        ):
            ahead = pool.map(draw, work[:64])
            place, loss, count = 0, 0.0, 0
            while place < len(work):
                for examples in ahead:
                    lr = self.lr - (self.lr - self.last_lr) * place / len(work)
                    loss += self._learn(vectors, outputs, examples, lr)
                    count += len(examples.inputs)
                    place += 1
                    line.update(place, f"loss {loss / max(1, count):.3f}")
                    if place % len(chunks) == 0:
                        losses.append(loss / max(1, count))
                        loss, count = 0.0, 0
                ahead = pool.map(draw, work[place : place + 64])
        made = ItemVectors(self, vectors, outputs, train.seen)
        made.losses = losses
        return made

    def _learn(self, vectors: Tensor, outputs: Tensor, examples: Examples, lr: float) -> float:
        loss = 0.0
        for first in range(0, len(examples.inputs), self.batch):
            part = slice(first, first + self.batch)
            loss += sgd_step(
                vectors,
                outputs,
                torch.from_numpy(examples.inputs[part]),
                torch.from_numpy(examples.outputs[part]),
                torch.from_numpy(examples.valid[part]),
                lr,
                whole_gradient=self._whole_gradient,
            )
        return loss

    def restore(self, tensors: Mapping[str, Tensor], seen: Seen) -> ItemVectors:
        """Of `vectors` and `outputs`. Raises UserError where they are missing or do not fit."""
        shape = (seen.num_items, self.dimension)
        for name in ("vectors", "outputs"):
            check_tensor(tensors, name, shape)
        return ItemVectors(self, tensors["vectors"], tensors["outputs"], seen)


def check_tensor(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> None:
    """UserError unless there is a float32 tensor of this name and shape."""
    if name not in tensors:
        raise UserError(f"the saved model has no tensor '{name}'; train it again")
    found = tensors[name]
    if tuple(found.shape) != shape or found.dtype != torch.float32:
        raise UserError(
            f"tensor '{name}' is {found.dtype} {tuple(found.shape)}, the settings and items say "
            f"float32 {shape}; keep the files of one model together"
        )


class SkipGram(ItemVectorSpec):
    """Each item predicts each of its neighbours."""

    kind: Literal["skipgram"] = "skipgram"

    @property
    def _bag(self) -> bool:
        return False


class Cbow(ItemVectorSpec):
    """The mean of an item's neighbours predicts it.

    word2vec.c and gensim give each neighbour the gradient of the mean, where its own is that divided
    by how many there are: `as_word2vec` does so, too. Source: Irsoy et al., Corrected CBOW performs as
    well as skip-gram, arXiv:2012.15332.
    """

    kind: Literal["cbow"] = "cbow"
    as_word2vec: bool = Field(False, description="use the gradient of word2vec.c and gensim")

    @property
    def _whole_gradient(self) -> bool:
        return self.as_word2vec

    @property
    def _bag(self) -> bool:
        return True


class _Drawing:
    """Examples of a chunk of lists. What is drawn depends on seed, epoch and chunk alone."""

    def __init__(
        self, config: ItemVectorSpec, train: Playlists, seed: int, orders: Mapping[int, ndarray]
    ) -> None:
        self.config, self.train, self.seed, self.orders = config, train, seed, orders
        self.keep = keep_probability(train.counts, config.sample)
        weights = np.cumsum(train.counts.astype(np.float64) ** POWER)
        self.cumulative = weights / weights[-1]

    def __call__(self, where: tuple[int, int]) -> Examples:
        epoch, first = where
        config = self.config
        rng = np.random.Generator(np.random.Philox(derive_seed(self.seed, "draw", epoch, first)))
        chosen = self.orders[epoch][first : first + LISTS_PER_CHUNK]
        lists = [self.train[number] for number in chosen]
        items = np.concatenate(lists)
        rows = np.repeat(np.arange(len(lists)), [len(one) for one in lists])
        kept = rng.random(len(items)) < self.keep[items]
        items, rows = items[kept], rows[kept]
        reach = rng.integers(1, config.window + 1, size=len(items))
        if config._bag:
            inputs, right = self._bags(items, rows, reach)
        else:
            inputs, right = self._pairs(items, rows, reach)
        order = rng.permutation(len(right))
        inputs, right = inputs[order], right[order]
        drawn = np.searchsorted(
            self.cumulative, rng.random((len(right), config.negatives)), side="right"
        )
        outputs = np.concatenate([right[:, None], drawn], axis=1)
        valid = outputs != right[:, None]
        valid[:, 0] = True
        return Examples(inputs, outputs, valid)

    def _pairs(self, items: ndarray, rows: ndarray, reach: ndarray) -> tuple[ndarray, ndarray]:
        pairs = list(window_pairs(rows, reach, self.config.window))
        centre = np.concatenate([one for one, _ in pairs])
        other = np.concatenate([two for _, two in pairs])
        return items[centre][:, None], items[other]

    def _bags(self, items: ndarray, rows: ndarray, reach: ndarray) -> tuple[ndarray, ndarray]:
        bags = np.full((len(items), 2 * self.config.window), -1, dtype=np.int64)
        for column, (centre, other) in enumerate(window_pairs(rows, reach, self.config.window)):
            bags[centre, column] = items[other]
        some = (bags >= 0).any(axis=1)
        return bags[some], items[some]


def negative_sampling_loss(
    vectors: Float[Tensor, "N D"],
    outputs: Float[Tensor, "N D"],
    inputs: Int[Tensor, "B W"],
    targets: Int[Tensor, "B K1"],
    valid: Bool[Tensor, "B K1"],
) -> Float[Tensor, ""]:
    """The summed loss, differentiable: the plain version, by which `sgd_step` is tested."""
    present = (inputs >= 0).unsqueeze(-1)
    hidden = (vectors[inputs.clamp(min=0)] * present).sum(1) / present.sum(1)
    logits = (hidden.unsqueeze(1) * outputs[targets]).sum(-1)
    sign = torch.ones_like(logits)
    sign[:, 1:] = -1
    return -(F.logsigmoid(sign * logits) * valid).sum()


def sgd_step(
    vectors: Float[Tensor, "N D"],
    outputs: Float[Tensor, "N D"],
    inputs: Int[Tensor, "B W"],
    targets: Int[Tensor, "B K1"],
    valid: Bool[Tensor, "B K1"],
    lr: float,
    *,
    whole_gradient: bool = False,
) -> float:
    """One step of SGD on the summed loss, in place, with gradients by hand; returns the loss.

    whole_gradient: of a mean of w vectors each gets the mean's gradient, not its w-th part.

    With s = sigmoid(v . u): dloss/d(v . u) = s - 1 for the right item, s for a drawn one. Only
    sums over the last two dimensions and index_add_ are used, which add in the same order for any
    number of threads.
    """
    bag = inputs.shape[1] > 1
    if bag:
        present = inputs >= 0
        size = present.sum(1, keepdim=True)
        rows = vectors[inputs.clamp(min=0)] * present.unsqueeze(-1)  # (B, W, D)
        hidden = rows.sum(1) / size
    else:
        hidden = vectors[inputs[:, 0]]
    aims = outputs[targets]  # (B, K1, D)
    logits = (hidden.unsqueeze(1) * aims).sum(-1)
    error = logits.sigmoid()
    error[:, 0] -= 1
    error *= valid
    step = error * -lr
    to_hidden = (step.unsqueeze(-1) * aims).sum(1)  # (B, D)
    to_outputs = step.unsqueeze(-1) * hidden.unsqueeze(1)
    outputs.index_add_(0, targets.flatten(), to_outputs.flatten(0, 1))
    if bag:
        share = to_hidden if whole_gradient else to_hidden / size
        each = share.unsqueeze(1).expand_as(rows)[present]
        vectors.index_add_(0, inputs[present], each)
    else:
        vectors.index_add_(0, inputs[:, 0], to_hidden)
    logits[:, 1:] *= -1
    losses = F.logsigmoid(logits) * valid
    return -float(losses.double().sum(dim=1).numpy().sum())
