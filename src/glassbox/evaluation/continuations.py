"""Log-probabilities of continuations given their contexts, and whether each equals the greedy
continuation.

Equal inputs are processed once, options of a question share its context, and a common prefix of
many contexts (few-shot examples, a description) is processed once for all of them. Only scored
positions are projected to the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.inference.evaluating import evaluating
from glassbox.inference.shared_prompts import (
    Prefix,
    can_share,
    hidden_behind,
    hidden_of_ends,
    plan,
    read_prefix,
)
from glassbox.models.causal_lm import CausalLM

SHORTEST_PREFIX = 32
"""Fewest tokens that neighbouring rows have to begin with alike to be read together behind them."""
ROWS_OF_LOGITS = 256


class Continuation(NamedTuple):
    """Token ids of a context with its continuation; `first` is the index of the first one scored."""

    ids: list[int]
    first: int


class Score(NamedTuple):
    """Sum of log-probabilities in nats, whether every token is the most probable one, and the
    number of tokens.
    """

    log_prob: float
    is_greedy: bool
    num_tokens: int


@dataclass
class _Row:
    """One input to read: [context, continuation but its last token], and who asks for scores of it."""

    ids: tuple[int, ...]
    first: int
    asked: list[int] = field(default_factory=list)


class Batch(NamedTuple):
    """Rows of one forward pass, all after the same prefix."""

    rows: list[_Row]
    prefix: tuple[int, ...]

    @property
    def indices(self) -> list[int]:
        """The continuations that the batch scores."""
        return [index for row in self.rows for index in row.asked]

    def only(self, wanted: set[int]) -> Batch:
        """The same batch for some of its continuations."""
        rows = [
            _Row(row.ids, row.first, [i for i in row.asked if i in wanted]) for row in self.rows
        ]
        return Batch([row for row in rows if row.asked], self.prefix)

    @property
    def num_tokens(self) -> int:
        """Tokens read, without the prefix and padding."""
        return sum(len(row.ids) - len(self.prefix) for row in self.rows)


def fit(context: Sequence[int], continuation: Sequence[int], length: int) -> Continuation:
    """Truncate context and continuation from the left to `length` inputs, as in
    lm-evaluation-harness.

    Raises UserError if the continuation is longer than the model's context, or empty.
    """
    if not continuation:
        raise UserError("a continuation has no token of its own, so there is nothing to score")
    if len(continuation) > length:
        raise UserError(
            f"a continuation of {len(continuation)} tokens, but context_length = {length}; "
            "use a model with a longer context, or leave the item out"
        )
    whole = [*context, *continuation][-(length + 1) :]
    return Continuation(whole, len(whole) - len(continuation))


def make_batches(
    model: CausalLM, items: Sequence[Continuation], *, batch_tokens: int
) -> list[Batch]:
    """Divide the items into batches; the same items give the same batches, whichever are cached.

    batch_tokens: maximum number of tokens per forward pass, including padding; a longer row forms a
        batch of its own.
    """
    unique: dict[tuple[tuple[int, ...], int], _Row] = {}
    for index, item in enumerate(items):
        key = (tuple(item.ids[:-1]), item.first)
        unique.setdefault(key, _Row(*key)).asked.append(index)
    rows = list(unique.values())
    if not can_share(model):
        return [Batch(part, ()) for part in _by_length(rows, 0, batch_tokens)]
    batches: list[Batch] = []
    for prefix, members in _clusters(rows):
        done = len(prefix)
        questions: dict[tuple[int, ...], list[_Row]] = {}
        for row in members:
            questions.setdefault(row.ids[: row.first], []).append(row)
        alone = [some[0] for some in questions.values() if len(some) == 1]
        several = [some for some in questions.values() if len(some) > 1]
        parts = [*_by_length(alone, done, batch_tokens), *_by_ends(several, done, batch_tokens)]
        batches += [Batch(part, prefix) for part in parts]
    return batches


def _by_length(rows: list[_Row], done: int, batch_tokens: int) -> Iterator[list[_Row]]:
    """Rows of like length together; longest first shows memory early."""
    batch: list[_Row] = []
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        if batch and (len(batch[0].ids) - done) * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _by_ends(questions: list[list[_Row]], done: int, batch_tokens: int) -> Iterator[list[_Row]]:
    """Questions whose options are of like length together: contexts are read once, options apart, and
    both are padded to the longest."""
    shapes = [
        (rows[0].first - 1 - done, max(len(row.ids) for row in rows) - rows[0].first + 1)
        for rows in questions
    ]
    order = sorted(range(len(questions)), key=lambda n: (-(-shapes[n][1] // 8), shapes[n][0]))
    batch: list[_Row] = []
    count = longest = width = 0
    for n in reversed(order):
        context, end = shapes[n]
        wider = (max(longest, context), max(width, end))
        cost = (count + 1) * wider[0] + (len(batch) + len(questions[n])) * wider[1]
        if batch and cost > batch_tokens:
            yield batch
            batch, count, wider = [], 0, (context, end)
        batch = batch + questions[n]
        count += 1
        longest, width = wider
    if batch:
        yield batch


def _clusters(rows: list[_Row]) -> list[tuple[tuple[int, ...], list[_Row]]]:
    """Rows by what their contexts begin with alike; () for those that share too little to pay."""
    ordered = sorted(rows, key=lambda row: row.ids[: row.first])
    found: list[tuple[tuple[int, ...], list[_Row]]] = []
    apart: list[_Row] = []
    start = 0
    while start < len(ordered):
        context = ordered[start].ids[: ordered[start].first - 1]
        shared, end = len(context), start + 1
        num_contexts = 1
        while end < len(ordered):
            other = ordered[end].ids[: ordered[end].first - 1]
            alike = _num_alike(context[:shared], other)
            if alike < SHORTEST_PREFIX or (2 * alike < shared and num_contexts > 1):
                break
            num_contexts += (
                ordered[end].ids[: ordered[end].first]
                != ordered[end - 1].ids[: ordered[end - 1].first]
            )
            shared, end = alike, end + 1
        members = ordered[start:end]
        if num_contexts < 4:
            apart += members
        else:
            found.append((context[:shared], members))
        start = end
    if apart:
        found.append(((), apart))
    return found


def _num_alike(left: Sequence[int], right: Sequence[int]) -> int:
    for place, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return place
    return min(len(left), len(right))


class Scorer:
    """Scores batches of `make_batches` one after the other; neighbours with one prefix share its reading.

    Tested against: the model's logits, row by row; lm-evaluation-harness with transformers.
    """

    def __init__(self, model: CausalLM, items: Sequence[Continuation]) -> None:
        self.model = model
        self.items = items
        self._prefix: tuple[tuple[int, ...], Prefix] | None = None

    def score(self, batch: Batch) -> Iterator[tuple[int, Score]]:
        """(index of the item, its score) for every item of the batch."""
        model, done = self.model, len(batch.prefix)
        device = model.device
        rows = [row.ids[done:] for row in batch.rows]
        ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
        ids = ids.to(device)
        with torch.inference_mode(), evaluating(model):
            hidden, offsets = self._hidden(batch, ids)
            places, columns, owners = _needed(batch, offsets)
            chosen = hidden[places.to(device), columns.to(device)]
            targets = [self.items[index].ids[self.items[index].first :] for index, _ in owners]
            begins = [begin for _, begin in owners]
            sums, greedy = _judge(model, chosen, begins, targets)
        for (index, _), value, likeliest, target in zip(owners, sums, greedy, targets, strict=True):
            yield index, Score(value, likeliest, len(target))

    def _hidden(
        self, batch: Batch, ids: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B W D"], list[int]]:
        """Hidden states, and the index in each row, as batched, at which they begin."""
        model, done = self.model, len(batch.prefix)
        prefix = self._read(batch.prefix)
        lengths = torch.tensor([len(row.ids) - done for row in batch.rows], device=ids.device)
        if can_share(model):
            starts = torch.tensor([row.first - 1 - done for row in batch.rows], device=ids.device)
            shared = plan(ids, starts, lengths)
            if shared is not None:
                return hidden_of_ends(model, ids, shared, prefix), starts.tolist()
        if prefix is not None:
            return hidden_behind(model, ids, prefix), [0] * len(ids)
        ragged = None if bool((lengths == ids.shape[1]).all()) else lengths
        return model.hidden_states(ids, lengths=ragged), [0] * len(ids)

    def _read(self, ids: tuple[int, ...]) -> Prefix | None:
        if not ids:
            return None
        if self._prefix is None or self._prefix[0] != ids:
            self._prefix = None  # free the old one first
            self._prefix = (
                ids,
                read_prefix(self.model, torch.tensor(ids, device=self.model.device)),
            )
        return self._prefix[1]


def _needed(
    batch: Batch, offsets: Sequence[int]
) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"], list[tuple[int, int]]]:
    """Row and column of each hidden state that is scored, once; (item, its first one) of each item."""
    places: list[int] = []
    columns: list[int] = []
    owners = []
    for place, (row, offset) in enumerate(zip(batch.rows, offsets, strict=True)):
        owners += [(index, len(places)) for index in row.asked]
        count = len(row.ids) - row.first + 1
        first = row.first - 1 - len(batch.prefix) - offset
        places += [place] * count
        columns += range(first, first + count)
    return torch.tensor(places), torch.tensor(columns), owners


def _judge(
    model: CausalLM,
    hidden: Float[Tensor, "N D"],
    begins: Sequence[int],
    targets: Sequence[Sequence[int]],
) -> tuple[list[float], list[bool]]:
    """Sums of log p, in float64 of float32 terms, and whether all are the argmax; targets[i] is
    predicted from hidden[begins[i]] on."""
    device = hidden.device
    places = torch.tensor(
        [begin + n for begin, ids in zip(begins, targets, strict=True) for n in range(len(ids))]
    )
    wanted = torch.tensor([one for ids in targets for one in ids])
    owners = torch.tensor([n for n, ids in enumerate(targets) for _ in ids])
    sums = torch.zeros(len(targets), dtype=torch.float64)
    greedy = torch.ones(len(targets), dtype=torch.bool)
    for start in range(0, len(hidden), ROWS_OF_LOGITS):
        logits = model.logits(hidden[start : start + ROWS_OF_LOGITS])
        wide = logits if logits.dtype == torch.float64 else logits.float()
        here = (places >= start) & (places < start + len(wide))
        rows, ids = (places[here] - start).to(device), wanted[here].to(device)
        terms = wide[rows, ids] - wide.logsumexp(dim=-1)[rows]
        likeliest = (wide.argmax(dim=-1)[rows] == ids).cpu()
        sums.index_add_(0, owners[here], terms.to("cpu", torch.float64))
        greedy[owners[here][~likeliest]] = False
    return sums.tolist(), greedy.tolist()
