"""What became of the documents: counts by step and reason, and some of them to read."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from glassbox.data.curation.limits import TOO_LARGE
from glassbox.data.curation.pieces import LISTED, ReadLog
from glassbox.data.curation.step import Dropped, Record

SAMPLES = 10
SAMPLE_CHARACTERS = 1500
_SUMS = (
    "read",
    "read_bytes",
    "entered",
    "entered_bytes",
    "kept",
    "kept_bytes",
    "num_corrupt",
    "read_seconds",
    "write_seconds",
)


@dataclass
class StepTally:
    """One step's counts. changed: records whose text it altered. seconds: over all workers."""

    records_in: int = 0
    records_out: int = 0
    changed: int = 0
    seconds: float = 0.0
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass
class Tally:
    """Counts of a shard, a pass or a whole run; sums do not depend on who counted what.

    Samples are those whose ids have the smallest hashes: a fair draw, the same in every run.
    """

    read: int = 0
    read_bytes: int = 0
    entered: int = 0
    """Records that came into a pass, the first and the later ones alike."""
    entered_bytes: int = 0
    kept: int = 0
    kept_bytes: int = 0
    num_corrupt: int = 0
    corrupt: list[str] = field(default_factory=list)
    repaired: Counter[str] = field(default_factory=Counter)
    steps: dict[str, StepTally] = field(default_factory=dict)
    read_seconds: float = 0.0
    write_seconds: float = 0.0
    kept_samples: list[dict[str, Any]] = field(default_factory=list)
    dropped_samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def step(self, name: str) -> StepTally:
        """The counts of a step."""
        return self.steps.setdefault(name, StepTally())

    def add_log(self, log: ReadLog) -> None:
        """Take over what reading met."""
        self.num_corrupt += log.num_corrupt
        self.corrupt = (self.corrupt + [str(entry) for entry in log.corrupt])[:LISTED]
        self.repaired.update(log.repaired)
        if log.num_large:
            self.read += log.num_large
            self.step("source").dropped[TOO_LARGE] += log.num_large
            samples = self.dropped_samples.setdefault(f"source: {TOO_LARGE}", [])
            for large in log.large:
                extra = {"step": "source", "reason": TOO_LARGE, "detail": large.detail}
                _sample(samples, Record("", large.id), extra)

    def add_dropped(self, step: str, record: Record, dropped: Dropped) -> None:
        """Count a refusal."""
        self.step(step).dropped[dropped.reason] += 1
        samples = self.dropped_samples.setdefault(f"{step}: {dropped.reason}", [])
        extra = {"step": step, "reason": dropped.reason, "detail": dropped.detail}
        _sample(samples, record, extra)

    def add_kept(self, record: Record, size: int) -> None:
        """Count a document that is written."""
        self.kept += 1
        self.kept_bytes += size
        _sample(self.kept_samples, record, {})

    def add(self, other: Tally) -> None:
        """Sum another tally in; `self` comes first in the order of the corpus."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.corrupt = (self.corrupt + other.corrupt)[:LISTED]
        self.repaired.update(other.repaired)
        for name, theirs in other.steps.items():
            mine = self.step(name)
            mine.records_in += theirs.records_in
            mine.records_out += theirs.records_out
            mine.changed += theirs.changed
            mine.seconds += theirs.seconds
            mine.dropped.update(theirs.dropped)
        self.kept_samples = _merged(self.kept_samples, other.kept_samples)
        for reason, samples in other.dropped_samples.items():
            self.dropped_samples[reason] = _merged(self.dropped_samples.get(reason, []), samples)

    @property
    def num_dropped(self) -> int:
        """All refusals of all steps."""
        return sum(sum(step.dropped.values()) for step in self.steps.values())

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        # not `asdict`, which makes nonsense of a Counter
        steps = {
            name: {**vars(step), "dropped": dict(step.dropped)} for name, step in self.steps.items()
        }
        return {**vars(self), "steps": steps, "repaired": dict(self.repaired)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Tally:
        """What `to_json` gave."""
        steps = {
            name: StepTally(**{**step, "dropped": Counter(step["dropped"])})
            for name, step in content["steps"].items()
        }
        return cls(**{**content, "steps": steps, "repaired": Counter(content["repaired"])})


def total(tallies: Iterable[Tally]) -> Tally:
    """The sum of tallies in the order of the corpus."""
    result = Tally()
    for tally in tallies:
        result.add(tally)
    return result


def _sample(samples: list[dict[str, Any]], record: Record, extra: dict[str, Any]) -> None:
    rank = hashlib.blake2b(record.id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    if len(samples) == SAMPLES and rank >= samples[-1]["rank"]:
        return
    text = record.text[:SAMPLE_CHARACTERS]
    entry = {"rank": rank, "id": record.id, **extra, "text": text, "length": len(record.text)}
    samples.append(entry)
    samples.sort(key=_rank)
    del samples[SAMPLES:]


def _merged(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted([*one, *other], key=_rank)[:SAMPLES]


def _rank(sample: Mapping[str, Any]) -> tuple[str, str]:
    return sample["rank"], sample["id"]
