"""The runner of curation: the same bytes however many workers, kills and resumes; every drop counted."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from glassbox.core.errors import UserError
from glassbox.core.workers import run_tasks
from glassbox.data.curation.cleaning import NormalizeSpec
from glassbox.data.curation.exact import ExactDuplicates
from glassbox.data.curation.runner import Output, run_curation, step_names
from glassbox.data.curation.shard_files import Signatures, read_curated, read_records
from glassbox.data.curation.sources import FilesSource, find_sources
from glassbox.data.curation.step import Dropped, Record
from glassbox.data.text import read_documents
from support import curation_case as case

TESTS = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "web"
    case.write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, case.Tally]:
    out = tmp_path_factory.mktemp("whole")
    tally = case.curate(corpus, out, 1)
    assert tally is not None
    return out, tally


def expected(corpus: Path) -> tuple[list[Record], dict[str, tuple[str, str]]]:
    """The steps one after the other over a list: the plain version of the runner."""
    records = []
    for name in ("part-0.jsonl", "part-1.jsonl"):
        for number, line in enumerate((corpus / name).read_text().splitlines(), start=1):
            if line == "{damaged":
                continue
            row = json.loads(line)
            records.append(Record(row.pop("text"), f"web/{name}:{number}", row))
    records.append(Record((corpus / "plain.txt").read_text().strip(), "web/plain.txt:1"))
    dropped = {}
    for step_name, step in case.STEPS:
        if hasattr(step, "decide"):
            verdicts = step.decide([(r.id, step.signature(r)) for r in records])
            results = [
                step.revise(r, verdicts[r.id])
                if isinstance(verdicts.get(r.id), bytes)
                else verdicts.get(r.id, r)
                for r in records
            ]
        else:
            results = [step(record) for record in records]
        survivors = []
        for record, result in zip(records, results, strict=True):
            if isinstance(result, Dropped):
                dropped[record.id] = (step_name, result.reason)
            else:
                survivors += [result] if isinstance(result, Record) else list(result)
        records = survivors
    return records, dropped


def test_equals_steps_over_a_list(corpus: Path, whole: tuple[Path, case.Tally]) -> None:
    out, tally = whole
    records, dropped = expected(corpus)
    files = sorted((out / "documents").iterdir())
    assert len(files) > 4
    assert [record for file in files for record in read_records(file)] == records
    aside = {}
    for file in (out / "dropped").iterdir():
        for line in file.read_text().splitlines():
            row = json.loads(line)
            aside[row["id"]] = (row["step"], row["reason"])
    assert aside == dropped
    reasons = {"too few words", "same text", "nothing but boilerplate"}
    assert {reason for _, reason in dropped.values()} == reasons
    assert tally.num_dropped == len(dropped)
    assert tally.kept == len(records)
    assert tally.read == 81
    assert tally.num_corrupt == 2
    assert "part-0.jsonl' line 41: not JSON" in tally.corrupt[0]
    flow = [(step.records_in, step.records_out) for step in tally.steps.values()]
    for (_, leaving), (entering, _) in itertools.pairwise(flow):
        assert leaving == entering  # between two steps nothing is lost


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_change_no_byte(
    corpus: Path, whole: tuple[Path, case.Tally], tmp_path: Path, workers: int
) -> None:
    tally = case.curate(corpus, tmp_path, workers)
    assert tally is not None
    assert case.contents(tmp_path) == case.contents(whole[0])
    assert case.counts(tally) == case.counts(whole[1])


def test_killed_before_any_change_of_a_file(
    corpus: Path, whole: tuple[Path, case.Tally], tmp_path: Path
) -> None:
    """SIGKILL before every 17th change of a file, again while it resumes, then to the end."""
    shown = subprocess.run(
        [sys.executable, "-m", "support.curation_case", corpus, tmp_path, "everywhere", "17"],
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(shown.stdout) >= 8
    for out in tmp_path.iterdir():
        assert case.contents(out) == case.contents(whole[0]), out.name


def test_killed_at_random_with_workers(
    corpus: Path, whole: tuple[Path, case.Tally], tmp_path: Path
) -> None:
    """The parent dies by SIGKILL at random moments; its workers go with it; resumed, the same bytes."""
    draw = random.Random(7)
    command = [sys.executable, "-m", "support.curation_case", corpus, tmp_path, "2"]
    killed = 0
    for _ in range(10):
        process = subprocess.Popen(command, cwd=TESTS, stderr=subprocess.DEVNULL)
        try:
            process.wait(draw.uniform(0.3, 2.0))
        except subprocess.TimeoutExpired:
            children = _children(process.pid)
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            _gone(children)
    assert killed > 0
    case.curate(corpus, tmp_path, 1)
    assert case.contents(tmp_path) == case.contents(whole[0])


def _children(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def _gone(processes: list[psutil.Process]) -> None:
    deadline = time.monotonic() + 20
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.05)


def test_dead_worker_is_named_and_loses_nothing(
    corpus: Path, whole: tuple[Path, case.Tally], tmp_path: Path
) -> None:
    folder = tmp_path / "web"
    case.write_corpus(folder)
    with (folder / "part-1.jsonl").open("a") as stream:
        stream.write(json.dumps({"text": "a fatal word"}) + "\n")
    steps = [*case.STEPS, ("dies", case.Dies())]
    steps.insert(0, steps.pop())
    with pytest.raises(UserError, match=r"worker \d was killed by signal 9 .* at shard 0\d+;"):
        case.curate(folder, tmp_path / "out", 2, steps)
    markers = list((tmp_path / "out/work/pass-0").glob("*.done.json"))
    finished = sum(json.loads(path.read_text())["read"] for path in markers)
    assert finished
    seen = []
    steps[0] = ("dies", lambda record: seen.append(record.id) or record)  # mended
    assert case.curate(folder, tmp_path / "out", 1, steps) is not None
    assert len(seen) == 82 - finished  # shards that were whole are not made again


def test_fault_in_a_step_names_step_and_record(corpus: Path, tmp_path: Path) -> None:
    steps = [("broken", lambda record: 1 // (len(record.text) - len(record.text)))]
    with pytest.raises(RuntimeError, match=r"step 'broken' fails at record 'web/part-0.jsonl:1'"):
        case.curate(corpus, tmp_path, 1, steps)
    with pytest.raises(RuntimeError, match="two records are called"):
        case.curate(corpus, tmp_path, 1, [("twice", lambda record: [record, record])])


def test_other_settings_and_sources_are_refused(corpus: Path, tmp_path: Path) -> None:
    case.write_corpus(tmp_path / "web", documents=10)
    case.curate(tmp_path / "web", tmp_path / "out", 1)
    with pytest.raises(UserError, match=r"another recipe or source \(shard_bytes: 2048 -> 4096\)"):
        case.curate(tmp_path / "web", tmp_path / "out", 1, shard_bytes=4096)
    (tmp_path / "web/plain.txt").write_text("changed")
    with pytest.raises(UserError, match="name another folder"):
        case.curate(tmp_path / "web", tmp_path / "out", 1)


def test_strict_ends_at_the_first_corrupt_record(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"part-0\.jsonl' line 41: not JSON.*strict: false"):
        case.curate(corpus, tmp_path, 1, strict=True)


@pytest.mark.parametrize("format", ["jsonl.gz", "jsonl.zst", "parquet"])
def test_formats_hold_the_same_and_are_reproducible(
    corpus: Path, whole: tuple[Path, case.Tally], tmp_path: Path, format: str
) -> None:
    for name in "ab":
        case.curate(corpus, tmp_path / name, 1, format=format)
        (tmp_path / name / "DONE.json").write_text("{}")
        time.sleep(0.01)
    assert case.contents(tmp_path / "a") == case.contents(tmp_path / "b")
    (whole[0] / "DONE.json").write_text("{}")
    documents = list(read_curated(whole[0]))
    assert list(read_curated(tmp_path / "a")) == documents
    assert list(read_documents(tmp_path / "a")) == [record.text for record in documents]
    (tmp_path / "a/DONE.json").unlink()
    with pytest.raises(UserError, match="is not finished"):
        list(read_documents(tmp_path / "a"))


def test_stopped_run_goes_on(corpus: Path, whole: tuple[Path, case.Tally], tmp_path: Path) -> None:
    sources = case.find_sources([case.FilesSource(path=str(corpus))], downloads=tmp_path)
    output = case.Output(tmp_path, shard_bytes=2048, keep_dropped=True)
    (tmp_path / "documents").mkdir()
    for _ in range(100):
        polls = iter(range(100))
        result = run_curation(sources, case.STEPS, output, stop=lambda p=polls: next(p) >= 3)
        if result is not None:
            break
    assert result is not None
    assert case.contents(tmp_path) == case.contents(whole[0])


def test_signatures_may_be_walked_through_twice(tmp_path: Path) -> None:
    from glassbox.data.curation.shard_files import write_signatures

    path = tmp_path / "s"
    with path.open("wb") as stream:
        write_signatures(stream, "a:1", b"\0x")
        write_signatures(stream, "é:2", b"")
    signatures = Signatures([path, path])
    assert list(signatures) == [("a:1", b"\0x"), ("é:2", b"")] * 2 == list(signatures)


def test_steps_of_one_kind_are_told_apart() -> None:
    assert step_names([NormalizeSpec()] * 3) == ["normalize", "normalize#2", "normalize#3"]


def test_metadata_survives(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x y", "n": 1e999, "deep": {"a": [1, null]}}\n')
    steps = [
        ("nan", lambda r: replace(r, metadata={**r.metadata, "s": "\ud800", "f": float("nan")}))
    ]
    case.curate(tmp_path / "a.jsonl", tmp_path / "out", 1, steps)
    (record,) = read_records(tmp_path / "out/documents/00000.jsonl")
    assert record.metadata == {"n": None, "deep": {"a": [1, None]}, "s": "\ufffd", "f": None}
    assert os.listdir(tmp_path / "out/documents") == ["00000.jsonl"]


class Note:
    """Adds a field; alters the text of every fourth record; cuts every fifth in two."""

    def __call__(self, record: Record) -> Record | Dropped | list[Record]:
        number = int(record.id.rpartition(":")[2].partition("/")[0])
        if number % 5 == 0:
            return [replace(record, id=f"{record.id}/{part}") for part in "ab"]
        text = record.text + "!" if number % 4 == 0 else record.text
        return replace(record, text=text, metadata={"seen": True})


def test_changed_counts_altered_texts_and_each_pass_shows_its_own_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, list[str]] = {}

    class Line:
        def __init__(self, label: str, total: float) -> None:
            self.notes = shown.setdefault(label, [])

        def __enter__(self) -> Line:
            return self

        def __exit__(self, *_: object) -> None: ...

        def update(self, done: float, note: str) -> None:
            self.notes.append(note)

    clock = itertools.count()
    monkeypatch.setattr("glassbox.data.curation.runner.ProgressLine", Line)
    monkeypatch.setattr("glassbox.data.curation.runner.time.monotonic", lambda: next(clock))
    lines = [json.dumps({"text": f"{n:04d} " * 20_000}) for n in range(1, 41)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    sources = find_sources([FilesSource(path=str(tmp_path / "a.jsonl"))], downloads=tmp_path)
    steps = [("note", Note()), ("exact", ExactDuplicates()), ("again", Note())]
    tally = run_curation(sources, steps, Output(tmp_path / "out", shard_bytes=1 << 30))
    assert tally is not None
    # of 1 .. 40 eight are cut in two (every fifth), eight of the others are altered (every fourth)
    assert tally.steps["note"].changed == 8 + 8
    assert shown == {  # one shard a pass, one second by this clock
        "curate, pass 1": ["40 documents/s, 4.0 MB/s"],
        "curate, pass 2": ["48 documents/s, 4.8 MB/s"],
    }


def test_a_worker_that_is_being_born_does_not_hear_the_keyboard() -> None:
    found = dict(run_tasks(case.InterruptedAtBirth(), [1, 2, 3], workers=2))
    assert found == {1: 2, 2: 3, 3: 4}
