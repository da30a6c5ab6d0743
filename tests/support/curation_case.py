"""A small corpus, steps of all three kinds, and a program that is killed in the middle of curating it.

python -m support.curation_case FOLDER OUT WORKERS [EVENT]: curates FOLDER into OUT; dies by SIGKILL before
its EVENT-th change of a file.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from glassbox.data.curation.boilerplate import BoilerplateLines
from glassbox.data.curation.chunking import Chunk
from glassbox.data.curation.cleaning import Normalize
from glassbox.data.curation.runner import Output, claim_folder, run_curation
from glassbox.data.curation.sources import FilesSource, find_sources
from glassbox.data.curation.step import Dropped, Record
from glassbox.data.curation.tally import Tally

FILE_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


class DropShort:
    """Drops records of few words."""

    def __call__(self, record: Record) -> Record | Dropped:
        count = len(record.text.split())
        if count < 8:
            return Dropped("too few words", f"{count} words")
        return replace(record, metadata={**record.metadata, "words": count})


class SameText:
    """Drops records whose text came before."""

    def signature(self, record: Record) -> bytes:
        return record.text.encode()

    def decide(self, signatures: Iterable[tuple[str, bytes]]) -> Mapping[str, Dropped]:
        first: dict[bytes, str] = {}
        dropped = {}
        for name, text in signatures:
            if text in first:
                dropped[name] = Dropped("same text", f"as {first[text]}")
            else:
                first[text] = name
        return dropped


class Dies:
    """Kills the worker that meets the word."""

    def __call__(self, record: Record) -> Record:
        if "fatal" in record.text:
            os.kill(os.getpid(), signal.SIGKILL)
        return record


STEPS = [
    ("normalize", Normalize()),
    ("boilerplate_lines", BoilerplateLines(min_documents=5, min_characters=4)),
    ("short", DropShort()),
    ("same", SameText()),
    ("chunk", Chunk("sentence", 80)),
]


def write_corpus(folder: Path, *, documents: int = 40, seed: int = 0) -> None:
    """JSON lines in two files and one text file, with boilerplate, repetitions and damage."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    sentence = "the cat sat on a mat and saw that every dog ran far away from it"
    words = sentence.split()
    for part in range(2):
        with (folder / f"part-{part}.jsonl").open("w", encoding="utf-8") as stream:
            for number in range(documents):
                sentences = [
                    " ".join(draw.choices(words, k=draw.randint(2, 12))).capitalize() + "."
                    for _ in range(draw.randint(1, 6))
                ]
                text = "Home | About us\n" * (number % 3 == 0) + " ".join(sentences)
                if number % 20 == 9:
                    text = "Home | About us"
                if number in (5, 22):  # too few for their line to be boilerplate
                    text = "The same text comes back here again and again, word by word."
                stream.write(json.dumps({"text": text, "url": f"https://a.org/{number}"}) + "\n")
            stream.write("{damaged\n")
    (folder / "plain.txt").write_text("One plain document with enough words to stay in.\n")


def curate(folder: Path, out: Path, workers: int, steps=STEPS, **output) -> Tally | None:  # type: ignore[no-untyped-def]
    """Carry the corpus through the steps."""
    sources = find_sources([FilesSource(path=str(folder))], downloads=out / "downloads")
    options = {"keep_dropped": True, "shard_bytes": 2048, **output}
    claim_folder(out, {"files": sources.manifest(), **options})
    return run_curation(sources, steps, Output(out, **options), workers=workers)


def contents(out: Path) -> dict[str, bytes]:
    """The bytes of all documents, kept and dropped."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for name in ("documents", "dropped")
        for path in sorted((out / name).rglob("*"))
        if path.is_file()
    }


def counts(tally: Tally) -> dict[str, object]:
    """A tally without its seconds."""
    raw = {k: v for k, v in tally.to_json().items() if not k.endswith("seconds")}
    raw["steps"] = {
        name: {k: v for k, v in step.items() if k != "seconds"}
        for name, step in raw["steps"].items()
    }
    return raw


def die_before(event_number: int, root: str) -> list[int]:
    """Count changes of files under `root`; die before the one of this number."""
    count = [0]

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
        if not (writes or event in FILE_CHANGES) or not str(arguments[0]).startswith(root):
            return
        count[0] += 1
        if count[0] == event_number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    return count


def attempt(folder: Path, out: Path, event: int = 0) -> tuple[bool, int]:
    """Curate in a fork that may be killed: whether it was, and how many files it changed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            count = die_before(event, str(out))
            curate(folder, out, 1)
            os.write(write, str(count[0]).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"curation ended with {os.WEXITSTATUS(status)}")
    return os.WIFSIGNALED(status), int(said or 0)


def kill_everywhere(folder: Path, out: Path, stride: int) -> int:
    """Kill before every `stride`-th change of a file, then finish; returns how many were killed."""
    _, events = attempt(folder, out / "whole")
    killed = 0
    for event in range(1, events, stride):
        target = out / f"killed-{event}"
        killed += attempt(folder, target, event)[0]
        attempt(folder, target, 2 * event)  # and perhaps once more
        attempt(folder, target)
    return killed


if __name__ == "__main__":
    if sys.argv[3] == "everywhere":
        print(kill_everywhere(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[4])))
    else:
        curate(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))


class InterruptedAtBirth:
    """Work that gets a Ctrl-C in every process while that unpickles it, before it can listen."""

    def __call__(self, task: int) -> int:
        return task + 1

    def __setstate__(self, state: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    def __getstate__(self) -> dict[str, int]:
        return {"any": 1}
