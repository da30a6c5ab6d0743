"""A transformer that continues a list: the package's CausalLM over items, trained by its Trainer."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from pydantic import Field, model_validator
from torch import Tensor

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.core.seeding import derive_seed
from glassbox.data.loader import PackedSource, TokenBatch
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import ModelConfig
from glassbox.models.shapes import LlamaShape
from glassbox.ops.cross_entropy import IGNORE
from glassbox.optim.adamw import AdamWConfig
from glassbox.optim.schedules.warmup_cosine import WarmupCosine
from glassbox.recommend.item_vectors import check_tensor
from glassbox.recommend.playlists import List, Playlists, Seen
from glassbox.recommend.recommender import cosines
from glassbox.training.config import TrainConfig
from glassbox.training.loop import Trainer
from glassbox.training.next_token import NextToken

SCORED_TOGETHER = 256


class ListRows:
    """Rows of training lists, each the last `row_length` items of a list; each item is the target
    of those before it.

    Item i is token i; token N begins each list. `data.loader.Rows`, for PackedSource.
    """

    def __init__(self, train: Playlists, row_length: int) -> None:
        self.train = train
        self.row_length = row_length
        self.numbers = [n for n, one in enumerate(train) if len(one)]
        if not self.numbers:
            raise UserError(f"'{train.source}' leaves nothing to train on; give longer lists")

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def identity(self) -> str:
        """What tells these lists from others."""
        return f"{derive_seed(self.train.flat.tobytes().hex(), str(self.train.offsets.tolist()))}"

    def batch(self, indices: Sequence[int]) -> TokenBatch:
        """The lists of these numbers, padded at the end."""
        return token_batch(
            [self.train[self.numbers[index]] for index in indices],
            self.train.num_items,
            self.row_length,
        )


def token_batch(lists: Sequence[List], begin: int, row_length: int) -> TokenBatch:
    """Rows `begin, x_1 ... x_(n-1)` with targets `x_1 ... x_n`, of the last `row_length` items."""
    width = min(row_length, max(len(one) for one in lists))
    ids = np.zeros((len(lists), width), dtype=np.int64)
    targets = np.full_like(ids, IGNORE)
    documents = np.full_like(ids, -1)
    for row, whole in enumerate(lists):
        one = whole[-row_length:]
        ids[row, 0], ids[row, 1 : len(one)] = begin, one[:-1]
        targets[row, : len(one)] = one
        documents[row, : len(one)] = 0
    return TokenBatch(torch.from_numpy(ids), torch.from_numpy(targets), torch.from_numpy(documents))


class Continuation(Spec):
    """score(i | list) = log p(i | the list's items in order), of a Llama-shaped transformer.

    Source: Kang and McAuley, Self-attentive sequential recommendation, arXiv:1808.09781, with the
    full softmax in the place of one negative item.
    """

    kind: Literal["transformer"] = "transformer"
    hidden_size: int = Field(64, gt=0, le=4096)
    num_layers: int = Field(2, gt=0, le=64)
    num_heads: int = Field(2, gt=0)
    context_length: int = Field(64, gt=1, description="number of last items used")
    dropout: float = Field(0.2, ge=0, lt=1)
    epochs: float = Field(30, gt=0)
    lr: float = Field(3e-3, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    rows_per_step: int = Field(64, gt=0)

    @model_validator(mode="after")
    def _heads_fit(self) -> Continuation:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size = {self.hidden_size} does not divide into {self.num_heads} heads of "
                f"even width; use a multiple of {2 * self.num_heads}"
            )
        return self

    def model_config_for(self, num_items: int) -> ModelConfig:
        """The model's shape: a token an item, and one that begins a list."""
        return LlamaShape(
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            ffn_size=4 * self.hidden_size,
            context_length=self.context_length,
            dropout=self.dropout,
        ).config(num_items + 1)

    def build(
        self, train: Playlists, *, seed: int, folder: Path | None = None
    ) -> ContinuationModel:
        """Train; an interrupted run in `folder` is resumed."""
        model = CausalLM(self.model_config_for(train.num_items))
        model.initialize(torch.Generator().manual_seed(derive_seed(seed, "transformer")))
        rows = ListRows(train, self.context_length)
        source = PackedSource(rows, rows_per_step=min(self.rows_per_step, len(rows)), seed=seed)
        steps = max(2, round(self.epochs * source.steps_per_epoch))
        schedule = WarmupCosine(warmup_steps=min(steps // 10, 100))
        with contextlib.ExitStack() as stack:
            place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            Trainer(
                model,
                NextToken(),
                source,
                AdamWConfig(weight_decay=self.weight_decay).build(model),
                TrainConfig(steps=steps, lr=self.lr, schedule=schedule, checkpoint_every=500),
                folder=place,
                seed=seed,
                label="transformer",
            ).run()
        return ContinuationModel(self, model, train.seen)

    def restore(self, tensors: Mapping[str, Tensor], seen: Seen) -> ContinuationModel:
        """Of the model's parameters. Raises UserError where one is missing or does not fit."""
        check_tensor(tensors, "embedding.weight", (seen.num_items + 1, self.hidden_size))
        model = CausalLM(self.model_config_for(seen.num_items))
        for name, parameter in model.named_parameters():
            check_tensor(tensors, name, tuple(parameter.shape))
            parameter.data.copy_(tensors[name])
        return ContinuationModel(self, model, seen)


class ContinuationModel:
    """A `Recommender` that reads a list in its order."""

    def __init__(self, config: Continuation, model: CausalLM, seen: Seen) -> None:
        self.config = config
        self.model = model.eval().requires_grad_(False)
        self.begin = seen.num_items
        self._unseen = seen.counts == 0

    def scores(
        self, lists: Sequence[List], rows: Int[ndarray, " B"] | None = None
    ) -> Float[ndarray, "B N"]:
        """Log-probabilities of the next item."""
        found = []
        for first in range(0, len(lists), SCORED_TOGETHER):
            part = lists[first : first + SCORED_TOGETHER]
            # one more item behind each list: its place is where the next is predicted
            batch = token_batch(
                [np.append(one[-self.config.context_length + 1 :], 0) for one in part],
                self.begin,
                self.config.context_length,
            )
            hidden = self.model.hidden_states(batch.ids, documents=batch.documents)
            last = (batch.documents == 0).sum(dim=1) - 1
            logits = self.model.logits(hidden[torch.arange(len(part)), last])
            found.append(logits[:, : self.begin].log_softmax(dim=-1).numpy())
        scores = np.concatenate(found)
        scores[:, self._unseen] = -np.inf
        return scores

    def item_vectors(self) -> Float[ndarray, "N D"]:
        """The embeddings; zeros for items that training never saw."""
        vectors = self.model.embedding.weight[: self.begin].numpy().copy()
        vectors[self._unseen] = 0.0
        return vectors

    def similarities(
        self, items: Int[ndarray, " A"], others: Int[ndarray, " B"]
    ) -> Float[ndarray, "A B"]:
        """Cosines of the embeddings."""
        return cosines(self.item_vectors(), items, others)

    def tensors(self) -> dict[str, Tensor]:
        """The model's parameters by their names."""
        return {name: p.detach() for name, p in self.model.named_parameters()}
