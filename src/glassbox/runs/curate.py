"""The stage `curate`: sources through steps to documents, and a page on what was dropped and why."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from glassbox.core.config import dump_yaml
from glassbox.core.errors import UserError
from glassbox.core.files import write_json, write_text
from glassbox.core.interrupts import Interrupts
from glassbox.core.progress import ProgressLine
from glassbox.core.runs import RunFolder
from glassbox.core.version import __version__
from glassbox.data.curation.limits import Limits
from glassbox.data.curation.runner import Output, claim_folder, run_curation, step_names
from glassbox.data.curation.shard_files import SETTINGS
from glassbox.data.curation.sources import Sources, find_sources
from glassbox.data.curation.tally import Tally
from glassbox.reports.curation import render_curation
from glassbox.runs.curate_steps import build_step, contents_of
from glassbox.runs.stages.curate import CurateRecipe

SCHEMA = 1
LEAVES = ("recipe.yaml", SETTINGS, "documents", "dropped", "work")
"""What a curation makes in its folder before a shard of it is whole; downloads are kept."""


def curate(recipe: CurateRecipe) -> dict[str, Any]:
    """Carry out a recipe of stage `curate` and return its summary.

    Leaves OUT/documents, OUT/dropped, OUT/report.json, OUT/report.html and OUT/timing.json. A
    finished folder is not changed, an interrupted one is resumed, and one of another recipe or of
    changed sources raises UserError. The summary's `status` is finished, already finished or
    interrupted.
    """
    check_curation(recipe)
    run = RunFolder(recipe.out, leaves=LEAVES, begun_by="work/**/*.done.json")
    with run, Interrupts().watching() as interrupts:
        steps = [build_step(spec) for spec in recipe.steps]
        try:
            sources = _find(recipe, run.path)
        except UserError:
            run.withdraw()
            raise
        settings = _settings(recipe, sources)
        if not _same_settings(run.path, settings):
            run.take_over()
        claim_folder(run.path, settings)
        if run.summary is not None:
            shutil.rmtree(run.path / "work", ignore_errors=True)
            return {**run.summary, "status": "already finished"}
        write_text(run.recipe, dump_yaml(recipe))
        began = time.monotonic()
        tally = run_curation(
            sources,
            list(zip(step_names(recipe.steps), steps, strict=True)),
            Output(
                run.path,
                recipe.format,
                recipe.shard_bytes,
                recipe.keep_dropped,
                recipe.strict,
                Limits(recipe.max_record_bytes, recipe.max_record_seconds),
            ),
            workers=recipe.workers,
            runner=recipe.runner,
            stop=lambda: interrupts.requested,
        )
        if tally is None:
            return {"status": "interrupted"}
        report = make_report(tally, sources, recipe)
        write_json(run.path / "timing.json", _timing(tally, time.monotonic() - began, recipe))
        write_json(run.path / "report.json", report)
        write_text(run.path / "report.html", render_curation(run.path))
        summary = {"documents": tally.kept, "dropped": tally.num_dropped, "read": tally.read}
        run.finish(summary)
        shutil.rmtree(run.path / "work", ignore_errors=True)
        return {**summary, "corrupt": tally.num_corrupt, "status": "finished"}


def check_curation(recipe: CurateRecipe) -> None:
    """Build the steps and find local sources, without writing. Raises UserError."""
    for spec in recipe.steps:
        build_step(spec)
    local = tuple(source for source in recipe.source if source.kind != "url")
    if local:
        find_sources(local, downloads=Path(recipe.out) / "downloads")


def _same_settings(folder: Path, settings: dict[str, Any]) -> bool:
    try:
        old = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(old == json.loads(json.dumps(settings)))


def _find(recipe: CurateRecipe, folder: Path) -> Sources:
    if not any(source.kind == "url" for source in recipe.source):
        return find_sources(recipe.source, downloads=folder / "downloads")
    with ProgressLine("download", 1) as line:

        def show(done: int, total: int) -> None:
            line.update(done / total if total else 0, f"{done / 1e6:,.1f} MB")

        return find_sources(recipe.source, downloads=folder / "downloads", progress=show)


def _settings(recipe: CurateRecipe, sources: Sources) -> dict[str, Any]:
    """All that the bytes of the documents depend on."""
    fixed = recipe.model_dump(mode="json", exclude={"out", "workers", "runner"})
    named = {
        name: contents
        for name, spec in zip(step_names(recipe.steps), recipe.steps, strict=True)
        if (contents := contents_of(spec))
    }
    held = {"contents": named} if named else {}
    return {"schema": SCHEMA, "version": __version__, **fixed, **held, "files": sources.manifest()}


def make_report(tally: Tally, sources: Sources, recipe: CurateRecipe) -> dict[str, Any]:
    """What report.json holds: the same bytes for the same recipe and sources, however they were run."""
    raw = tally.to_json()
    steps = [
        {
            "name": name,
            **{key: value for key, value in step.items() if key not in ("seconds", "dropped")},
            "dropped": dict(sorted(step["dropped"].items(), key=lambda item: (-item[1], item[0]))),
        }
        for name, step in raw["steps"].items()
    ]
    return {
        "schema": SCHEMA,
        "read": tally.read,
        "read_bytes": tally.read_bytes,
        "kept": tally.kept,
        "kept_bytes": tally.kept_bytes,
        "dropped": tally.num_dropped,
        "corrupt": tally.num_corrupt,
        "corrupt_listed": raw["corrupt"],
        "repaired": dict(sorted(raw["repaired"].items())),
        "ignored_files": sources.ignored,
        "format": recipe.format,
        "steps": steps,
        "kept_samples": raw["kept_samples"],
        "dropped_samples": dict(sorted(raw["dropped_samples"].items())),
    }


def _timing(tally: Tally, seconds: float, recipe: CurateRecipe) -> dict[str, Any]:
    steps = {name: step.seconds for name, step in tally.steps.items()}
    spent = {"read": tally.read_seconds, **steps, "write": tally.write_seconds}
    return {
        "workers": recipe.workers,
        "runner": recipe.runner,
        "seconds_this_time": seconds,
        "worker_seconds": {name: round(value, 4) for name, value in spent.items()},
        "megabytes_per_second": {
            name: round(tally.read_bytes / 1e6 / value, 2) if value else None
            for name, value in spent.items()
        },
    }


def describe(folder: Path) -> str:
    """A finished run in a few lines for the terminal: what went in, what was dropped, what is left."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    lines = [f"read     {report['read']:>10,}  {report['read_bytes'] / 1e6:,.1f} MB"]
    if report["corrupt"]:
        lines.append(f"corrupt  {report['corrupt']:>10,}  {report['corrupt_listed'][0]}")
    if report["ignored_files"]:
        kinds = ", ".join(f"{name} {n:,}" for name, n in report["ignored_files"].items())
        lines.append(
            f"ignored  {sum(report['ignored_files'].values()):>10,}  files of no known kind: {kinds}"
        )
    for step in report["steps"]:
        lines += [f"dropped  {n:>10,}  {step['name']}: {why}" for why, n in step["dropped"].items()]
    lines.append(f"kept     {report['kept']:>10,}  {report['kept_bytes'] / 1e6:,.1f} MB")
    return "\n".join(lines)
