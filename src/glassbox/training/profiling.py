"""Where a few steps' time goes: a trace to look at and a table to read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from glassbox.core.files import write_bytes

SKIPPED = 3
"""Steps before the first that is profiled: they compile, and fill caches."""
ROWS = 25


class StepProfiler:
    """Profiles steps `SKIPPED` + 1 to `SKIPPED` + `steps` of a run, counted from where it began or went on.

    folder/trace.json opens in Perfetto or chrome://tracing; folder/table.txt lists the operations by
    the time spent in themselves.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder = folder
        self.steps = steps
        self.taken = 0
        self.table: str | None = None
        self._profile: profile | None = None

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """One step of the run inside."""
        self.taken += 1
        if self.taken == SKIPPED + 1:
            kinds = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                kinds.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=kinds)
            self._profile.start()
        yield
        if self._profile is not None and self.taken == SKIPPED + self.steps:
            self.finish()

    def finish(self) -> None:
        """Write what was seen; also of fewer steps, where the run is over before."""
        if self._profile is None:
            return
        self._profile.stop()
        on_gpu = torch.cuda.is_available()
        self.table = self._profile.key_averages().table(
            sort_by="self_cuda_time_total" if on_gpu else "self_cpu_time_total",
            row_limit=ROWS,
            max_name_column_width=60,
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        self._profile.export_chrome_trace(str(self.folder / "trace.json"))
        write_bytes(self.folder / "table.txt", self.table.encode())
        self._profile = None
