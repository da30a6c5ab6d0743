"""Alarms on the run around the model: repeated data, throughput, memory, a slow rank."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping
from typing import Any

from glassbox.training.alarms.base import Alarm, Detector, push


class RepeatedData(Detector):
    """Rows that were trained on a short while ago.

    Threshold: a quarter of a step's rows or more seen before within a quarter of an epoch (or ever, where
    the data have no end), at three of the last five steps. `repeated_share` is counted by the loop.
    """

    kind = "repeated_data"
    SHARE, OF, TIMES = 0.25, 5, 3

    def __init__(self) -> None:
        super().__init__()
        self.shares: list[float] = []
        self.raised = False

    def step(self, record: Mapping[str, Any]) -> Alarm | None:
        """Count the steps with many repeats."""
        push(self.shares, record.get("repeated_share") or 0.0, self.OF)
        if self.raised or sum(share >= self.SHARE for share in self.shares) < self.TIMES:
            return None
        self.raised = True
        return Alarm(
            self.kind,
            record["step"],
            f"{100 * self.shares[-1]:.0f}% of the rows were trained on a short while ago",
            "remove duplicates (`glassbox data curate`), and check that the source moves on",
        )


class ThroughputLoss(Detector):
    """Training that became slow.

    Threshold: the median of the last 10 tokens_per_second below half the median of the 50 before, of
    60 steps or more.
    """

    kind = "throughput_loss"
    LAST, BEFORE, SHARE = 10, 50, 0.5

    def __init__(self) -> None:
        super().__init__()
        self.speeds: list[float] = []
        self.quiet_until = 0

    def step(self, record: Mapping[str, Any]) -> Alarm | None:
        """Compare the last steps with those before."""
        push(self.speeds, record["tokens_per_second"], self.LAST + self.BEFORE)
        if len(self.speeds) < self.LAST + self.BEFORE or record["step"] < self.quiet_until:
            return None
        now = statistics.median(self.speeds[-self.LAST :])
        usual = statistics.median(self.speeds[: -self.LAST])
        if now >= self.SHARE * usual:
            return None
        self.quiet_until = record["step"] + 10 * self.BEFORE
        return Alarm(
            self.kind,
            record["step"],
            f"{now:,.0f} tokens/s, {usual:,.0f} before",
            "look at data_seconds in metrics.jsonl (raise data.workers), at other processes and at heat",
        )


class MemoryGrowth(Detector):
    """Memory that grows step by step.

    Threshold: over the last 50 steps memory grew by 64 MiB and by 5%, and in each fifth of them. The
    first 20 steps are left out.
    """

    kind = "memory_growth"
    WINDOW, BYTES, SHARE, FROM, PARTS = 50, 64 << 20, 0.05, 20, 5

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[float] = []
        self.seen = 0
        self.raised = False

    def step(self, record: Mapping[str, Any]) -> Alarm | None:
        """Compare over the window."""
        self.seen += 1
        if self.raised or self.seen <= self.FROM or not record.get("memory_bytes"):
            return None
        push(self.sizes, float(record["memory_bytes"]), self.WINDOW)
        if len(self.sizes) < self.WINDOW:
            return None
        marks = [
            self.sizes[min(place * self.WINDOW // self.PARTS, self.WINDOW - 1)]
            for place in range(self.PARTS + 1)
        ]
        grown = marks[-1] - marks[0]
        steady = all(b > a for a, b in itertools.pairwise(marks))
        if not steady or grown < max(self.BYTES, self.SHARE * marks[0]):
            return None
        self.raised = True
        return Alarm(
            self.kind,
            record["step"],
            f"{grown / 2**20:,.0f} MiB more than {self.WINDOW} steps ago",
            "something keeps tensors with their graph: look at hooks and objectives of your own",
        )


class SlowRank(Detector):
    """One rank that the others wait for.

    Threshold: its own seconds of forward and backward above 1.5 times the median of all ranks, at 5 of
    the last 6 measurements.
    """

    kind = "slow_rank"
    TIMES, OF, SHARE = 5, 6, 1.5

    def __init__(self) -> None:
        super().__init__()
        self.slowest: list[float] = []
        self.raised: list[int] = []

    def step(self, record: Mapping[str, Any]) -> Alarm | None:
        """Count how often each rank was the slow one."""
        seconds = record.get("rank_seconds")
        if not seconds or len(seconds) < 2:
            return None
        usual = statistics.median(seconds)
        if len(seconds) == 2:  # the median of two is their mean
            usual = min(seconds)
        rank = max(range(len(seconds)), key=lambda one: seconds[one])
        push(self.slowest, rank if seconds[rank] > self.SHARE * usual else -1, self.OF)
        if rank in self.raised or self.slowest.count(rank) < self.TIMES:
            return None
        self.raised.append(rank)
        return Alarm(
            self.kind,
            record["step"],
            f"rank {rank} takes {seconds[rank]:.3f} s a step, the others {usual:.3f} s",
            "look at what else runs on its machine, at its heat and its network",
            f"rank {rank}",
        )
