"""Mixtures of sources, the permutation that nothing holds, and windows that overlap."""

from __future__ import annotations

import itertools
import json
import shutil
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.data.loader import PackedRows, TokenBatch
from glassbox.data.mixture import MixedRows, MixedSource, next_source
from glassbox.data.order import SeededOrder, scramble
from glassbox.data.packing import cut_documents
from glassbox.data.shards import Shard, read_shard
from glassbox.ops.cross_entropy import IGNORE
from glassbox.runs.recipe import read_recipe
from glassbox.runs.train import run_recipe
from support.tiny_run import everything


def shard_of(lengths: list[int], first: int = 0) -> Shard:
    """Ids that tell their own place: token j of the shard is `first` + j."""
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    ids = np.arange(first, first + int(offsets[-1]), dtype=np.uint16)
    return Shard(ids=ids, offsets=offsets, mask=None, info={"files": {".bin": f"{first}-test"}})


PARTS = [
    PackedRows(shard_of(lengths, first), 8)
    for lengths, first in (([13, 5, 40, 9, 21], 0), ([30, 7], 1000), ([25, 25, 25, 25], 2000))
]
ROWS = MixedRows(PARTS)
Row = tuple[int, ...]


def rows_of(batches: list[TokenBatch]) -> list[Row]:
    return [tuple(row) for batch in batches for row in batch.ids.tolist()]


def part_of(row: Row) -> int:
    return row[0] // 1000


def mixed(
    rank: int = 0,
    world_size: int = 1,
    *,
    weights: tuple[float, ...] = (5, 1, 2.5),
    seed: int = 0,
    per_batch: int | None = None,
) -> MixedSource:
    group = Group(rank=rank, world_size=world_size)
    return MixedSource(
        ROWS, weights, rows_per_step=12, rows_per_batch=per_batch, seed=seed, group=group
    )


weights_of_sources = st.lists(st.floats(0.01, 100), min_size=1, max_size=6)


@settings(deadline=None)
@given(weights_of_sources)
def test_at_every_moment_each_source_has_its_share_within_tijdemans_bound(
    weights: list[float],
) -> None:
    shares = [weight / sum(weights) for weight in weights]
    taken = [0] * len(weights)
    bound = 1 - 1 / (2 * len(weights) - 2) if len(weights) > 1 else 0.0
    for position in range(1, 400):
        taken[next_source(position, shares, taken)] += 1
        for share, count in zip(shares, taken, strict=True):
            assert abs(position * share - count) <= bound + 1e-6


@pytest.mark.parametrize("weights", [(5.0, 1.0, 2.5), (1.0, 1.0, 1.0), (0.01, 1.0, 300.0)])
def test_rows_come_by_weight_and_each_source_walks_through_all_of_its_own(
    weights: tuple[float, ...],
) -> None:
    source = mixed(weights=weights)
    rows = list(itertools.chain.from_iterable(rows_of(source.next_step()) for _ in range(60)))
    assert len(rows) == 720
    for part, weight in enumerate(weights):
        own = [row for row in rows if part_of(row) == part]
        assert abs(len(own) - 720 * weight / sum(weights)) < 1
        whole = sorted(rows_of([PARTS[part].batch(range(len(PARTS[part])))]))
        epochs = [own[i : i + len(whole)] for i in range(0, len(own), len(whole))]
        for epoch in epochs[:-1]:
            assert sorted(epoch) == whole
        assert len(epochs) < 4 or len(set(map(tuple, epochs[:-1]))) > 1
        if epochs:  # the begun one repeats nothing
            assert not Counter(epochs[-1]) - Counter(whole)


def test_targets_and_documents_are_those_of_the_parts() -> None:
    for number in range(len(ROWS)):
        part = max(k for k in range(3) if ROWS.firsts[k] <= number)
        expected = PARTS[part].batch([number - ROWS.firsts[part]])
        found = ROWS.batch([number])
        assert found.ids.equal(expected.ids)
        assert found.targets.equal(expected.targets)
        assert found.documents.equal(expected.documents)
    assert len(ROWS) == sum(map(len, PARTS))
    whole = ROWS.batch(range(len(ROWS)))
    assert ROWS.fill_rate == pytest.approx(float((whole.targets != IGNORE).float().mean()))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 30),
    st.sampled_from([1, 2, 3, 4, 6, 12]),
    st.sampled_from([1, 2, 3, 4, 6, 12]),
    st.sampled_from([None, 1, 2]),
    st.integers(0, 2),
)
def test_stopped_anywhere_another_number_of_ranks_sees_exactly_the_rest(
    before: int, world_size: int, other: int, per_batch: int | None, seed: int
) -> None:
    def steps(sources: list[MixedSource], count: int) -> list[list[Row]]:
        return [
            sorted(row for s in sources for row in rows_of(s.next_step())) for _ in range(count)
        ]

    expected = steps([mixed(seed=seed)], before + 6)
    first = [mixed(rank, world_size, seed=seed) for rank in range(world_size)]
    assert steps(first, before) == expected[:before]
    saved = [json.loads(json.dumps(source.state_dict())) for source in first]
    assert all(state == saved[0] for state in saved)
    then = [mixed(rank, other, seed=seed, per_batch=per_batch) for rank in range(other)]
    for source in then:
        source.load_state_dict(saved[0])
    assert steps(then, 6) == expected[before:]


def test_another_mixture_is_refused_on_resume() -> None:
    with pytest.raises(UserError, match="weights = "):
        mixed(weights=(1, 1, 1)).load_state_dict(mixed().state_dict())
    fewer = MixedSource(MixedRows(PARTS[:2]), (1, 1), rows_per_step=1)
    with pytest.raises(UserError, match="rows = "):
        fewer.load_state_dict(mixed().state_dict())
    with pytest.raises(UserError, match="each source needs one above 0"):
        mixed(weights=(1, 0, 1))
    with pytest.raises(UserError, match="rows of one length"):
        MixedRows([PARTS[0], PackedRows(shard_of([9]), 4)])


# ---- the order ----------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 700), st.lists(st.integers(0, 2**63 - 1), min_size=2, max_size=6))
def test_what_nothing_holds_is_a_permutation_all_the_same(count: int, keys: list[int]) -> None:
    assert sorted(scramble(place, count, keys) for place in range(count)) == list(range(count))


def test_an_order_that_is_not_held_is_seeded_and_differs_by_epoch() -> None:
    def epochs(seed: int) -> list[list[int]]:
        order = SeededOrder(100, seed, "rows", held=0)
        return [[order[100 * epoch + i] for i in range(100)] for epoch in range(3)]

    assert epochs(1) == epochs(1)
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs(1))
    assert len({tuple(epoch) for epoch in (*epochs(1), *epochs(2))}) == 6
    backwards = SeededOrder(100, 1, "rows", held=0)
    assert [backwards[i] for i in reversed(range(300))][::-1] == list(itertools.chain(*epochs(1)))


def test_an_order_that_is_not_held_spreads_evenly() -> None:
    # where place 0 .. 19 of 20 come to lie over 4000 keys: chi-square, 361 degrees of freedom
    counts = np.zeros((20, 20))
    for seed in range(4000):
        order = SeededOrder(20, seed, "rows", held=0)
        for place in range(20):
            counts[place, order[place]] += 1
    chi = float(((counts - 200) ** 2 / 200).sum())
    assert abs(chi - 361) < 5 * np.sqrt(2 * 361)
    # neighbours part: |step| between successive items averages a third of the range
    order = SeededOrder(1 << 30, 0, "rows")
    items = np.array([order[i] for i in range(5000)])
    assert np.abs(np.diff(items)).mean() / (1 << 30) == pytest.approx(1 / 3, abs=0.02)


def test_a_billion_rows_take_no_memory() -> None:
    tracemalloc.start()
    order = SeededOrder(10**12, 0, "rows")
    found = [order[position] for position in (0, 5, 10**12 - 1, 10**12)]
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
    assert len(set(found)) == 4
    assert all(0 <= item < 10**12 for item in found)


# ---- windows with a stride ----------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(1, 12), st.data())
def test_windows_are_those_of_the_plain_loop_and_reach_the_end(
    length: int, size: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, size))
    tokens = list(range(length))
    windows = [tokens[i : i + size] for i in range(0, length - size, stride)]
    pieces = list(cut_documents(np.array([0, length]), size, stride))
    assert [tokens[s : s + n] for s, n in pieces if n == size] == windows[: len(pieces)]
    pairs = {j for start, n in pieces for j in range(start, start + n)}
    assert pairs == set(range(length - 1))
    # none lies within the one before
    assert all(a + n < b + m for (a, n), (b, m) in itertools.pairwise(pieces))


@pytest.mark.parametrize("strategy", ["best_fit", "greedy"])
def test_rows_with_a_stride_hold_every_window(strategy: Literal["best_fit", "greedy"]) -> None:
    shard = shard_of([30, 3, 11])
    rows = PackedRows(shard, 8, strategy=strategy, stride=4)
    batch = rows.batch(range(len(rows)))
    found = Counter(batch.ids[batch.targets != IGNORE].tolist())
    expected = Counter(
        start + k for start, n in cut_documents(shard.offsets, 8, 4) for k in range(n)
    )
    assert found == expected
    assert max(found.values()) == 2
    assert ((batch.targets - batch.ids == 1) | (batch.targets == IGNORE)).all()


def test_a_stride_longer_than_a_row_is_refused() -> None:
    with pytest.raises(UserError, match="stride = 9: windows of row_length = 8"):
        PackedRows(shard_of([30]), 8, stride=9)
    with pytest.raises(ValueError, match="leaves pairs out"):
        list(cut_documents(np.array([0, 9]), 4, 5))


# ---- recipes ------------------------------------------------------------------------------------


def words(folder: Path, out: str, *more: str) -> list[str]:
    for name, noun in (("a", "fox"), ("b", "owl")):
        lines = [json.dumps({"text": f"the {noun} sat on {n} boxes " * 9}) for n in range(60)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return [
        f"out={folder / out}", "device=cpu", "tokenizer.vocab_size=300", "data.path=null",
        f"data.sources=[{{path: {folder / 'a.jsonl'}, weight: 3}}, {{path: {folder / 'b.jsonl'}}}]",
        "data.rows_per_step=4", "data.row_length=64", "data.stride=32", "train.steps=4",
        "train.schedule.warmup_steps=1", "train.checkpoint_every=1", "train.keep_last=9", "evaluation.every=0", *more,
    ]  # fmt: skip


def test_a_mixture_trains_and_resumes_to_the_same_bits(tmp_path: Path) -> None:
    recipe: Any = read_recipe("pretrain.yaml", words(tmp_path, "run"))
    assert run_recipe(recipe)["status"] == "finished"
    run = tmp_path / "run"
    expected = everything(run)
    shards = [
        read_shard(run / "data" / name) for name in ("train-0", "train-1", "heldout-0", "heldout-1")
    ]
    assert 116 <= sum(shard.num_documents for shard in shards) <= 120
    state = json.loads(
        (run / "checkpoints" / "step-00000004" / "training" / "state.json").read_text()
    )
    assert '"taken": [12, 4]' in json.dumps(state)
    for step in (3, 4):
        shutil.rmtree(run / "checkpoints" / f"step-0000000{step}")
    (run / "DONE.json").unlink()
    assert run_recipe(recipe)["status"] == "finished"
    assert everything(run) == expected


def test_a_recipe_with_two_places_or_none_is_refused(tmp_path: Path) -> None:
    for more in (["data.path=x.txt"], ["data.sources=[]"], ["data.stride=65"]):
        with pytest.raises(UserError, match=r"data\.path=null leaves|more than data\.row_length"):
            read_recipe("pretrain.yaml", words(tmp_path, "run", *more))
