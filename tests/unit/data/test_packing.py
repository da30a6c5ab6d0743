"""Packing and the loader: every pair once, no piece over two documents, the same rows for any ranks."""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import glassbox.data.packing as packing
from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.data.loader import PackedRows, PackedSource, TokenBatch
from glassbox.data.packing import cut_documents, pack_best_fit, pack_documents, pack_greedy
from glassbox.data.shards import Shard
from glassbox.ops.cross_entropy import IGNORE

Strategy = Literal["best_fit", "greedy"]
strategies = st.sampled_from(["best_fit", "greedy"])
lengths_of_documents = st.lists(st.integers(0, 40), max_size=30)


def shard_of(lengths: list[int], mask: bool = False) -> Shard:
    """Ids that tell their own place: token j of the whole shard is j."""
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    count = int(offsets[-1])
    rng = np.random.default_rng(0)
    return Shard(
        ids=np.arange(count, dtype=np.uint16),
        offsets=offsets,
        mask=rng.integers(0, 2, count).astype(np.uint8) if mask else None,
        info={"files": {".bin": f"{count}-test"}},
    )


def batch_pairs(batch: TokenBatch) -> list[tuple[int, int]]:
    valid = batch.targets != IGNORE
    return list(zip(batch.ids[valid].tolist(), batch.targets[valid].tolist(), strict=True))


def all_pairs(lengths: list[int]) -> list[tuple[int, int]]:
    offsets = np.cumsum([0, *lengths]).tolist()
    return [
        (token, token + 1)
        for start, end in itertools.pairwise(offsets)
        for token in range(start, end - 1)
    ]


@settings(deadline=None)
@given(lengths_of_documents, st.integers(1, 20), strategies, st.integers(1, 7))
def test_every_pair_stands_in_exactly_one_row_and_no_piece_crosses_documents(
    lengths: list[int], capacity: int, strategy: Strategy, window: int
) -> None:
    before, packing.WINDOW = packing.WINDOW, window
    try:
        rows = list(pack_documents(shard_of(lengths).offsets, capacity, strategy=strategy))
    finally:
        packing.WINDOW = before
    pairs = [(j, j + 1) for row in rows for start, n in row for j in range(start, start + n)]
    assert sorted(pairs) == all_pairs(lengths)  # so no later document is emitted for every start
    assert all(0 < sum(n for _, n in row) <= capacity for row in rows)


@settings(deadline=None)
@given(lengths_of_documents.filter(lambda x: max(x, default=0) > 1), st.integers(1, 20), strategies)
def test_batches_hold_every_pair_once_and_documents_apart(
    lengths: list[int], capacity: int, strategy: Strategy
) -> None:
    rows = PackedRows(shard_of(lengths), capacity, strategy=strategy)
    batch = rows.batch(range(len(rows)))
    assert sorted(batch_pairs(batch)) == all_pairs(lengths)
    assert rows.num_pairs == len(all_pairs(lengths))
    assert rows.fill_rate == pytest.approx(float((batch.targets != IGNORE).float().mean()))
    owner = np.repeat(np.arange(len(lengths)), lengths)
    for ids, targets, documents in zip(batch.ids, batch.targets, batch.documents, strict=True):
        padding = targets == IGNORE
        assert torch.equal(padding, documents == -1)  # in a document of its own, out of sight
        assert not padding[: int((~padding).sum())].any()  # all of it behind
        for number in documents[~padding].unique().tolist():
            here = ids[documents == number]
            assert len(set(owner[here.numpy()])) == 1
            assert (here.diff() == 1).all()


@settings(deadline=None)
@given(lengths_of_documents.filter(lambda x: max(x, default=0) > 1), st.integers(1, 20))
def test_the_last_token_of_every_document_is_a_target(lengths: list[int], capacity: int) -> None:
    rows = PackedRows(shard_of(lengths), capacity)
    targets = set(rows.batch(range(len(rows))).targets.flatten().tolist())
    ends = {int(end) - 1 for end, n in zip(np.cumsum(lengths), lengths, strict=True) if n > 1}
    assert ends <= targets


def test_masked_tokens_are_read_but_never_targets() -> None:
    shard = shard_of([5, 9, 2, 30], mask=True)
    assert shard.mask is not None
    rows = PackedRows(shard, 8)
    batch = rows.batch(range(len(rows)))
    pairs = [(a, b) for a, b in all_pairs([5, 9, 2, 30]) if shard.mask[b]]
    assert sorted(batch_pairs(batch)) == pairs
    assert 0 < len(pairs) < len(all_pairs([5, 9, 2, 30]))
    assert sorted(batch.ids[batch.documents >= 0].tolist()) == [
        a for a, _ in all_pairs([5, 9, 2, 30])
    ]


def test_a_document_longer_than_a_row_is_cut_into_rows_that_lose_no_pair() -> None:
    assert list(cut_documents(np.array([0, 10]), 4)) == [(0, 4), (4, 4), (8, 1)]
    assert list(cut_documents(np.array([0, 9]), 4)) == [(0, 4), (4, 4)]
    assert list(cut_documents(np.array([0, 1, 1, 2]), 4)) == []  # one token alone has no target


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200))
def test_each_piece_is_packed_once_and_best_fit_leaves_no_two_rows_that_would_fit_one(
    lengths: list[int],
) -> None:
    best, greedy = pack_best_fit(lengths, 50), pack_greedy(lengths, 50)
    for rows in (best, greedy):
        assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
        assert all(sum(lengths[i] for i in row) <= 50 for row in rows)
    # no two rows could be one
    sums = sorted(sum(lengths[i] for i in row) for row in best)
    assert len(sums) < 2 or sums[0] + sums[1] > 50


def test_best_fit_fills_rows_that_greedy_leaves_gaps_in() -> None:
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.lognormal(4.5, 0.8, 5000).astype(int) + 2, 600).tolist()
    best, greedy = (PackedRows(shard_of(lengths), 256, strategy=s) for s in ("best_fit", "greedy"))
    assert best.num_pairs == greedy.num_pairs
    assert best.fill_rate > 0.995
    assert greedy.fill_rate < 0.8


@pytest.mark.parametrize("pack", [pack_best_fit, pack_greedy])
@pytest.mark.parametrize("length", [0, -1, 7])
def test_a_piece_that_fits_no_row_is_refused(pack: object, length: int) -> None:
    with pytest.raises(ValueError, match=f"a piece of {length} pairs does not fit a row of 6"):
        pack([3, length], 6)  # type: ignore[operator]


def test_data_without_pairs_and_rows_without_room_are_refused() -> None:
    with pytest.raises(UserError, match="give it more text"):
        PackedRows(shard_of([1, 0, 1]), 8)
    with pytest.raises(UserError, match="row_length = 0"):
        PackedRows(shard_of([3]), 0)


ROWS = PackedRows(shard_of([13, 5, 8, 40, 2, 9, 21, 3, 17]), 8)


def source(
    rank: int = 0,
    world_size: int = 1,
    *,
    per_step: int = 4,
    per_batch: int | None = None,
    seed: int = 0,
) -> PackedSource:
    group = Group(rank=rank, world_size=world_size)
    return PackedSource(
        ROWS, rows_per_step=per_step, rows_per_batch=per_batch, seed=seed, group=group
    )


def take(sources: list[PackedSource], steps: int) -> list[list[tuple[int, int]]]:
    """The pairs that all ranks together see in each step."""
    return [
        sorted(pair for s in sources for batch in s.next_step() for pair in batch_pairs(batch))
        for _ in range(steps)
    ]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("per_batch", [None, 1, 3])
def test_any_number_of_ranks_sees_the_same_steps(world_size: int, per_batch: int | None) -> None:
    sources = [source(rank, world_size, per_batch=per_batch) for rank in range(world_size)]
    assert take(sources, 12) == take([source()], 12)


def test_ranks_share_a_step_without_overlap_and_micro_batches_are_bounded() -> None:
    batches = [source(rank, 2, per_batch=1).next_step() for rank in range(2)]
    assert [len(b) for b in batches] == [2, 2]
    assert all(batch.num_tokens == 8 for rank in batches for batch in rank)
    inputs = [
        set(batch.ids[batch.targets != IGNORE].tolist()) for rank in batches for batch in rank
    ]
    assert sum(map(len, inputs)) == len(set.union(*inputs))


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(1, 9), st.integers(0, 3))
def test_it_goes_on_from_any_position(before: int, per_step: int, seed: int) -> None:
    whole = source(per_step=per_step, seed=seed)
    expected = take([whole], before + 8)[before:]
    stopped = source(per_step=per_step, seed=seed)
    take([stopped], before)
    resumed = source(per_step=per_step, seed=seed)
    resumed.load_state_dict(stopped.state_dict())
    assert take([resumed], 8) == expected


def test_it_goes_on_with_another_number_of_ranks() -> None:
    expected = take([source()], 9)
    one = source()
    take([one], 3)
    four = [source(rank, 4) for rank in range(4)]
    for part in four:
        part.load_state_dict(one.state_dict())
    assert take(four, 6) == expected[3:]


@pytest.mark.parametrize("per_step", [1, 3, 4])
def test_every_row_comes_once_an_epoch_and_epochs_differ(per_step: int) -> None:
    count, epochs = len(ROWS), 3
    stream = source(per_step=per_step)
    rows = []
    while len(rows) < count * epochs:
        for batch in stream.next_step():
            rows += [tuple(row) for row in batch.ids.tolist()]
    orders = [rows[count * e : count * (e + 1)] for e in range(epochs)]
    expected = sorted(tuple(row) for row in ROWS.batch(range(count)).ids.tolist())
    assert all(sorted(order) == expected for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert take([source(seed=1)], 1) != take([source(seed=2)], 1)


def test_other_data_are_refused_on_resume() -> None:
    state = source().state_dict()
    for change in ({"rows": 3}, {"seed": 9}, {"row_length": 4}, {"ids": "other"}):
        key = next(iter(change))
        with pytest.raises(
            UserError, match=f"made with data of {key} = .*resume with the same data"
        ):
            source().load_state_dict({**state, **change})


def test_rows_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(UserError, match="4 rows a step cannot be shared by 3 ranks"):
        source(0, 3)
    with pytest.raises(UserError, match="rows_per_step = 0"):
        source(per_step=0)
    with pytest.raises(UserError, match="rows_per_batch = 0"):
        source(per_batch=0)


def test_a_batch_moves_whole() -> None:
    batch = ROWS.batch([0]).to(torch.device("meta"))
    assert {t.device.type for t in (batch.ids, batch.targets, batch.documents)} == {"meta"}
