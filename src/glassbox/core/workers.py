"""Tasks in worker processes: a crashed worker is reported, orphaned workers exit by themselves."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from glassbox.core.errors import UserError, explain_system

Task = TypeVar("Task")
Result = TypeVar("Result")


class WorkerDied(UserError):
    """A worker process ended without returning a result."""


def run_tasks(
    work: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Task, Result]]:
    """Yield each task with its result, in order of completion; one worker means this process
    itself.

    `work` is pickled once for each worker, a task when a worker is free for it, so no more tasks
    than
    workers are in memory. After `stop()` returns True no further task is started. Raises the
    exception of a task (UserError unchanged, others with the worker's traceback), and WorkerDied.
    """
    if workers == 1:
        for task in tasks:
            if stop():
                return
            yield task, work(task)
        return
    with contextlib.ExitStack() as stack:
        pool = [_Worker(work, number) for number in range(1, workers + 1)]
        for worker in pool:
            stack.callback(worker.end)
        yield from _dispatch(pool, iter(tasks), stop)


def _dispatch(
    pool: list[_Worker[Task]], tasks: Iterator[Task], stop: Callable[[], bool]
) -> Iterator[tuple[Task, Any]]:
    idle = list(reversed(pool))
    busy: dict[Connection, _Worker[Task]] = {}
    more = True
    while more or busy:
        while more and idle and not stop():
            task = next(tasks, None)
            if task is None:
                more = False
                break
            worker = idle.pop()
            worker.send(task)
            busy[worker.connection] = worker
        if stop():
            more = False
        for connection in wait(list(busy), timeout=0.5):
            assert isinstance(connection, Connection)
            worker = busy.pop(connection)
            task, result = worker.receive()
            idle.append(worker)
            yield task, result


class _Worker(Generic[Task]):
    def __init__(self, work: Callable[[Task], Any], number: int) -> None:
        # afresh: a fork of a process with threads may hang, and would inherit locks
        context = multiprocessing.get_context("spawn")
        self.number = number
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_serve, args=(theirs, work), daemon=True, name=f"worker-{number}"
        )
        with _no_keyboard():
            self.process.start()
        theirs.close()  # so that its death closes the pipe
        self.task: Task | None = None

    def send(self, task: Task) -> None:
        self.task = task
        try:
            self.connection.send(task)
        except (BrokenPipeError, ConnectionError):
            self._died()

    def receive(self) -> tuple[Task, Any]:
        try:
            kind, content = self.connection.recv()
        except (EOFError, ConnectionError):
            self._died()
        assert self.task is not None
        return self.task, unpack((kind, content), f"worker {self.number}")

    def _died(self) -> Any:
        self.process.join(5)
        code = self.process.exitcode
        how = f"ended with {code}"
        if code is not None and code < 0:
            how = f"was killed by signal {-code}"
            how += " (out of memory?)" if -code == signal.SIGKILL else ""
        raise WorkerDied(
            f"worker {self.number} {how} at {self.task}; run the same command again, with fewer workers "
            "if memory is short"
        )

    def end(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join(5)


@contextlib.contextmanager
def _no_keyboard() -> Iterator[None]:
    """What is started in the block never gets a Ctrl-C, not even before it can say so; we get it after."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # which else would unblock the signal as it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def answer(work: Callable[[Task], Any], task: Task) -> tuple[str, Any]:
    """Run a task and encode the outcome: "done" with its result, or a description of the failure."""
    try:
        return "done", work(task)
    except UserError as error:
        return "user", str(error)
    except Exception as error:
        explained = explain_system(error) if isinstance(error, OSError) else None
        if explained:
            return "user", str(explained)
        return "fault", traceback.format_exc()


def unpack(said: tuple[str, Any], who: str) -> Any:
    """Return the result in an `answer`, or raise its failure."""
    kind, content = said
    if kind == "user":
        raise UserError(content)
    if kind == "fault":
        raise RuntimeError(f"{who} failed:\n{content}")
    return content


def _serve(connection: Connection, work: Callable[[Any], Any]) -> None:
    """Main loop of a worker: run tasks until the pipe closes. The parent handles Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(answer(work, task))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
