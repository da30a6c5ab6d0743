"""What a run folder holds, read for the report: whatever is missing or damaged becomes a note."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

STAGES = {
    "pretrain": "Pre-training",
    "sft": "Supervised fine-tuning",
    "dpo": "Preference alignment (DPO)",
    "grpo": "Verifiable rewards (GRPO)",
}
"""Folders of a quickstart that are runs, in the order of a model's life, and their titles."""


@dataclass
class StageRun:
    """One training run: its lines of metrics and the files beside them."""

    name: str
    title: str
    folder: Path
    metrics: list[dict[str, Any]]
    recipe: str | None
    summary: dict[str, Any]
    facts: dict[str, Any]

    def lines(self) -> list[dict[str, Any]]:
        """The records of training itself."""
        return [record for record in self.metrics if "event" not in record]

    def events(self, event: str) -> list[dict[str, Any]]:
        """The records of one event: evaluation, skipped, early stop."""
        return [record for record in self.metrics if record.get("event") == event]


@dataclass
class RunContents:
    """A run folder, read. `notes` says in words what was not there or could not be read."""

    folder: Path
    quickstart: bool
    finished: bool
    stages: list[StageRun]
    journal: list[dict[str, Any]]
    evaluations: dict[str, dict[str, Any]]
    samples: dict[str, list[dict[str, str]]]
    manifest: dict[str, Any]
    environment: dict[str, Any]
    recipe: str | None
    notes: list[str] = field(default_factory=list)

    def title_of(self, name: str) -> str:
        """A stage's title; the name itself where it is not one of ours."""
        return STAGES.get(name, name)


class RunReader:
    """Reads files leniently and keeps the notes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []

    def json(self, path: Path) -> Any:
        """A JSON file's content; None, with a note, where it is damaged; None where there is none."""
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            self.notes.append(f"{path.relative_to(self.folder)} is damaged and was left out.")
            return None

    def mapping(self, path: Path) -> dict[str, Any]:
        """A JSON object; empty where there is none."""
        found = self.json(path)
        return found if isinstance(found, dict) else {}

    def text(self, path: Path) -> str | None:
        """A text file, bytes that are not UTF-8 replaced."""
        if not path.is_file():
            return None
        return path.read_text(encoding="utf-8", errors="replace")

    def metrics(self, path: Path) -> list[dict[str, Any]]:
        """Records that have a step, by line; lines that are no such record are counted in a note."""
        records, damaged = [], 0
        for line in (self.text(path) or "").split("\n"):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                records.append(record)
            else:
                damaged += 1
        if damaged:
            plural = "s" * (damaged > 1)
            self.notes.append(
                f"{path.relative_to(self.folder)}: {damaged} damaged line{plural} skipped."
            )
        return records

    def stage(self, folder: Path, name: str) -> StageRun:
        """One training run's folder."""
        return StageRun(
            name=name,
            title=STAGES.get(name, name),
            folder=folder,
            metrics=self.metrics(folder / "metrics.jsonl"),
            recipe=self.text(folder / "recipe.yaml"),
            summary=self.mapping(folder / "DONE.json"),
            facts=self.mapping(folder / "data.json"),
        )


def read_run(folder: Path) -> RunContents | None:
    """The contents of a quickstart's folder or of one training run's; None where it is neither."""
    reader = RunReader(folder)
    names = [name for name in STAGES if (folder / name / "metrics.jsonl").exists()]
    quickstart = bool(names) or (folder / "quickstart.json").exists()
    if not quickstart and not (folder / "metrics.jsonl").exists():
        return None
    if quickstart:
        stages = [reader.stage(folder / name, name) for name in names]
    else:
        stages = [reader.stage(folder, _stage_name(reader.text(folder / "recipe.yaml"), folder))]
    environment = reader.mapping(folder / "environment.json")
    for stage in stages if not environment else ():
        environment = environment or reader.mapping(stage.folder / "environment.json")
    journal = reader.json(folder / "quickstart.json")
    evaluations = reader.mapping(folder / "evaluations.json")
    samples = reader.mapping(folder / "samples.json")
    contents = RunContents(
        folder=folder,
        quickstart=quickstart,
        finished=(folder / "DONE.json").exists(),
        stages=stages,
        journal=_journal(journal),
        evaluations={k: v for k, v in evaluations.items() if isinstance(v, dict)},
        samples={k: _samples(v) for k, v in samples.items() if isinstance(v, list)},
        manifest=reader.mapping(folder / "corpus" / "manifest.json"),
        environment=environment,
        recipe=reader.text(folder / "recipe.yaml"),
        notes=reader.notes,
    )
    _note_what_is_missing(contents)
    return contents


def _stage_name(recipe: str | None, folder: Path) -> str:
    """The stage that a run's recipe names, else the folder's name."""
    try:
        parsed = yaml.safe_load(recipe or "")
    except yaml.YAMLError:
        parsed = None
    name = parsed.get("stage") if isinstance(parsed, dict) else None
    return name if isinstance(name, str) else folder.resolve().name


def _journal(raw: Any) -> list[dict[str, Any]]:
    """A quickstart's list of steps, those without a title left out."""
    if isinstance(raw, Mapping):
        raw = raw.get("stages")
    if not isinstance(raw, list):
        return []
    return [
        {
            "name": str(step.get("name", step["title"])),
            "title": str(step["title"]),
            "seconds": _number(step.get("seconds")),
            "status": str(step.get("status", "finished")),
            "summary": step["summary"] if isinstance(step.get("summary"), dict) else {},
        }
        for step in raw
        if isinstance(step, dict) and "title" in step
    ]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _samples(raw: list[Any]) -> list[dict[str, str]]:
    return [
        {"prompt": str(one.get("prompt") or ""), "text": str(one.get("text") or "")}
        for one in raw
        if isinstance(one, dict)
    ]


def _note_what_is_missing(run: RunContents) -> None:
    if not run.finished:
        run.notes.append("The run has not finished: these are the figures so far.")
    for stage in run.stages:
        if not stage.lines():
            run.notes.append(f"{stage.title}: no line of metrics yet.")
        if skipped := len(stage.events("skipped")):
            run.notes.append(
                f"{stage.title}: {skipped} step{'s' * (skipped > 1)} skipped by the guard."
            )
    if run.quickstart and not run.evaluations:
        run.notes.append("No evaluations.json: the stages were not evaluated.")
    if run.quickstart and not run.samples:
        run.notes.append("No samples.json: no samples were taken.")
    if not run.environment:
        run.notes.append("No environment.json: what it ran on is not known.")
    for step in run.journal:
        if step["status"] == "skipped":
            reason = step["summary"].get("reason")
            run.notes.append(f"{step['title']} was skipped{': ' + str(reason) if reason else ''}.")
