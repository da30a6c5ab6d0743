"""Deduplication and decontamination through the runner, as a recipe has them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glassbox.core.config import parse
from glassbox.data.curation.lines import LineDuplicates, LineDuplicatesSpec
from glassbox.data.curation.runner import Output, run_curation, step_names
from glassbox.data.curation.sources import FilesSource, find_sources
from glassbox.data.curation.step import Dropped, Record, StepSpec
from glassbox.data.curation.steps import StepConfig
from glassbox.data.curation.tally import Tally


class Recipe(StepSpec):
    """Steps as a recipe lists them."""

    steps: tuple[StepConfig, ...]


def carry_out(folder: Path, steps: list[dict[str, object]], workers: int) -> Tally:
    specs = parse(Recipe, {"steps": steps}, where="test").steps
    sources = find_sources([FilesSource(path=str(folder / "in"))], downloads=folder)
    output = Output(folder / f"out-{workers}", shard_bytes=4000, keep_dropped=True)
    output.folder.mkdir()
    named = list(zip(step_names(specs), [spec.build() for spec in specs], strict=True))
    tally = run_curation(sources, named, output, workers=workers)
    assert tally is not None
    return tally


def all_files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for name in ("documents", "dropped")
        for path in sorted((folder / name).rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rng = random.Random(0)

    def text(count: int) -> list[str]:
        return ["".join(rng.choices("abcdefghij", k=5)) for _ in range(count)]

    notice = " ".join(text(30))
    exam = " ".join(text(20))
    texts = [" ".join(text(120)) for _ in range(30)]
    near = texts[4].split()
    near[50] = "changed"
    texts += [texts[2].upper(), " ".join(near), f"{exam} {' '.join(text(60))}"]
    texts += [f"{' '.join(text(60))} {notice}", f"{' '.join(text(60))} {notice}"]
    (tmp_path / "in").mkdir()
    for number in range(3):
        lines = [json.dumps({"text": t}) + "\n" for t in texts[number::3]]
        (tmp_path / "in" / f"{number}.jsonl").write_text("".join(lines))
    (tmp_path / "exam.jsonl").write_text(json.dumps({"question": exam}) + "\n")
    return tmp_path


def test_every_step_drops_what_it_is_for_whatever_the_number_of_workers(corpus: Path) -> None:
    steps: list[dict[str, object]] = [
        {"kind": "exact_duplicates"},
        {"kind": "near_duplicates"},
        {"kind": "simhash_duplicates"},
        {"kind": "repeated_passages", "min_characters": 100},
        {"kind": "decontaminate", "sets": {"exam": str(corpus / "exam.jsonl")}},
    ]
    tallies = [carry_out(corpus, steps, workers) for workers in (1, 2)]
    for tally in tallies:
        dropped = {name: dict(step.dropped) for name, step in tally.steps.items()}
        assert dropped["exact_duplicates"] == {"exact duplicate": 1}
        assert dropped["near_duplicates"] == {"near duplicate": 1}
        assert dropped["decontaminate"] == {"holds text of exam": 1}
        assert tally.steps["repeated_passages"].changed == 1
        assert tally.kept == 35 - 3
    assert all_files(corpus / "out-1") == all_files(corpus / "out-2")


LINES = st.lists(
    st.lists(st.sampled_from(["a", "The same line.", "  The same line.", "Another line.", "", "x" * 9]), max_size=6),
    max_size=8,
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(documents=LINES, least=st.sampled_from([1, 5]))
def test_lines_that_came_before_are_taken_out(documents: list[list[str]], least: int) -> None:
    """Against a set of the lines themselves."""
    step = LineDuplicates(least)
    records = [Record("\n".join(lines), f"a:{n}") for n, lines in enumerate(documents)]
    notes = step.decide([(record.id, step.signature(record)) for record in records])
    seen: set[str] = set()
    for record, lines in zip(records, documents, strict=True):
        kept = []
        for line in lines:
            if len(line.strip()) >= least and line.strip() in seen:
                continue
            kept.append(line)
            seen.add(line.strip())
        note = notes.get(record.id)
        result = step.revise(record, note) if isinstance(note, bytes) else record
        expected = "\n".join(kept)
        if isinstance(result, Dropped):
            assert not expected.strip()
        elif len(kept) == len(lines):
            assert result is record
        else:
            assert result.text == expected.strip("\n")


def test_lines_in_canonical_form() -> None:
    step = LineDuplicatesSpec(min_characters=4, form="canonical").build()
    records = [Record("Page 3 of 12\nword", "a:1"), Record("page 4 of 12\nother", "a:2")]
    notes = step.decide([(record.id, step.signature(record)) for record in records])
    assert list(notes) == ["a:2"]
    note = notes["a:2"]
    assert isinstance(note, bytes)
    assert step.revise(records[1], note) == Record("other", "a:2")
