"""Deduplication and decontamination through the runner, as a recipe has them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from glassbox.core.config import parse
from glassbox.data.curation.runner import Output, run_curation, step_names
from glassbox.data.curation.sources import FilesSource, find_sources
from glassbox.data.curation.step import StepSpec
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
