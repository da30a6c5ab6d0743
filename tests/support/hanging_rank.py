"""A run of two ranks, one of which hangs at its third step: FOLDER, started by torchrun."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from glassbox.core.distributed import process_group
from glassbox.training.parallel.config import ParallelConfig
from support.parallel_runs import trainer
from support.tiny_run import tiny_rows


class Hanging:
    """A source that gives no third step's rows."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def next_step(self) -> Sequence[Any]:
        self.calls += 1
        if self.calls == 3:
            time.sleep(600)
        rows: Sequence[Any] = self.inner.next_step()
        return rows


def main(folder: Path) -> None:
    """Rank 1 hangs."""
    torch.set_num_threads(1)
    with process_group("cpu") as group:
        if group.is_main:
            tiny_rows(folder)
        group.barrier()
        run = trainer(
            folder, "adamw", group=group, parallel=ParallelConfig(fsdp=2, timeout_seconds=6)
        )
        if group.rank == 1:
            run.source = Hanging(run.source)
        run.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
