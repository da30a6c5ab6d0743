"""Ask a model what tasks ask, judge its answers, put them together."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from glassbox.core.config import Spec
from glassbox.core.errors import UserError
from glassbox.core.files import write_json
from glassbox.core.progress import ProgressLine
from glassbox.evaluation.stats import Estimate
from glassbox.evaluation.tasks import results as files
from glassbox.evaluation.tasks.cache import Cache
from glassbox.evaluation.tasks.contamination import TrainingShards, is_clean, summary
from glassbox.evaluation.tasks.requests import Answer, AskedModel, Request
from glassbox.evaluation.tasks.spec import GroupSpec
from glassbox.evaluation.tasks.task import (
    FEWSHOT_SEED,
    ChatSettings,
    Item,
    Task,
    by_request,
    document_digest,
    filtered,
)

Selection = tuple[dict[str, Task], dict[str, GroupSpec]]
Progress = Callable[[float, str], None]


class EvaluationSettings(Spec):
    """How tasks are put to a model.

    limit: documents of each task, the first ones; 0 takes all. num_fewshot: in place of each task's
    own, unless that is fixed at 0. seed: of the choice of examples.
    """

    num_fewshot: int | None = Field(None, ge=0)
    limit: int = Field(0, ge=0)
    seed: int = FEWSHOT_SEED
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool = False
    system_prompt: str | None = None


def evaluate_tasks(
    model: AskedModel,
    tasks: Mapping[str, Task],
    groups: Mapping[str, GroupSpec] | None = None,
    settings: EvaluationSettings | None = None,
    *,
    folder: Path | None = None,
    log_samples: bool = False,
    label: str = "",
    show_progress: bool = False,
    also: Mapping[str, Any] | None = None,
    training: TrainingShards | None = None,
) -> dict[str, Any]:
    """The content of `results.json` (see `results`), which is also written where `folder` is given.

    folder: holds the answers as they come (`Cache`), so that the same call goes on where a killed one
        stopped; and the result files.
    also: further settings to write down, such as where the documents came from.
    training: what the model was trained on, to report each task's overlap with it.
    Raises UserError for documents that do not fit their task, and requests that do not fit the model.
    """
    settings = settings or EvaluationSettings()
    began = time.monotonic()
    chat = None
    if settings.apply_chat_template:
        chat = ChatSettings(model.render_chat, settings.fewshot_as_multiturn)
    elif settings.fewshot_as_multiturn:
        raise UserError("--fewshot-as-multiturn needs --apply-chat-template")
    items = {
        name: task.items(
            limit=settings.limit, system=settings.system_prompt, chat=chat, seed=settings.seed
        )
        for name, task in tasks.items()
    }
    description = model.describe()
    everything = {r.key: r for some in items.values() for item in some for r in item.requests}
    with Cache(folder, description) as cache:
        asked = ask(model, list(everything.values()), cache, label=label, show=show_progress)
        answers = {key: cache.answers[key] for key in everything}
    found: dict[str, Any] = {
        "format": files.FORMAT,
        "format_version": files.FORMAT_VERSION,
        "model": description,
        "settings": {**settings.model_dump(mode="json"), "tasks": list(tasks), **(also or {})},
        "versions": files.versions(),
        "tasks": {},
        "groups": {},
    }
    overlaps: dict[str, list[float | None]] = {}
    if training is not None:  # the shards are read once for all tasks
        docs = {name: [item.doc for item in some] for name, some in items.items()}
        overlaps = training.overlaps_of(docs, show_progress=show_progress)
    for name, task in tasks.items():
        figures, samples = judge_task(task, items[name], answers)
        written = log_samples and folder is not None
        figures["samples"] = (
            files.write_samples(folder, name, samples) if written and folder is not None else None
        )
        if training is not None:
            figures["contamination"] = contamination_figures(
                task, items[name], answers, training, overlaps[name]
            )
        found["tasks"][name] = figures
    for name, group in (groups or {}).items():
        found["groups"][name] = group_figures(group, found["tasks"], groups or {})
    found = files.plain(found)
    if folder is not None:
        files.write_results(folder, found)
        timing = {
            "seconds": round(time.monotonic() - began, 3),
            "requests": len(everything),
            "asked": asked,
            "from_cache": len(everything) - asked,
        }
        write_json(folder / files.TIMING, timing)
    return found


def ask(
    model: AskedModel, requests: Sequence[Request], cache: Cache, *, label: str, show: bool
) -> int:
    """Have all requests answered into the cache, those that it has left out; how many were asked."""
    missing = {index for index, one in enumerate(requests) if one.key not in cache.answers}
    if not missing:
        return 0
    groups = model.plan(requests)
    work = [(group, missing.intersection(group.indices)) for group in groups]
    shares = [
        group.work * len(wanted) / max(1, len(group.indices)) for group, wanted in work if wanted
    ]
    asked, done = 0, 0.0
    with ProgressLine(label or "evaluate", max(1.0, sum(shares)), enabled=show) as line:
        for group, wanted in work:
            if not wanted:
                continue
            given = list(model.answer(requests, group, wanted))
            cache.add([(requests[index].key, answer) for index, answer in given])
            asked += len(given)
            done += group.work * len(wanted) / max(1, len(group.indices))
            line.update(done, f"{asked} of {len(missing)} requests")
    return asked


def judge_task(
    task: Task, items: Sequence[Item], answers: Mapping[str, Answer]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A task's figures, and a sample for each document and filter."""
    spec = task.spec
    samples: list[dict[str, Any]] = []
    metrics: dict[str, Any] = {}
    cluster = spec.documents.cluster
    clusters = None if cluster is None else [item.doc.get(cluster) for item in items]
    for pipeline in spec.filters:
        values: dict[str, list[Any]] = {}
        for item, results in zip(items, filtered(pipeline, items, answers), strict=True):
            judged = task.judge(item, results)
            samples.append(_sample(task, item, pipeline.name, results, judged, answers))
            for name, value in judged.items():
                values.setdefault(name, []).append(value)
        known = {metric.name: metric for metric in spec.metrics}
        for name, column in values.items():
            metric = known.get(name) or spec.metrics[0].model_copy(
                update={"metric": name, "aggregation": "mean", "baseline": None}
            )
            whole = clusters if clusters is not None and len(column) == len(clusters) else None
            figure = metric.aggregate(column, whole)
            entry: dict[str, Any] = {
                **figure.to_json(),
                "higher_is_better": metric.is_better_higher,
                "aggregation": metric.aggregation_name,
            }
            if metric.baseline is not None:
                room = 1 - metric.baseline
                entry["baseline"] = metric.baseline
                entry["centred"] = (figure.value - metric.baseline) / room
            elif spec.output.kind == "multiple_choice" and name.startswith("acc"):
                entry["baseline"] = _chance(task, items)
            metrics[f"{name},{pipeline.name}"] = entry
    figures = {
        "alias": spec.alias or spec.task,
        "version": spec.version,
        "sha256": spec.digest,
        "documents_sha256": files.digest([document_digest(item.doc) for item in items]),
        "output": spec.output.kind,
        "num_fewshot": task.num_fewshot,
        "n": len(items),
        "n_total": len(task.docs),
        "metrics": metrics,
    }
    return figures, samples


def contamination_figures(
    task: Task,
    items: Sequence[Item],
    answers: Mapping[str, Answer],
    training: TrainingShards,
    shares: Sequence[float | None],
) -> dict[str, Any]:
    """A task's overlap with training shards, and its metrics on the clean items alone."""
    clean = [item for item, share in zip(items, shares, strict=True) if is_clean(share)]
    return {
        "ngram": training.ngram,
        "shards": list(training.shards),
        **summary(shares),
        "items": [
            {"doc_id": item.doc_id, "overlap": share}
            for item, share in zip(items, shares, strict=True)
            if share
        ],
        "clean_metrics": judge_task(task, clean, answers)[0]["metrics"] if clean else {},
    }


def _chance(task: Task, items: Sequence[Item]) -> float:
    """What guessing gets: the mean of 1 / options."""
    return float(np.mean([1 / len(task.choices(item.doc)) for item in items]))


def _sample(
    task: Task,
    item: Item,
    pipeline: str,
    results: Sequence[Any],
    judged: Mapping[str, Any],
    answers: Mapping[str, Answer],
) -> dict[str, Any]:
    target = task.target(item.doc)
    firsts = [one for one in item.requests if one.repeat == 0]
    lists = by_request(item, answers)
    scored = firsts[0].kind == "loglikelihood"
    cluster = task.spec.documents.cluster
    sample = {
        "doc_id": item.doc_id,
        "doc": item.doc,
        "target": target,
        "arguments": {
            f"gen_args_{n}": {f"arg_{m}": value for m, value in enumerate(one.arguments)}
            for n, one in enumerate(firsts)
        },
        "resps": [[one[:2] for one in some] if scored else some for some in lists],
        "filtered_resps": [one[:2] if scored else one for one in results],
        "filter": pipeline,
        "metrics": list(judged),
        "doc_hash": document_digest(item.doc),
        "prompt_hash": files.digest(firsts[0].arguments[0]),
        "target_hash": files.digest(str(target)),
        "cluster": None if cluster is None else item.doc.get(cluster),
        "num_tokens": [some[0][2] for some in lists] if scored else None,
    }
    return {**sample, **judged}


def group_figures(
    group: GroupSpec, tasks: Mapping[str, Any], groups: Mapping[str, GroupSpec]
) -> dict[str, Any]:
    """A group's figures over all tasks in it, those of groups within it too.

    Weighted: sum n_t x_t / sum n_t, with error sqrt(sum (n_t e_t)^2) / sum n_t; else the mean over tasks,
    with sqrt(sum e_t^2) / k. Centred: the mean of the tasks' centred values.
    """
    names = _members(group, tasks, groups)
    figures: dict[str, Any] = {}
    if group.centred:
        entries = [_first_centred(tasks[name]) for name in names]
        parts = [entry for entry in entries if entry is not None]
        if parts:
            scale = [1 / (1 - one["baseline"]) for one in parts]
            errors = [
                None if one["standard_error"] is None else one["standard_error"] * factor
                for one, factor in zip(parts, scale, strict=True)
            ]
            figures["centred,none"] = {
                **_mean([one["centred"] for one in parts], errors, [1] * len(parts)).to_json(),
                "higher_is_better": True,
                "weighted": False,
            }
    for metric in group.metrics:
        keys = {
            key
            for name in names
            for key in tasks[name]["metrics"]
            if key.split(",")[0] == metric.metric
        }
        for key in sorted(keys):
            if metric.filters and key.split(",", 1)[1] not in metric.filters:
                continue
            parts = [tasks[name]["metrics"][key] for name in names if key in tasks[name]["metrics"]]
            weights = [one["n"] if metric.weight_by_size else 1 for one in parts]
            figure = _mean(
                [one["value"] for one in parts], [one["standard_error"] for one in parts], weights
            )
            figures[key] = {
                **figure._replace(n=sum(one["n"] for one in parts)).to_json(),
                "higher_is_better": parts[0]["higher_is_better"],
                "weighted": metric.weight_by_size,
            }
    return {"alias": group.alias or group.group, "tasks": names, "metrics": figures}


def _mean(
    values: Sequence[float], errors: Sequence[float | None], weights: Sequence[float]
) -> Estimate:
    total = sum(weights)
    value = sum(w * x for w, x in zip(weights, values, strict=True)) / total
    if any(error is None for error in errors):
        return Estimate(value, None, len(values))
    squares = sum((w * (e or 0.0)) ** 2 for w, e in zip(weights, errors, strict=True))
    return Estimate(value, math.sqrt(squares) / total, len(values))


def _first_centred(task: Mapping[str, Any]) -> dict[str, Any] | None:
    for entry in task["metrics"].values():
        if "centred" in entry:
            return dict(entry)
    return None


def _members(
    group: GroupSpec, tasks: Mapping[str, Any], groups: Mapping[str, GroupSpec]
) -> list[str]:
    names: list[str] = []
    for name in group.tasks:
        if name in tasks:
            names.append(name)
        elif name in groups and groups[name] is not group:
            names += _members(groups[name], tasks, groups)
    return list(dict.fromkeys(names))
