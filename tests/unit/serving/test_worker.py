"""The engine thread: shared steps, places, hang-ups, and requests that fail alone."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from glassbox.core.errors import UserError
from glassbox.inference import Engine, SamplingParams
from glassbox.serving.worker import (
    Closed,
    End,
    Failure,
    Item,
    Job,
    QueueFull,
    Result,
    Token,
    Worker,
)
from support.scripted import PATIENCE, Scripted
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
IDS = TOKENIZER.encode("some words that are said")
ONE = SamplingParams()


class Box:
    """Where a job's items go."""

    def __init__(self) -> None:
        self.items: queue.Queue[Item] = queue.Queue()

    def until_end(self) -> list[Item]:
        found = [self.items.get(timeout=PATIENCE)]
        while not isinstance(found[-1], (End, Failure)):
            found.append(self.items.get(timeout=PATIENCE))
        return found

    def job(self, *prompts: Any, work: Iterator[Any] | None = None) -> Job:
        return Job(prompts, self.items.put, work=work)


@pytest.fixture
def make() -> Iterator[Callable[..., Worker]]:
    made: list[Worker] = []

    def start(
        engine: Any, *, max_running: int = 4, max_queue: int = 4, meter: Any = None
    ) -> Worker:
        worker = Worker(engine, max_running=max_running, max_queue=max_queue, meter=meter)
        made.append(worker)
        worker.start()
        return worker

    yield start
    for worker in made:
        gate = getattr(worker.engine, "gate", None)
        if gate is not None:
            gate.set()
        worker.close()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_jobs_share_steps_and_the_model_is_called_from_one_thread(make: Any) -> None:
    engine = Scripted(TOKENIZER, IDS)
    engine.gate.clear()
    worker = make(engine)
    boxes = [Box() for _ in range(3)]
    worker.submit(boxes[0].job(([5], ONE)))
    assert engine.stepping.acquire(timeout=PATIENCE)
    worker.submit(boxes[1].job(([6], ONE), ([7], ONE)))  # two prompts
    worker.submit(boxes[2].job(([8], SamplingParams(n=2))))
    engine.gate.set()
    found = [box.until_end() for box in boxes]
    assert engine.steps == 1 + len(IDS)
    assert engine.threads == {worker._thread.ident}
    for items, count in zip(found, (1, 2, 2), strict=True):
        tokens = [item for item in items[:-1] if isinstance(item, Token)]
        assert len(tokens) == len(items) - 1 == count * len(IDS)
        for index in range(count):
            said = [one.event.token_id for one in tokens if one.index == index]
            assert said == IDS
        assert isinstance(items[-1], End)
    assert worker.num_running == worker.num_waiting == 0


def test_no_more_begin_than_places_and_no_more_wait_than_allowed(make: Any) -> None:
    engine = Scripted(TOKENIZER, IDS)
    engine.gate.clear()
    worker = make(engine, max_running=3, max_queue=2)
    boxes = [Box() for _ in range(5)]
    worker.submit(boxes[0].job(([5], SamplingParams(n=2))))
    worker.submit(boxes[1].job(([5], ONE)))
    for box in boxes[2:4]:
        worker.submit(box.job(([5], ONE)))
    assert engine.stepping.acquire(timeout=PATIENCE)
    until(lambda: worker.num_waiting <= 3)
    with pytest.raises(QueueFull):
        worker.submit(boxes[4].job(([5], ONE)))
    engine.gate.set()
    for box in boxes[:4]:
        assert isinstance(box.until_end()[-1], End)
    assert len(engine.prompts) == 4


@pytest.mark.parametrize("waiting", [False, True])
def test_a_hang_up_frees_the_place_and_the_engine(make: Any, waiting: bool) -> None:
    engine = Scripted(TOKENIZER, IDS)
    engine.gate.clear()
    worker = make(engine, max_running=1, max_queue=1)
    first, second = Box(), Box()
    jobs = [first.job(([5], ONE)), second.job(([6], ONE))]
    for job in jobs:
        worker.submit(job)
    assert engine.stepping.acquire(timeout=PATIENCE)
    until(lambda: worker.num_waiting == 1)
    worker.abort(jobs[waiting])
    if waiting:
        assert worker.num_waiting == 0
    engine.gate.set()
    survivor = first if waiting else second
    assert len(survivor.until_end()) == len(IDS) + 1
    until(lambda: worker.num_running == 0)
    assert engine.running == []
    assert len(engine.prompts) == (1 if waiting else 2)
    worker.abort(jobs[waiting])  # once more does no harm


def test_a_row_that_goes_wrong_harms_no_other(make: Any) -> None:
    engine = Scripted(TOKENIZER, IDS, error_at=2)
    engine.gate.clear()
    worker = make(engine)
    boxes = [Box(), Box()]
    worker.submit(boxes[0].job(([5], SamplingParams(n=2))))
    assert engine.stepping.acquire(timeout=PATIENCE)
    worker.submit(boxes[1].job(([6], ONE)))
    engine.gate.set()
    assert boxes[0].until_end()[-1] == Failure("a row went wrong")
    assert len(boxes[1].until_end()) == len(IDS) + 1
    until(lambda: not worker.num_running)
    assert engine.running == []  # the other answer of the same request was given up


def test_a_step_that_breaks_ends_those_it_served_and_the_next_begin_afresh(make: Any) -> None:
    engine = Scripted(TOKENIZER, IDS, fail_at=3)
    worker = make(engine)
    box = Box()
    worker.submit(box.job(([5], ONE)))
    items = box.until_end()
    assert len(items) == 4
    assert isinstance(items[-1], Failure)
    assert (items[-1].status, "secret" in items[-1].message) == (500, False)
    engine.fail_at = None
    worker.submit(box.job(([5], ONE)))
    assert len(box.until_end()) == len(IDS) + 1


def test_what_the_engine_refuses_is_the_callers_fault(make: Any) -> None:
    worker = make(Engine(tiny_chat_model(TOKENIZER), TOKENIZER))
    box = Box()
    worker.submit(box.job(([5] * 500, ONE)))
    (failure,) = box.until_end()
    assert isinstance(failure, Failure)
    assert failure.status == 400
    assert "context is 128" in failure.message


def test_who_cannot_be_told_is_given_up(make: Any) -> None:
    engine = Scripted(TOKENIZER, IDS)
    worker = make(engine)

    def refuse(item: Item) -> None:
        raise RuntimeError("nobody is there")

    worker.submit(Job([([5], ONE)], refuse))
    box = Box()
    worker.submit(box.job(([5], ONE)))
    assert len(box.until_end()) == len(IDS) + 1
    until(lambda: worker.num_running == 0)
    assert engine.running == []


def test_own_work_is_done_between_steps_in_turns_and_before_the_prompts(make: Any) -> None:
    engine = Scripted(TOKENIZER, IDS * 3)
    order: list[str] = []
    engine.on_step = lambda: order.append("step")
    engine.gate.clear()
    worker = make(engine)
    other = Box()
    worker.submit(other.job(([5], ONE)))
    assert engine.stepping.acquire(timeout=PATIENCE)
    boxes = [Box(), Box()]

    def work(name: str) -> Iterator[str | None]:
        for i in range(3):
            order.append(name)
            yield f"{name}{i}" if i else None

    worker.submit(boxes[0].job(work=work("a")))
    worker.submit(boxes[1].job(([6], ONE), work=work("b")))
    engine.gate.set()
    assert boxes[0].until_end() == [Result("a1"), Result("a2"), End()]
    mine = boxes[1].until_end()
    assert mine[:2] == [Result("b1"), Result("b2")]
    assert len(mine) == 2 + len(engine.ids) + 1
    other.until_end()
    pieces = [what for what in order if what != "step"]
    assert sorted(pieces[:2]) == ["a", "b"]  # by turns
    between = order[order.index("a") : len(order) - order[::-1].index("b")]
    assert between.count("step") >= 4  # nobody waited for all of the work


def test_work_that_fails_fails_alone_and_work_given_up_is_closed(make: Any) -> None:
    worker = make(Scripted(TOKENIZER, IDS))
    closed = threading.Event()

    def fails() -> Iterator[int]:
        yield 1
        raise UserError("what you asked for is nonsense")

    def endless() -> Iterator[None]:
        try:
            while True:
                time.sleep(0.001)
                yield None
        finally:
            closed.set()

    box, forever = Box(), Box()
    job = forever.job(work=endless())
    worker.submit(job)
    worker.submit(box.job(work=fails()))
    assert box.until_end() == [
        Result(1),
        Failure("what you asked for is nonsense", 400, "invalid_parameter"),
    ]
    worker.abort(job)
    assert closed.wait(PATIENCE)
    assert forever.until_end() == [End()]


def test_tokens_are_timed(make: Any) -> None:
    seen: list[tuple[float, float | None, float]] = []

    class Meter:
        def token(self, *, begun: float, previous: float | None, now: float) -> None:
            seen.append((begun, previous, now))

    worker = make(Scripted(TOKENIZER, IDS), meter=Meter())
    box = Box()
    before = time.monotonic()
    worker.submit(box.job(([5], SamplingParams(n=2))))
    box.until_end()
    assert len(seen) == 2 * len(IDS)
    assert [previous for _, previous, _ in seen[:2]] == [None, None]
    assert all(previous is not None and previous <= now for _, previous, now in seen[2:])
    assert all(before <= begun <= now for begun, _, now in seen)


def test_closing_drops_what_is_left(make: Any) -> None:
    engine = Scripted(TOKENIZER, IDS)
    engine.gate.clear()
    worker = make(engine, max_running=1)
    boxes = [Box(), Box()]
    for box in boxes:
        worker.submit(box.job(([5], ONE)))
    assert engine.stepping.acquire(timeout=PATIENCE)
    threading.Timer(0.05, engine.gate.set).start()
    worker.close()
    assert not worker.alive
    assert all(isinstance(box.until_end()[-1], End) for box in boxes)
    assert engine.running == []
    with pytest.raises(Closed):
        worker.submit(boxes[0].job(([5], ONE)))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_is_left_waiting_when_the_thread_itself_ends(make: Any) -> None:
    engine = Scripted(TOKENIZER, IDS)

    def leave() -> None:
        raise SystemExit

    engine.gate.clear()
    worker = make(engine, max_running=1)
    boxes = [Box(), Box()]
    for box in boxes:
        worker.submit(box.job(([5], ONE)))
    assert engine.stepping.acquire(timeout=PATIENCE)
    engine.on_step = leave
    engine.gate.set()
    for box in boxes:
        assert box.until_end() == [Failure("the engine has stopped", 503, "engine_stopped")]
    until(lambda: not worker.alive)
    with pytest.raises(Closed):
        worker.submit(boxes[0].job(([5], ONE)))
