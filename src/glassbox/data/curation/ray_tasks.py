"""Tasks on Ray: shards made on every machine of a cluster, or of one that is started for the run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from glassbox.core.errors import UserError
from glassbox.core.workers import WorkerDied, answer, unpack

Task = TypeVar("Task")
Result = TypeVar("Result")

_STORE_BYTES = 100 << 20  # near Ray's least: shards go through files, not through its store


@contextlib.contextmanager
def ray_cluster(workers: int) -> Iterator[None]:
    """A Ray to run on: the one that is connected, that of RAY_ADDRESS, or one of `workers` CPUs here.

    What was started or connected is left again in the end. Raises UserError where Ray is missing or
    cannot be reached.
    """
    ray = need_ray()
    if ray.is_initialized():
        yield
        return
    # Ray would tell its makers of each cluster that starts, which nobody has asked for
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS")
    own = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    try:
        ray.init(
            address or "local", log_to_driver=False, logging_level="error", **{} if address else own
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"of RAY_ADDRESS = {address}" if address else "on this machine"
        raise UserError(f"runner: no Ray {where}: {' '.join(str(error).split())[:300]}") from None
    try:
        yield
    finally:
        ray.shutdown()


def need_ray() -> Any:
    """The package. Raises UserError where it is not installed."""
    try:
        import ray
    except ImportError:
        raise UserError(
            'runner = ray needs the package ray; pip install "glassbox-lm[cluster]"'
        ) from None
    return ray


def run_on_ray(
    work: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Task, Result]]:
    """`run_tasks` on the connected Ray: at most `workers` tasks at once, as they get done.

    A task whose machine is lost is done again elsewhere, which is what Ray does by itself (three times);
    files that are written atomically do not mind. Raises as `run_tasks` does.
    Tested against: `run_tasks`, the same bytes.
    """
    ray = need_ray()
    shared = ray.put(work)
    remote = ray.remote(num_cpus=1)(answer)
    source = iter(tasks)
    running: dict[Any, Task] = {}
    more = True
    try:
        while more or running:
            while more and len(running) < workers and not stop():
                task = next(source, None)
                if task is None:
                    more = False
                    break
                running[remote.remote(shared, task)] = task
            more = more and not stop()
            done, _ = ray.wait(list(running), timeout=0.5) if running else ([], [])
            for reference in done:
                task = running.pop(reference)
                yield task, unpack(_result(ray, reference, task), "a worker of Ray")
    finally:
        for reference in running:
            ray.cancel(reference)


def _result(ray: Any, reference: Any, task: object) -> tuple[str, Any]:
    try:
        found: tuple[str, Any] = ray.get(reference)
    except ray.exceptions.RayError as error:
        *_, why = str(error).strip().splitlines() or [type(error).__name__]
        raise WorkerDied(
            f"a worker of Ray ended at {task} ({why.strip()}); nothing is lost: run the same command to "
            "go on, with fewer workers if memory is short"
        ) from None
    return found
