"""Evaluate models by name on tasks by name, and again from a result file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from glassbox.core.config import Spec, parse
from glassbox.core.errors import UserError
from glassbox.evaluation.scoring import BATCH_TOKENS
from glassbox.evaluation.tasks.catalogue import build_tasks
from glassbox.evaluation.tasks.config import TaskSources
from glassbox.evaluation.tasks.contamination import TrainingShards, open_training_shards
from glassbox.evaluation.tasks.documents import Data
from glassbox.evaluation.tasks.local import Bos, LocalModel
from glassbox.evaluation.tasks.remote import RemoteModel, is_url
from glassbox.evaluation.tasks.requests import AskedModel
from glassbox.evaluation.tasks.results import folder_name, read_results
from glassbox.evaluation.tasks.run import EvaluationSettings, evaluate_tasks
from glassbox.formats.open_model import find_model, open_on


class Asking(Spec):
    """How a model is asked: what of it decides answers, and what only their speed (batch_tokens, device)."""

    bos: Bos = "auto"
    batch_tokens: int = Field(BATCH_TOKENS, gt=0)
    max_tokens: int | None = Field(None, gt=0)
    sampling_seed: int = Field(0, ge=0)
    device: str = "auto"

    def open(self, reference: str, code: Sequence[str] = ()) -> AskedModel:
        """The model of a name or a URL, ready to be asked."""
        if is_url(reference):
            return RemoteModel(reference, max_tokens=self.max_tokens, seed=self.sampling_seed)
        model, tokenizer, _ = open_on(reference, self.device, code=code)
        return LocalModel(
            model,
            tokenizer,
            reference,
            bos=self.bos,
            batch_tokens=self.batch_tokens,
            max_tokens=self.max_tokens,
            seed=self.sampling_seed,
        )


def evaluate_on_tasks(
    references: Sequence[str],
    sources: TaskSources,
    settings: EvaluationSettings | None = None,
    asking: Asking | None = None,
    *,
    out: Path | None = None,
    log_samples: bool = False,
    code: Sequence[str] = (),
    show_progress: bool = True,
    contamination: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """The results (`evaluation.tasks.results`) of each model, by the name it was given.

    out: each model's files are written to a folder of its name in it, and a call that was killed goes
        on from there.
    contamination: training shards to compare the tasks with (`open_training_shards`).
    Raises UserError before any model is opened where a task or its documents are not there.
    """
    settings, asking = settings or EvaluationSettings(), asking or Asking()
    catalogue = sources.catalogue()
    specs, groups = catalogue.select([*sources.tasks, *catalogue.named])
    tasks = build_tasks(specs, Data(sources.data), num_fewshot=settings.num_fewshot)
    also = {
        "sources": sources.model_dump(mode="json"),
        "asking": asking.model_dump(mode="json"),
        "log_samples": log_samples,
    }
    found = {}
    for reference in references:
        model = asking.open(reference, code)
        training = _training_shards(reference, model, contamination) if contamination else None
        found[reference] = evaluate_tasks(
            model,
            tasks,
            groups,
            settings,
            folder=None if out is None else out / folder_name(reference),
            log_samples=log_samples,
            label=Path(reference).name,
            show_progress=show_progress,
            also=also,
            training=training,
        )
    return found


def _training_shards(reference: str, model: AskedModel, names: Sequence[str]) -> TrainingShards:
    if not isinstance(model, LocalModel):
        raise UserError(
            f"--contamination needs the model's tokenizer, which '{reference}' does not give; "
            "name a local model"
        )
    return open_training_shards(names, find_model(reference).resolve(), model.tokenizer)


def reproduce(
    path: Path | str,
    *,
    model: str | None = None,
    data: str | None = None,
    out: Path | None = None,
    code: Sequence[str] = (),
) -> tuple[dict[str, Any], list[str]]:
    """Evaluate as a result file says, and what differs from it, a line each (none: it is the same).

    model, data: in place of the file's own, where they lie elsewhere now.
    Raises UserError for what is no result file, and where a task or the model is not there.
    """
    old = read_results(path)
    written = old["settings"]
    sources = parse(TaskSources, written["sources"], where=f"'{path}', settings.sources")
    for name in sources.tasks:
        if ":" in name and name not in code:
            raise UserError(
                f"'{path}' names Python code ('{name}'), which is not run because a result file says "
                f"so; if the code is yours, name it yourself: --code {name}"
            )
    if data is not None:
        sources = sources.model_copy(update={"data": data})
    names = EvaluationSettings.model_fields
    kept = {name: written[name] for name in names if name in written}
    settings = parse(EvaluationSettings, kept, where=f"'{path}', settings")
    asking = parse(Asking, written["asking"], where=f"'{path}', settings.asking")
    reference = model or old["model"]["name"]
    new = evaluate_on_tasks(
        [reference],
        sources,
        settings,
        asking,
        out=out,
        log_samples=bool(written.get("log_samples")) and out is not None,
        code=code,
    )[reference]
    return new, differences(old, new)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What two result files disagree about: model, versions, tasks, documents, figures."""
    lines = [
        f"{part}.{key}: {old[part].get(key)} -> {new[part].get(key)}"
        for part in ("model", "versions")
        for key in sorted({*old[part], *new[part]} - {"name"})
        if old[part].get(key) != new[part].get(key)
    ]
    for name in dict.fromkeys([*old["tasks"], *new["tasks"]]):
        before, after = old["tasks"].get(name), new["tasks"].get(name)
        if before is None or after is None:
            lines.append(f"{name}: only in {'the new' if before is None else 'the old'} one")
            continue
        lines += [
            f"{name}.{key}: {before[key]} -> {after[key]}"
            for key in ("sha256", "documents_sha256", "num_fewshot", "n")
            if before[key] != after[key]
        ]
        for key in dict.fromkeys([*before["metrics"], *after["metrics"]]):
            values = [side["metrics"].get(key, {}).get("value") for side in (before, after)]
            if values[0] != values[1]:
                lines.append(f"{name}, {key}: {values[0]} -> {values[1]}")
    return lines
