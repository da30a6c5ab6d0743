"""What the report says, worked out from a run's contents: titles, figures, tables, samples."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml
from markupsafe import Markup

from glassbox.core.progress import format_seconds
from glassbox.reports.figures import short_number, stage_charts
from glassbox.reports.run_data import RunContents, StageRun
from glassbox.reports.table import COLUMNS, Cell, Row, read_estimate, tabulate

KIND_TITLES = {
    "questions": "Questions by kind",
    "preferences": "Preferences by what makes the difference",
    "arithmetic": "Arithmetic by number of steps",
}


def page(run: RunContents) -> dict[str, Any]:
    """All that the template shows, worked out."""
    columns, rows = tabulate(run.evaluations)
    shown: dict[str, Any] = {
        "name": run.folder.resolve().name,
        "title": _title(run),
        "lead": _lead(run),
        "tiles": _tiles(run),
        "notes": run.notes,
        "columns": columns,
        "rows": [Row(run.title_of(row.name), row.cells) for row in rows],
        "table_note": _table_note(run),
        "kinds": _kinds(run),
        "samples": _samples(run),
        "stages": [_stage(run, stage) for stage in run.stages],
        "timings": _timings(run),
        "files": _files(run),
        "recipes": _recipes(run),
        "environment": _environment(run),
        "commands": _commands(run),
        "text_lang": Markup(' lang="zh-CN"') if _is_chinese(run.recipe) else "",
    }
    return {**shown, "contents": _contents(shown)}


def _contents(shown: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(id, title) of the sections that the page has, in its order; none where it is short."""
    stages = [(s["place"], s["title"]) for s in shown["stages"] if s["charts"] or s["samples"]]
    sections = [
        *([("evaluation", "Evaluation")] if shown["rows"] else []),
        *stages,
        *(
            (place, title)
            for place, key, title in (
                ("samples", "samples", "What it writes"),
                ("time", "timings", "Time"),
                ("data", "files", "Data"),
                ("recipe", "recipes", "Recipe"),
                ("environment", "environment", "What it ran on"),
            )
            if shown[key]
        ),
        ("next", "Go on with"),
    ]
    return sections if len(sections) > 3 else []


def _is_chinese(recipe: str | None) -> bool:
    """Whether a quickstart's stories are Chinese, so that a browser takes the right font and voice."""
    try:
        parsed = yaml.safe_load(recipe or "")
    except yaml.YAMLError:
        return False
    world = parsed.get("world") if isinstance(parsed, dict) else None
    return isinstance(world, dict) and world.get("language") == "zh"


def _title(run: RunContents) -> str:
    if run.quickstart:
        chats = not run.finished or any(stage.name != "pretrain" for stage in run.stages)
        return f"From text to a model that {'chats' if chats else 'writes'}"
    return f"{run.stages[0].title} of {run.folder.resolve().name}"


def _lead(run: RunContents) -> str:
    """What was trained, on how much, in how long: one sentence of what is known."""
    parts = []
    facts, summary = next(
        ((stage.facts, stage.summary) for stage in run.stages if stage.facts), ({}, {})
    )
    parameters = facts.get("parameters")
    parts.append(
        f"A model of {parameters:,} parameters" if isinstance(parameters, int) else "A model"
    )
    trained = summary.get("trained_parameters")
    if isinstance(trained, int) and trained != parameters:
        parts.append(f"of which {trained:,} were")
    if isinstance(facts.get("tokens"), int) and isinstance(facts.get("documents"), int):
        text = f"{facts['documents']:,} documents ({short_number(facts['tokens'])} tokens)"
        read = summary.get("tokens")
        if isinstance(read, int) and read < facts["tokens"]:
            text = f"{short_number(read)} tokens of {text}"
        parts.append(f"trained on {text}")
    if (seconds := _total_seconds(run)) > 0:
        parts.append(f"in {format_seconds(seconds)}")
    processor, threads = run.environment.get("processor"), run.environment.get("threads")
    device = run.environment.get("accelerator") or processor
    if device:
        on = f"on {device}"
        if threads and device == processor:
            on += f", {threads} thread{'s' * (threads != 1)}"
        parts.append(on)
    return " ".join(parts) + "."


def _total_seconds(run: RunContents) -> float:
    if run.journal:
        return sum(step["seconds"] for step in run.journal)
    return sum(_seconds(stage) for stage in run.stages)


def _seconds(stage: StageRun) -> float:
    seconds = [r["seconds"] for r in stage.lines() if isinstance(r.get("seconds"), (int, float))]
    return float(seconds[-1]) if seconds else 0.0


def _tiles(run: RunContents) -> list[dict[str, str]]:
    """The key results: each task's figure after the last stage that has it, and where it came from."""
    tiles: list[dict[str, str]] = []
    by_path = {column.path: column for column in COLUMNS}
    for path, label in (
        (("heldout", "excess_nats"), "Loss above entropy"),
        (("questions", "accuracy"), "Questions right"),
        (("preferences", "accuracy"), "Preferences right"),
        (("arithmetic", "accuracy"), "Sums right"),
        (("heldout", "perplexity"), "Perplexity"),
        (("heldout", "bits_per_byte"), "Bits per byte"),
    ):
        column = by_path[path]
        found = {n: e for n, raw in run.evaluations.items() if (e := column.of(raw)) is not None}
        if not found or (column.only_without_entropy and tiles):
            continue
        names = list(found)
        if path == ("heldout", "excess_nats"):  # a model of chats is no longer one of plain text
            last = min(names, key=lambda name: found[name].value)
            detail = f"nats a token, after {_within(run.title_of(last))}"
        else:
            last = names[-1]
            first = column.show(found[names[0]])[0]
            detail = (
                f"from {first} after {_within(run.title_of(names[0]))}" if len(names) > 1 else ""
            )
            detail = detail or f"n = {found[last].n}"
        value = column.show(found[last])[0]
        tiles.append({"label": label, "value": value, "detail": detail})
    if not tiles:
        tiles = [tile for stage in run.stages for tile in _loss_tiles(stage)]
    if (seconds := _total_seconds(run)) > 0:
        stages = len(run.journal) or len(run.stages)
        detail = f"{stages} step{'s' * (stages != 1)}" if run.journal else "spent training"
        tiles.append({"label": "Time", "value": format_seconds(seconds), "detail": detail})
    return tiles


def _within(title: str) -> str:
    """A title within a sentence; abbreviations keep their letters.

    >>> _within("Preference alignment (DPO)")
    'preference alignment (DPO)'
    """
    return title[:1].lower() + title[1:]


def _loss_tiles(stage: StageRun) -> list[dict[str, str]]:
    """The last losses of a run that was not evaluated otherwise."""
    tiles = []
    for records, key, label in (
        (stage.lines(), "loss", "Training loss"),
        (stage.events("evaluation"), "heldout_loss", "Held-out loss"),
        (stage.lines(), "tokens_per_second", "Speed"),
    ):
        found = [r for r in records if isinstance(r.get(key), (int, float))]
        if not found:
            continue
        value, step = float(found[-1][key]), found[-1]["step"]
        shown = short_number(round(value)) if key == "tokens_per_second" else f"{value:.3f}"
        detail = "tokens a second" if key == "tokens_per_second" else f"at step {step:,}"
        tiles.append({"label": label, "value": shown, "detail": detail})
    return tiles


def _table_note(run: RunContents) -> str:
    for evaluation in run.evaluations.values():
        task = evaluation.get("heldout")
        raw = task.get("entropy_nats") if isinstance(task, Mapping) else None
        if (entropy := read_estimate(raw)) is not None:
            return (
                f"The exact entropy of the held-out documents is {entropy.value:.3f} nats a token: "
                "no model can do better than an excess of 0. Unseen documents combine what training "
                "never combined."
            )
    return ""


def _kinds(run: RunContents) -> list[dict[str, Any]]:
    """Accuracies by kind: a table a task."""
    tables = []
    for task, title in KIND_TITLES.items():
        found = {
            name: evaluation[task]["kinds"]
            for name, evaluation in run.evaluations.items()
            if isinstance(evaluation.get(task), dict)
            and isinstance(evaluation[task].get("kinds"), dict)
        }
        kinds = list(dict.fromkeys(kind for entry in found.values() for kind in entry))
        if len(kinds) < 2:
            continue
        rows = []
        for name, entry in found.items():
            cells: list[Cell | None] = []
            for kind in kinds:
                estimate = read_estimate(entry.get(kind))
                cells.append(
                    estimate and Cell(f"{100 * estimate.value:.0f}%", "", estimate.n, best=False)
                )
            rows.append(Row(run.title_of(name), cells))
        tables.append({"title": title, "names": [k.replace("_", " ") for k in kinds], "rows": rows})
    return tables


def _samples(run: RunContents) -> list[dict[str, Any]]:
    """Each prompt once, with what every stage made of it; stages that answered alike together."""
    shared: dict[str, dict[str, list[str]]] = {}
    for name, samples in run.samples.items():
        for sample in samples:
            text = sample["text"].strip("\n") or "(nothing)"
            stages = shared.setdefault(sample["prompt"], {}).setdefault(text, [])
            stages.append(run.title_of(name))
    return [
        {
            "title": "Asked" if prompt else "Unprompted",
            "prompt": prompt,
            "answers": [
                {"title": " · ".join(dict.fromkeys(stages)), "text": text}
                for text, stages in answers.items()
            ],
        }
        for prompt, answers in shared.items()
    ]


def _stage(run: RunContents, stage: StageRun) -> dict[str, Any]:
    facts = []
    lines = stage.lines()
    if lines:
        facts.append(f"{lines[-1]['step']:,} steps")
        if isinstance(lines[-1].get("tokens"), int):
            facts.append(f"{lines[-1]['tokens']:,} tokens")
    if (seconds := _seconds(stage)) > 0:
        facts.append(format_seconds(seconds))
    memory = lines[-1].get("peak_memory_bytes") if lines else None
    if isinstance(memory, (int, float)) and memory > 0:
        facts.append(f"{memory / 2**20:,.0f} MiB at most")
    fill = stage.facts.get("fill_rate")
    if isinstance(fill, (int, float)):
        facts.append(f"rows {100 * fill:.1f}% full")
    samples = []
    for record in stage.events("evaluation"):
        texts = [str(v) for k, v in record.items() if k.startswith("sample_")]
        if texts:
            samples.append({"step": f"{record['step']:,}", "texts": texts})
    charts = stage_charts(stage, run.evaluations.get(stage.name, {}))
    return {
        "place": f"stage-{run.stages.index(stage)}",
        "title": stage.title,
        "facts": facts,
        "charts": charts,
        "samples": samples,
    }


def _timings(run: RunContents) -> list[dict[str, Any]]:
    steps = [step for step in run.journal if step["seconds"] > 0]
    longest = max((step["seconds"] for step in steps), default=0.0)
    return [
        {
            "title": step["title"],
            "width": f"{100 * step['seconds'] / longest:.1f}",
            "amount": f"{step['seconds']:.1f}s"
            if step["seconds"] < 10
            else format_seconds(step["seconds"]),
        }
        for step in steps
    ]


def _files(run: RunContents) -> list[dict[str, str]]:
    files = run.manifest.get("files")
    found = []
    for name, entry in files.items() if isinstance(files, dict) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("count"), int):
            continue
        size, nats = entry.get("text_bytes"), entry.get("total_nats")
        shown = entropy = "–"
        if isinstance(size, int) and size > 0:
            shown = f"{size / 1e6:.2f} MB"
            if isinstance(nats, (int, float)):
                entropy = f"{nats / size:.4f} nats a byte"
        count = f"{entry['count']:,}"
        found.append({"name": name, "count": count, "bytes": shown, "entropy": entropy})
    return found


def _recipes(run: RunContents) -> list[dict[str, str]]:
    found = []
    if run.quickstart and run.recipe:
        found.append({"title": "The whole run", "text": run.recipe})
    found += [{"title": s.title, "text": s.recipe} for s in run.stages if s.recipe]
    return found


def _environment(run: RunContents) -> list[tuple[str, str]]:
    rows = []
    for key, value in run.environment.items():
        if isinstance(value, dict):
            shown = ", ".join(f"{name} {version}" for name, version in value.items())
        elif isinstance(value, list):
            shown = " ".join(str(word) for word in value)
        else:
            shown = "" if value is None else str(value)
        if shown:
            rows.append((key.replace("_", " ").capitalize(), shown))
    return rows


def _commands(run: RunContents) -> list[tuple[str, str]]:
    """The folder is named as it was given: the page is read where the run was made."""
    folder = str(run.folder)
    name = f"'{folder}'" if re.search(r"[^\w@%+=:,./-]", folder) else folder
    commands = [
        (f'glassbox generate {name} --prompt "Once upon a time"', "let it continue a text"),
        (f"glassbox eval {name}", "measure it again, or beside others")
        if run.quickstart and run.manifest
        else (f"glassbox eval {name} --text FILE", "its loss on a text of yours"),
        (f"glassbox report {name}", "make this page again"),
    ]
    if any(stage.name != "pretrain" for stage in run.stages):
        commands.insert(0, (f"glassbox chat {name}", "talk with it in the terminal"))
    return commands
