"""One shard through one stretch of steps: what a worker does with a task."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from glassbox.core.errors import UserError
from glassbox.core.files import atomic_writer, write_json
from glassbox.data.curation.limits import TOO_LARGE, TOO_SLOW, Limits, TooSlow, time_limit
from glassbox.data.curation.pieces import Piece, ReadLog
from glassbox.data.curation.shard_files import (
    DOCUMENTS,
    Format,
    LateFile,
    Write,
    document_writer,
    json_line,
    read_records,
    read_verdicts,
    write_signatures,
)
from glassbox.data.curation.step import (
    CorpusStep,
    Dropped,
    Prepares,
    Record,
    RecordStep,
    RevisingStep,
    SignsMany,
)
from glassbox.data.curation.tally import StepTally, Tally

_GROUP_CHARACTERS = 1 << 16
_RECORD_COST = 64  # so that a group of empty records has an end too

Named = tuple[str, RecordStep]
NamedCorpus = tuple[str, "CorpusStep | RevisingStep"]


@dataclass(frozen=True)
class Pass:
    """A stretch of steps between two barriers.

    before: the corpus step whose verdicts are carried out first. after: the one that signatures are
    made for; None: this is the last pass, which writes the documents.
    """

    number: int
    before: NamedCorpus | None
    steps: tuple[Named, ...]
    after: NamedCorpus | None


def plan_passes(
    steps: Sequence[tuple[str, RecordStep | CorpusStep | RevisingStep]],
) -> list[Pass]:
    """The steps of a run, cut at each that compares records with one another."""
    passes: list[Pass] = []
    before: NamedCorpus | None = None
    held: list[Named] = []
    for name, step in steps:
        if isinstance(step, (RevisingStep, CorpusStep)):
            passes.append(Pass(len(passes), before, tuple(held), (name, step)))
            before, held = (name, step), []
        else:
            held.append((name, step))
    passes.append(Pass(len(passes), before, tuple(held), None))
    return passes


@dataclass(frozen=True)
class ShardTask:
    """A shard to be worked on; `pieces` in the first pass, later its file of the pass before."""

    number: int
    pieces: tuple[Piece, ...] = ()

    def __str__(self) -> str:
        return f"shard {shard_name(self.number)}"


def shard_name(number: int) -> str:
    """A shard's number as its files are called."""
    return f"{number:05d}"


@dataclass(frozen=True)
class PassWork:
    """Carries a shard through a pass and leaves its files, its marker last."""

    stretch: Pass
    folder: Path
    format: Format
    keep_dropped: bool
    strict: bool
    limits: Limits = field(default_factory=Limits)

    @property
    def work(self) -> Path:
        """Where this pass leaves what the next one reads."""
        return self.folder / "work" / f"pass-{self.stretch.number}"

    def marker(self, number: int) -> Path:
        """The file that says that a shard is whole; it holds the shard's tally."""
        return self.work / f"{shard_name(number)}.done.json"

    def output(self, number: int) -> Path:
        """Where a shard's records go."""
        name = shard_name(number)
        if self.stretch.after is None:
            return self.folder / DOCUMENTS / f"{name}.{self.format}"
        return self.work / f"{name}.jsonl"

    def signatures(self, number: int) -> Path:
        """The file of a shard's signatures, which `decide` reads."""
        return self.work / f"{shard_name(number)}.signatures"

    def verdicts(self, number: int) -> Path:
        """What `decide` said about a shard."""
        return self.work / f"{shard_name(number)}.verdicts.json"

    def dropped(self, number: int) -> Path:
        """Where the records that this pass drops are kept aside."""
        return self.folder / "dropped" / f"{shard_name(number)}.{self.stretch.number}.jsonl"

    def __call__(self, task: ShardTask) -> Tally:
        """Work on one shard."""
        tally = Tally()
        log = ReadLog(self.strict, self.limits)
        for _, record_step in self.stretch.steps:
            if isinstance(record_step, Prepares):
                record_step.prepare()
        with contextlib.ExitStack() as stack:
            limited = stack.enter_context(time_limit(self.limits.record_seconds))
            aside = stack.enter_context(LateFile(self.dropped(task.number)))
            shard = _Shard(self, task, tally, log, aside if self.keep_dropped else None, limited)
            last = self.stretch.after is None
            format: Format = self.format if last else "jsonl"
            write = stack.enter_context(document_writer(self.output(task.number), format))
            if self.stretch.after is None:
                for record in shard.records():
                    _timed_write(write, record, tally)
            else:
                name, step = self.stretch.after
                counts = tally.step(name)
                stream = stack.enter_context(atomic_writer(self.signatures(task.number)))
                for record, signature in _signed(step, shard.records(), counts):
                    write_signatures(stream, record.id, signature)
                    _timed_write(write, record, tally)
                tally.kept, tally.kept_bytes, tally.kept_samples = 0, 0, []
        tally.add_log(log)
        write_json(self.marker(task.number), tally.to_json(), indent=None)
        return tally


def _signed(
    step: CorpusStep | RevisingStep, records: Iterator[Record], counts: StepTally
) -> Iterator[tuple[Record, bytes]]:
    """Records with their signatures, which are made for some at once."""
    for group in _groups(records):
        began = time.perf_counter()
        if isinstance(step, SignsMany):
            signatures = step.signatures(group)
        else:
            signatures = [step.signature(record) for record in group]
        counts.seconds += time.perf_counter() - began
        yield from zip(group, signatures, strict=True)


def _groups(records: Iterator[Record]) -> Iterator[list[Record]]:
    group: list[Record] = []
    size = 0
    for record in records:
        group.append(record)
        size += len(record.text) + _RECORD_COST
        if size >= _GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _timed_write(write: Write, record: Record, tally: Tally) -> None:
    began = time.perf_counter()
    write(record)
    tally.add_kept(record, len(record.text.encode("utf-8", "replace")))
    tally.write_seconds += time.perf_counter() - began


@dataclass
class _Shard:
    """The records of a shard that survive a pass, each refusal counted on the way."""

    work: PassWork
    task: ShardTask
    tally: Tally
    log: ReadLog
    aside: LateFile | None
    limited: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext

    def records(self) -> Iterator[Record]:
        seen: set[str] = set()
        source = self._decided() if self.work.stretch.before else self._read()
        for record in source:
            for survivor in self._through_steps(record):
                if survivor.id in seen:
                    raise RuntimeError(
                        f"two records are called '{survivor.id}'; a step that makes several "
                        "records of one must name them apart"
                    )
                seen.add(survivor.id)
                yield survivor

    def _read(self) -> Iterator[Record]:
        tally = self.tally
        for piece in self.task.pieces:
            began = time.perf_counter()
            for record in piece.read(self.log):
                size = self._entered(record)
                tally.read += 1
                tally.read_bytes += size
                tally.read_seconds += time.perf_counter() - began
                if size > self.log.limits.record_bytes:
                    detail = f"{size:,} bytes, at most {self.log.limits.record_bytes:,}"
                    self._drop("source", record, Dropped(TOO_LARGE, detail))
                elif record.text and not record.text.isspace():
                    yield record
                else:
                    self._drop("source", record, Dropped("empty"))
                began = time.perf_counter()
            tally.read_seconds += time.perf_counter() - began

    def _decided(self) -> Iterator[Record]:
        """The records of the pass before, as its corpus step decided."""
        assert self.work.stretch.before is not None
        name, step = self.work.stretch.before
        counts = self.tally.step(name)
        number = self.task.number
        earlier = self.work.folder / "work" / f"pass-{self.work.stretch.number - 1}"
        verdicts = read_verdicts(earlier / f"{shard_name(number)}.verdicts.json")
        for record in read_records(earlier / f"{shard_name(number)}.jsonl"):
            counts.records_in += 1
            self._entered(record)
            result: Record | Dropped | bytes = verdicts.get(record.id, record)
            if isinstance(result, bytes):
                assert isinstance(step, RevisingStep), f"{name} decides bytes but cannot revise"
                result = step.revise(record, result)
            if isinstance(result, Dropped):
                self._drop(name, record, result)
                continue
            counts.changed += result.text != record.text
            counts.records_out += 1
            yield result

    def _through_steps(self, record: Record) -> list[Record]:
        pending = [record]
        for name, step in self.work.stretch.steps:
            if not pending:
                break
            counts = self.tally.step(name)
            survivors: list[Record] = []
            began = time.perf_counter()
            for each in pending:
                counts.records_in += 1
                result: Record | Dropped | Sequence[Record]
                try:
                    with self.limited():
                        result = step(each)
                except TooSlow:
                    seconds = self.work.limits.record_seconds
                    result = Dropped(TOO_SLOW, f"more than {seconds:g} seconds")
                except UserError:  # of a user-defined step
                    raise
                except Exception as error:
                    raise RuntimeError(f"step '{name}' fails at record '{each.id}'") from error
                if isinstance(result, Record):
                    counts.changed += result.text != each.text
                    survivors.append(result)
                elif isinstance(result, Dropped):
                    self._drop(name, each, result)
                else:
                    counts.changed += [part.text for part in result] != [each.text]
                    survivors.extend(result)
            counts.seconds += time.perf_counter() - began
            counts.records_out += len(survivors)
            pending = survivors
        return pending

    def _entered(self, record: Record) -> int:
        size = len(record.text.encode("utf-8", "replace"))
        self.tally.entered += 1
        self.tally.entered_bytes += size
        return size

    def _drop(self, step: str, record: Record, dropped: Dropped) -> None:
        self.tally.add_dropped(step, record, dropped)
        if self.aside is not None:
            content = {"step": step, "reason": dropped.reason, "detail": dropped.detail}
            self.aside.write(json_line({"id": record.id, **content, "text": record.text}))
