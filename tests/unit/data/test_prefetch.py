"""Batches made ahead: the same ones, the same position, whatever the number of workers and ranks."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.data.loader import PackedSource, TokenBatch
from glassbox.data.mixture import MixedRows, MixedSource
from glassbox.data.prefetch import PrefetchedSource, prefetched
from support.tiny_run import tiny_rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_rows(tmp_path_factory.mktemp("rows"))


def source_of(rows: Any, rank: int = 0, ranks: int = 1, *, mixed: bool = False) -> PackedSource:
    options: dict[str, Any] = {"rows_per_step": 4, "rows_per_batch": 1, "seed": 3}
    options["group"] = Group(rank=rank, world_size=ranks)
    return (
        MixedSource(MixedRows([rows, rows]), [3, 1], **options)
        if mixed
        else PackedSource(rows, **options)
    )


def take(sources: list[Any], steps: int) -> list[list[list[int]]]:
    """The rows that all ranks together see in each step, in the order of ranks dealt round."""
    taken = []
    for _ in range(steps):
        parts = [[row for batch in s.next_step() for row in batch.ids.tolist()] for s in sources]
        taken.append([row for dealt in zip(*parts, strict=True) for row in dealt])
    return taken


@given(
    workers=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    ranks=st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4])),
    before=st.integers(0, 9),
    mixed=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_the_rows_are_the_same_for_any_workers_and_ranks_before_and_after_a_resume(
    rows: Any, workers: tuple[int, int], ranks: tuple[int, int], before: int, mixed: bool
) -> None:
    def sources(place: int) -> list[Any]:
        group = range(ranks[place])
        each = [source_of(rows, rank, ranks[place], mixed=mixed) for rank in group]
        return [prefetched(source, workers[place]) for source in each]

    expected = take([source_of(rows, mixed=mixed)], before + 5)
    first, second = sources(0), sources(1)
    assert take(first, before) == expected[:before]
    positions = [source.state_dict() for source in first]
    assert all(position == positions[0] for position in positions)
    take(first, 1)  # what comes behind the position is not part of it
    for source in second:
        take([source], 2)  # made ahead, and to be forgotten
        source.load_state_dict(positions[0])
    assert take(second, 5) == expected[before:]


class Watched:
    """Rows that tell which numbers were asked for and by whom, and may fail."""

    def __init__(self, rows: Any, error: Exception | None = None) -> None:
        self.rows, self.error = rows, error
        self.row_length, self.identity = rows.row_length, rows.identity
        self.asked: list[str] = []
        self.fourth = threading.Event()

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: list[int]) -> TokenBatch:
        self.asked.append(threading.current_thread().name)
        if len(self.asked) == 4:
            self.fourth.set()
            if self.error is not None:
                raise self.error
        return self.rows.batch(indices)


def test_the_next_steps_are_made_while_nobody_asks(rows: Any) -> None:
    watched = Watched(rows)
    source = PrefetchedSource(PackedSource(watched, rows_per_step=4), 3)
    source.next_step()
    assert watched.fourth.wait(20)  # the first step and three more, without another call
    assert all(name.startswith("batches") for name in watched.asked)
    assert source.state_dict()["cursor"] == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_fails_is_told_at_its_own_step(rows: Any, workers: int) -> None:
    failing = Watched(rows, OSError(5, "Input/output error"))
    source = PrefetchedSource(PackedSource(failing, rows_per_step=4), workers)
    for _ in range(3):
        source.next_step()
    with pytest.raises(
        UserError, match=r"cannot be read: .*Input/output error; run the same"
    ) as told:
        source.next_step()
    assert "\n" not in str(told.value)
    assert source.state_dict()["cursor"] == 12  # the step that failed was not handed out
    fault = PrefetchedSource(PackedSource(Watched(rows, ZeroDivisionError()), rows_per_step=4), 1)
    with pytest.raises(ZeroDivisionError):
        take([fault], 4)


def test_no_worker_is_the_source_itself_and_fewer_is_refused(rows: Any) -> None:
    source = source_of(rows)
    assert prefetched(source, 0) is source
    with pytest.raises(UserError, match="workers = -1"):
        PrefetchedSource(source, -1)
