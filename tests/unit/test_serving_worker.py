"""The engine thread: turns, places, hang-ups, and requests that fail alone."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import pytest

from glassbox.core.errors import UserError
from glassbox.inference.engine import TokenEvent
from glassbox.serving.worker import Closed, Delta, End, Failure, Item, Job, QueueFull, Worker

PATIENCE = 30.0


class Probe:
    """Streams that report what is done to them, and that a test can hold up."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.closed: queue.Queue[str] = queue.Queue()
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.stepping = threading.Semaphore(0)

    def stream(
        self, name: str, length: int, *, error: Exception | None = None
    ) -> Iterator[TokenEvent]:
        try:
            for i in range(length):
                self.stepping.release()
                assert self.gate.wait(PATIENCE)
                self.threads.add(threading.get_ident())
                self.steps.append(name)
                if error is not None and i == length - 1:
                    raise error
                yield TokenEvent(i, name, None, "stop" if i == length - 1 else None)
        finally:
            self.closed.put(name)


class Box:
    """Where a job's items go."""

    def __init__(self) -> None:
        self.items: queue.Queue[Item] = queue.Queue()

    def until_end(self) -> list[Item]:
        found = [self.items.get(timeout=PATIENCE)]
        while not isinstance(found[-1], (End, Failure)):
            found.append(self.items.get(timeout=PATIENCE))
        return found


@pytest.fixture
def make() -> Iterator[Callable[..., Worker]]:
    made: list[Worker] = []

    def worker(max_running: int = 4, max_queue: int = 4) -> Worker:
        made.append(Worker(max_running=max_running, max_queue=max_queue))
        made[-1].start()
        return made[-1]

    yield worker
    for one in made:
        one.close()
        assert not one.alive


def test_requests_take_turns_token_by_token_in_one_thread(make: Callable[..., Worker]) -> None:
    worker, probe = make(), Probe()
    probe.gate.clear()
    boxes = [Box() for _ in range(3)]
    worker.submit(Job([probe.stream("a", 4)], boxes[0].items.put))
    assert probe.stepping.acquire(timeout=PATIENCE)  # a's first step is under way
    # one that wants two choices gets no more turns than one that wants one
    worker.submit(Job([probe.stream("b", 2), probe.stream("B", 2)], boxes[1].items.put))
    worker.submit(Job([probe.stream("c", 2)], boxes[2].items.put))
    probe.gate.set()
    items = [box.until_end() for box in boxes]
    assert "".join(probe.steps) == "aabcabcaBB"
    assert items[1] == [
        Delta(0, "b", None),
        Delta(0, "b", "stop"),
        Delta(1, "B", None),
        Delta(1, "B", "stop"),
        End(),
    ]
    assert len(probe.threads) == 1
    assert threading.get_ident() not in probe.threads


def test_the_line_is_bounded_and_whoever_leaves_it_frees_the_place_at_once(
    make: Callable[..., Worker],
) -> None:
    worker, probe = make(max_running=1, max_queue=1), Probe()
    probe.gate.clear()
    running, waiting, late = Box(), Box(), Box()
    worker.submit(Job([probe.stream("r", 3)], running.items.put))
    assert probe.stepping.acquire(timeout=PATIENCE)
    held = Job([probe.stream("w", 3)], waiting.items.put)
    worker.submit(held)
    assert (worker.num_running, worker.num_waiting) == (1, 1)
    with pytest.raises(QueueFull):
        worker.submit(Job([probe.stream("x", 1)], Box().items.put))
    worker.abort(held)
    assert worker.num_waiting == 0
    worker.submit(Job([probe.stream("l", 1)], late.items.put))
    probe.gate.set()
    assert isinstance(running.until_end()[-1], End)
    assert isinstance(late.until_end()[-1], End)
    assert "".join(probe.steps) == "rrrl"
    assert waiting.items.empty()


def test_a_place_is_free_when_the_end_is_heard(make: Callable[..., Worker]) -> None:
    worker, probe = make(max_running=1, max_queue=0), Probe()
    for _ in range(50):
        box = Box()
        worker.submit(Job([probe.stream("a", 1)], box.items.put))
        box.until_end()


def test_a_hang_up_closes_the_stream_and_the_choices_not_begun(
    make: Callable[..., Worker],
) -> None:
    worker, probe = make(), Probe()
    gone, other = Box(), Box()
    job = Job([probe.stream("g", 10**9), probe.stream("never", 1)], gone.items.put)
    worker.submit(job)
    gone.items.get(timeout=PATIENCE)
    worker.submit(Job([probe.stream("o", 20)], other.items.put))
    worker.abort(job)
    assert probe.closed.get(timeout=PATIENCE) == "g"
    assert len(other.until_end()) == 21
    assert "never" not in probe.steps
    assert worker.num_running == 0
    worker.abort(job)  # once more changes nothing


@pytest.mark.parametrize(
    ("error", "words"),
    [(RuntimeError("secret detail"), "its log says how"), (UserError("weights broken"), "broken")],
)
def test_a_request_fails_alone(
    make: Callable[..., Worker],
    error: Exception,
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker, probe = make(), Probe()
    bad, good = Box(), Box()
    worker.submit(Job([probe.stream("b", 2, error=error)], bad.items.put))
    worker.submit(Job([probe.stream("g", 5)], good.items.put))
    last = bad.until_end()[-1]
    assert isinstance(last, Failure)
    assert words in last.message
    assert "secret" not in last.message
    assert len(good.until_end()) == 6
    assert str(error) in caplog.text


def test_a_listener_that_fails_harms_nobody(
    make: Callable[..., Worker], caplog: pytest.LogCaptureFixture
) -> None:
    worker, probe = make(), Probe()

    def deaf(item: Item) -> None:
        raise RuntimeError("no event loop")

    worker.submit(Job([probe.stream("d", 5)], deaf))
    box = Box()
    worker.submit(Job([probe.stream("g", 5)], box.items.put))
    assert len(box.until_end()) == 6
    assert worker.alive
    assert "no event loop" in caplog.text


def test_closing_drops_what_is_left_and_takes_nothing_new() -> None:
    worker, probe, box = Worker(max_running=1, max_queue=2), Probe(), Box()
    worker.start()
    for name in ("r", "w"):
        worker.submit(Job([probe.stream(name, 10**9)], box.items.put))
    box.items.get(timeout=PATIENCE)
    worker.close()
    assert not worker.alive
    assert probe.closed.get(timeout=PATIENCE) == "r"
    assert "w" not in probe.steps
    with pytest.raises(Closed):
        worker.submit(Job([probe.stream("n", 1)], box.items.put))
