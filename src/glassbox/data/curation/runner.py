"""Runs a list of steps over sources, shard by shard, in any number of processes, to the same bytes.

OUT/
  curated.json      the settings and sources; another recipe's folder is refused
  documents/        shards of what is kept
  dropped/          what was dropped, if kept aside, with step, reason and detail
  work/pass-N/      shards between two passes, with a marker for each that is whole; gone in the end
  work/pass-N.json  a pass that is whole

Whatever a kill leaves behind, the shards with a marker stay and the others are made anew.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from glassbox.core.errors import UserError
from glassbox.core.files import remove_leftovers, write_json
from glassbox.core.progress import ProgressLine
from glassbox.core.workers import run_tasks
from glassbox.data.curation.limits import Limits
from glassbox.data.curation.passes import Pass, PassWork, ShardTask, plan_passes
from glassbox.data.curation.pieces import Piece
from glassbox.data.curation.ray_tasks import ray_cluster, run_on_ray
from glassbox.data.curation.shard_files import (
    DOCUMENTS,
    SETTINGS,
    Format,
    Signatures,
    write_verdicts,
)
from glassbox.data.curation.sources import Sources
from glassbox.data.curation.step import CorpusStep, Dropped, RecordStep, RevisingStep, StepSpec
from glassbox.data.curation.tally import StepTally, Tally

Step = RecordStep | CorpusStep | RevisingStep
Runner = Literal["local", "ray"]
Run = Callable[[PassWork, Iterator[ShardTask]], Iterator[tuple[ShardTask, Tally]]]


@dataclass(frozen=True)
class Output:
    """How a run writes. shard_bytes: how much of the sources goes into one shard."""

    folder: Path
    format: Format = "jsonl"
    shard_bytes: int = 8 << 20
    keep_dropped: bool = False
    strict: bool = False
    limits: Limits = field(default_factory=Limits)


def step_names(specs: Sequence[StepSpec]) -> list[str]:
    """What steps are called in counts: by their kind, and if that comes again, KIND#2.

    >>> from glassbox.data.curation.cleaning import NormalizeSpec
    >>> step_names([NormalizeSpec(), NormalizeSpec()])
    ['normalize', 'normalize#2']
    """
    names: list[str] = []
    for spec in specs:
        label = spec.counted_as
        place = 1 + sum(name.partition("#")[0] == label for name in names)
        names.append(label if place == 1 else f"{label}#{place}")
    return names


def claim_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write a run's settings into its folder, or compare them with those that are there.

    Raises UserError naming the first value that differs: shards of two recipes would be mixed.
    """
    path = folder / SETTINGS
    wanted = json.loads(json.dumps(settings))
    if path.exists():
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise UserError(f"'{path}' is damaged; name another folder") from None
        if old != wanted:
            from glassbox.core.runs import first_difference  # imports torch, which workers need not

            raise UserError(
                f"'{folder}' holds documents of another recipe or source "
                f"({first_difference(old, wanted)}); name another folder, or give the old values to "
                "go on with it"
            )
        return
    (folder / DOCUMENTS).mkdir(parents=True, exist_ok=True)
    write_json(path, wanted)


def run_curation(
    sources: Sources,
    steps: Sequence[tuple[str, Step]],
    output: Output,
    *,
    workers: int = 1,
    runner: Runner = "local",
    stop: Callable[[], bool] = lambda: False,
) -> Tally | None:
    """Run named steps on sources; returns the sum of all counts, or None if it was stopped.

    runner: processes of this machine, or Ray, whose machines all have to see the sources and the
        folder
    under the same path.

    Called again after a stop, a kill or an error, it resumes after the shards that are complete.
    The
    bytes of documents/ and dropped/ and all counts but the seconds depend on sources, steps and
    `output` alone. Memory holds one piece per worker, and what a corpus step's `decide` needs.
    Raises UserError for corrupt records if `output.strict`, for a worker that died, and if no
    record can be read.
    """
    remove_leftovers(output.folder)
    result = Tally()
    for name, _ in steps:
        result.step(name)
    with contextlib.ExitStack() as stack:
        run = partial(run_tasks, workers=workers, stop=stop)
        if runner == "ray":
            stack.enter_context(ray_cluster(workers))
            run = partial(run_on_ray, workers=workers, stop=stop)
        return _run_passes(sources, plan_passes(steps), output, result, run)


def _run_passes(
    sources: Sources, stretches: Sequence[Pass], output: Output, result: Tally, run: Run
) -> Tally | None:
    for stretch in stretches:
        work = PassWork(
            stretch,
            output.folder,
            output.format,
            output.keep_dropped,
            output.strict,
            output.limits,
        )
        tally = _run_pass(work, sources, output, run)
        if tally is None:
            return None
        result.add(tally)
        if stretch.number == 0 and not result.read and result.num_corrupt:
            raise UserError(
                f"source: not one of {result.num_corrupt} records can be read; {result.corrupt[0]}"
            )
        if stretch.number:
            shutil.rmtree(output.folder / "work" / f"pass-{stretch.number - 1}", ignore_errors=True)
    return result


def _run_pass(work: PassWork, sources: Sources, output: Output, run: Run) -> Tally | None:
    """All shards of a pass and, behind the barrier, what its corpus step decides."""
    done = work.work.with_suffix(".json")
    if done.exists():
        return Tally.from_json(json.loads(done.read_text(encoding="utf-8"))["tally"])
    passes = _Shards(work, sources, output)
    if not passes.run(run):
        return None
    tally = passes.tally()
    if work.stretch.after is not None:
        name, step = work.stretch.after
        began = time.perf_counter()
        _decide(work, step, passes.count)
        tally.add(Tally(steps={name: StepTally(seconds=time.perf_counter() - began)}))
    write_json(done, {"shards": passes.count, "tally": tally.to_json()}, indent=None)
    for number in range(passes.count):
        work.signatures(number).unlink(missing_ok=True)
    return tally


class _Shards:
    """The shards of one pass."""

    def __init__(self, work: PassWork, sources: Sources, output: Output) -> None:
        self.work = work
        self.sources = sources
        self.output = output
        self.count = 0
        self.known: int | None = None
        if work.stretch.number:
            earlier = work.folder / "work" / f"pass-{work.stretch.number - 1}.json"
            self.known = json.loads(earlier.read_text(encoding="utf-8"))["shards"]
        self.total = sources.total_bytes if self.known is None else self.known
        self.behind: float = 0
        self.exhausted = False

    def run(self, run: Run) -> bool:
        """Make the shards that are not there; whether it was carried to the end."""
        label = f"curate, pass {self.work.stretch.number + 1}"
        documents = size = 0
        made: list[int] = []
        began = time.monotonic()
        with ProgressLine(label, self.total) as line:
            for task, tally in run(self.work, self._tasks()):
                self.behind += (
                    1 if self.known is not None else sum(piece.size for piece in task.pieces)
                )
                documents += tally.entered
                size += tally.entered_bytes
                seconds = max(time.monotonic() - began, 1e-9)
                line.update(
                    min(self.behind, self.total),
                    f"{documents / seconds:,.0f} documents/s, {size / 1e6 / seconds:.1f} MB/s",
                )
                made.append(task.number)
        for number in made:
            if not self._whole(number):
                raise UserError(
                    f"shard {number} was made, but not where '{self.work.folder}' is on this machine; "
                    "put the folder on a file system that all machines share"
                )
        return self.exhausted and all(self._whole(number) for number in range(self.count))

    def _tasks(self) -> Iterator[ShardTask]:
        shards: Iterator[tuple[Piece, ...]] = (() for _ in range(self.known or 0))
        if self.known is None:
            size, largest = self.output.shard_bytes, self.output.limits.record_bytes
            shards = bundles(self.sources.pieces(size, largest), size)
        for number, pieces in enumerate(shards):
            self.count = number + 1
            if self._whole(number):
                self.behind += 1 if self.known is not None else sum(p.size for p in pieces)
            else:
                yield ShardTask(number, pieces)
        self.exhausted = True

    def _whole(self, number: int) -> bool:
        return self.work.marker(number).exists() and self.work.output(number).exists()

    def tally(self) -> Tally:
        """The sum over all shards, in their order."""
        result = Tally()
        for number in range(self.count):
            marker = self.work.marker(number)
            result.add(Tally.from_json(json.loads(marker.read_text(encoding="utf-8"))))
        return result


def bundles(pieces: Iterator[Piece], size: int) -> Iterator[tuple[Piece, ...]]:
    """Neighbouring small pieces together, so that a folder of small files makes few shards."""
    held: list[Piece] = []
    total = 0
    for piece in pieces:
        held.append(piece)
        total += piece.size
        if total >= size // 2:
            yield tuple(held)
            held, total = [], 0
    if held:
        yield tuple(held)


def _decide(work: PassWork, step: CorpusStep | RevisingStep, count: int) -> None:
    """Let a corpus step decide over all signatures, and write down what concerns each shard."""
    verdicts = dict(step.decide(Signatures([work.signatures(n) for n in range(count)])))
    for number in range(count):
        ids = (name for name, _ in Signatures([work.signatures(number)]))
        found: dict[str, Dropped | bytes] = {
            name: verdicts.pop(name) for name in ids if name in verdicts
        }
        write_verdicts(work.verdicts(number), found)
    assert not verdicts, f"verdicts on ids that are not there: {list(verdicts)[:3]}"
