"""What every benchmark shares: options, turns, medians, the machine in one line, and results as JSON.

A benchmark is a script that measures Glassbox and its peer in the same run, in turns (A B A B ...),
and reports medians and ratios:

    bench = Bench(__doc__)
    options = bench.options()
    times = bench.in_turns({"ours": ours, "transformers": theirs})
    bench.row(batch=1, ours=60 / times["ours"].median, ratio=times["transformers"] / times["ours"])
    bench.finish()

Common options: --threads, --repeats, --json FILE. With one thread, processor seconds are counted,
which other processes disturb less than the clock; with several, the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

PEERS = ("transformers", "tokenizers", "tiktoken", "trl", "datasketch", "gensim", "peft")


@dataclass(frozen=True)
class Times:
    """Seconds of the same work, once a round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        """The smallest, where others on the machine only ever slow a round."""
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """(largest - smallest) / median: how far the rounds lie apart."""
        return (max(self.seconds) - min(self.seconds)) / self.median

    def __truediv__(self, other: Times) -> float:
        """The ratio of the medians."""
        return self.median / other.median


class Bench:
    """One benchmark's options, measurements and report."""

    def __init__(self, doc: str | None, *, threads: int = 2, repeats: int = 5) -> None:
        self.title = (doc or "").strip().partition("\n")[0]
        self.parser = argparse.ArgumentParser(
            description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.parser.add_argument("--threads", type=int, default=threads, help="of the processor")
        self.parser.add_argument(
            "--repeats", type=int, default=repeats, help="rounds; their median"
        )
        self.parser.add_argument("--json", type=Path, help="write the rows, machine and versions")
        self.rows: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {}
        self.threads, self.repeats = threads, repeats
        self.json: Path | None = None
        self._columns: tuple[str, ...] = ()

    def options(self, arguments: list[str] | None = None) -> argparse.Namespace:
        """Parse the command line, set torch's threads, and print the machine in one line."""
        options = self.parser.parse_args(arguments)
        self.threads, self.repeats, self.json = options.threads, options.repeats, options.json
        torch.set_num_threads(self.threads)
        print(f"{self.title}\n{machine_line(self.threads)}", flush=True)
        if (load := busy()) is not None:
            print(f"note: the machine is busy (load {load:.1f}); ratios hold, times do not")
        return options

    @property
    def clock(self) -> Callable[[], float]:
        """Processor seconds on one thread, else seconds."""
        return time.process_time if self.threads == 1 else time.perf_counter

    def in_turns(
        self, runs: Mapping[str, Callable[[], object]], *, repeats: int | None = None, warm: int = 1
    ) -> dict[str, Times]:
        """Seconds of each of `runs`, A B C A B C ..., after `warm` rounds that do not count."""
        clock = self.clock

        def timed(run: Callable[[], object]) -> float:
            start = clock()
            run()
            return clock() - start

        return self.in_turns_by(
            {name: partial(timed, run) for name, run in runs.items()}, repeats=repeats, warm=warm
        )

    def in_turns_by(
        self, runs: Mapping[str, Callable[[], float]], *, repeats: int | None = None, warm: int = 1
    ) -> dict[str, Times]:
        """The same of runs that return the seconds of what counts in them (by `clock`)."""
        rounds = self.repeats if repeats is None else repeats
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(warm + rounds):
            for name, run in runs.items():
                taken = run()
                if number >= warm:
                    seconds[name].append(taken)
        return {name: Times(tuple(values)) for name, values in seconds.items()}

    def row(self, **values: Any) -> None:
        """Keep and print one row of the table; a new set of columns prints a new header."""
        if tuple(values) != self._columns:
            self._columns = tuple(values)
            print("  ".join(f"{name:>{_width(name)}}" for name in values))
        print("  ".join(f"{_text(v):>{_width(n)}}" for n, v in values.items()), flush=True)
        self.rows.append(dict(values))

    def fact(self, **values: Any) -> None:
        """Keep and print figures that belong to no row, such as a limit measured in the same run."""
        self.facts.update(values)
        print("; ".join(f"{name.replace('_', ' ')} {_text(v)}" for name, v in values.items()))

    def finish(self) -> None:
        """Write `--json`: title, options' threads and repeats, machine, versions, facts, rows."""
        if self.json is None:
            return
        report = {
            "benchmark": Path(sys.argv[0]).name,
            "title": self.title,
            "arguments": sys.argv[1:],
            "date": time.strftime("%Y-%m-%d"),
            "threads": self.threads,
            "repeats": self.repeats,
            "machine": machine(),
            "versions": versions(),
            "facts": self.facts,
            "rows": self.rows,
        }
        self.json.parent.mkdir(parents=True, exist_ok=True)
        self.json.write_text(json.dumps(report, indent=1, default=str) + "\n", encoding="utf-8")
        print(f"written: {self.json}")


def machine() -> dict[str, Any]:
    """Processor, cores, memory, what the processor can, accelerator."""
    name, flags = platform.processor() or platform.machine(), ""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            if key.strip() == "flags":
                flags = value
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    memory = 0
    with contextlib.suppress(OSError, ValueError, AttributeError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": name,
        "can": [flag for flag in known if flag in flags.split()],
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_bytes": memory,
        "accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def machine_line(threads: int) -> str:
    """The same for people."""
    found = machine()
    where = found["accelerator"] or f"{found['processor']} ({', '.join(found['can']) or 'no AVX2'})"
    return f"{where}, {found['cores']} cores, {threads} threads, torch {torch.__version__}"


def versions() -> dict[str, str]:
    """Of Python, torch and the peers that are installed."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("glassbox-lm", *PEERS):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def busy() -> float | None:
    """The load of the last minute where it is above half a core, else None."""
    with contextlib.suppress(OSError, AttributeError):
        load = os.getloadavg()[0]
        return load if load > 0.5 else None
    return None


def product_rate(
    dtype: torch.dtype, shapes: Mapping[str, tuple[int, int, int]], *, seconds: float = 0.3
) -> dict[str, float]:
    """FLOP/s of matrix products (m, k) x (k, n), best of several short runs: no program can pass it."""
    found = {}
    for name, (m, k, n) in shapes.items():
        a, b = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
        best, until = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < until:
            start = time.perf_counter()
            torch.nn.functional.linear(a, b)
            best = min(best, time.perf_counter() - start)
        found[name] = 2.0 * m * k * n / best
    return found


def read_rate(num_bytes: int = 1 << 29, *, repeats: int = 5) -> float:
    """Bytes a second at which memory is read, by summing an array larger than any cache."""
    numbers = torch.ones(num_bytes // 4)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        numbers.sum()
        best = min(best, time.perf_counter() - start)
    return num_bytes / best


@contextlib.contextmanager
def peak_memory() -> Iterator[dict[str, int]]:
    """Bytes that the process held at its peak above what it held before, where Linux tells."""
    found = {"bytes": 0}
    before = _status("VmRSS")
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak of before
    yield found
    found["bytes"] = max(0, _status("VmHWM") - before)


def _status(key: str) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return 1024 * int(text.partition(f"{key}:")[2].split(maxsplit=1)[0])
    return 0


def _width(name: str) -> int:
    return max(9, len(name))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
