"""A watchdog over ranks: says which one hangs, and where, instead of leaving all waiting for it."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist

from glassbox.core.distributed import Group

EXIT_CODE = 75
"""Of a rank that was waiting for one that hangs (EX_TEMPFAIL: the run goes on when it is started again)."""


class Watchdog:
    """Each rank tells where it is; one that gets no further for `seconds` looks where the others are.

    The rank at the earliest place is the one that hangs: ranks that wait for it in a sum are further. Every
    rank prints its own stack and ends with `EXIT_CODE`, so that torchrun ends or restarts all. Where all
    are at the same place (a sum between layers), all are named, and the stacks tell.
    """

    def __init__(self, group: Group, seconds: float) -> None:
        self.group = group
        self.seconds = seconds
        self._count = 0
        self._step = 0
        self._changed = time.monotonic()
        self._ended = threading.Event()
        # a connection of its own: the main thread's may be waiting for an answer
        store: Any = dist.distributed_c10d._get_default_store()
        self._store = store.clone()
        self._lock = threading.Lock()

    def at(self, phase: str, step: int | None = None) -> None:
        """This rank goes on to a phase of a step; `step` where it is a new one."""
        with self._lock:
            self._count += 1
            self._step = self._step if step is None else step
            self._changed = time.monotonic()
            self._store.set(_key(self.group.rank), f"{self._count}|{self._step}|{phase}")

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch until the end of the block."""
        self.at("start")
        thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self.seconds / 5)):
            if time.monotonic() - self._changed > self.seconds:
                self._tell()
                faulthandler.dump_traceback(sys.stderr, all_threads=True)
                sys.stderr.flush()
                os._exit(EXIT_CODE)

    def _tell(self) -> None:
        with self._lock:
            places = {rank: self._place(rank) for rank in range(self.group.world_size)}
        first = min(count for count, _, _ in places.values())
        hanging = [rank for rank, place in places.items() if place[0] == first]
        _, step, phase = places[hanging[0]]
        who = f"rank {hanging[0]} hangs" if len(hanging) == 1 else f"ranks {hanging} hang"
        line = f"  {who} in step {step}, {phase}, for more than {self.seconds:g} s; rank {self.group.rank} stops\n"
        os.write(2, line.encode())

    def _place(self, rank: int) -> tuple[int, int, str]:
        if not self._store.check([_key(rank)]):
            return 0, 0, "before the first step"
        count, step, phase = self._store.get(_key(rank)).decode().split("|")
        return int(count), int(step), phase


def _key(rank: int) -> str:
    return f"glassbox/watchdog/{rank}"
