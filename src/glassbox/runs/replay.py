"""A step of a run again, to the bit, looked at from inside: `glassbox replay`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from glassbox.core.errors import UserError
from glassbox.core.metrics import read_metrics
from glassbox.core.runs import RunFolder
from glassbox.core.seeding import preserved_rng
from glassbox.core.yaml12 import load_yaml
from glassbox.formats.checkpoints import checkpoint_step, list_checkpoints
from glassbox.models.causal_lm import CausalLM
from glassbox.ops.cross_entropy import IGNORE
from glassbox.runs.recipe import parse_recipe
from glassbox.runs.setup import Setup
from glassbox.runs.train import build_trainer
from glassbox.tokenizers import Tokenizer
from glassbox.training.loop import Trainer
from glassbox.training.telemetry import TelemetryConfig

CLOCK = {
    "seconds", "step_seconds", "data_seconds", "forward_seconds", "backward_seconds",
    "optimizer_seconds", "tokens_per_second", "peak_memory_bytes",
}  # fmt: skip
"""What a clock or another machine decides; all else of a replayed line is compared to the bit."""
EXCERPT = 300


@dataclass(frozen=True)
class DocumentWeight:
    """A document's part in a step.

    gradient_norm: |g| of its summed loss: how far it pulls, whatever the others do.
    share: of the step's gradient G, <g, G> / |G|^2; the shares of all documents sum to 1 (but for layers'
        auxiliary losses). Many that agree have large shares; one that is out of line has a large |g|.
    loss_nats: a token. place: micro-batch, row, document.
    """

    share: float
    gradient_norm: float
    loss_nats: float
    tokens: int
    place: tuple[int, int, int]
    text: str


@dataclass
class Replay:
    """What became of a step: its figures, those inside, and its documents, the weightiest first.

    compared: how many recorded lines of metrics between checkpoint and step were held to those of
    the replay; differing: the steps of those that were not equal to the bit.
    """

    step: int
    checkpoint: str
    figures: dict[str, Any]
    telemetry: dict[str, float]
    documents: list[DocumentWeight]
    compared: int = 0
    differing: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON."""
        return asdict(self)


class _Kept:
    """A sink that keeps its records."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def log(self, record: Mapping[str, Any]) -> None:
        self.records.append(dict(record))


def replay(folder: Path, step: int, *, documents: bool = True) -> Replay:
    """Run a step again from the nearest checkpoint before it, and look at all that goes on in it.

    The run's files stay as they are. Raises UserError for a folder without a run, and for a step that
    the run has not taken.
    """
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"'{folder}' is no run: it holds no recipe.yaml")
    raw = {**load_yaml(folder / "recipe.yaml"), "out": str(folder)}
    recipe = parse_recipe(raw, where=str(folder / "recipe.yaml"))
    recorded = read_metrics(folder / "metrics.jsonl")
    last = max((int(record["step"]) for record in recorded), default=0)
    if not 1 <= step <= last:
        raise UserError(f"--step {step}: '{folder}' has steps 1 to {last}")
    before = [p for p in list_checkpoints(folder / "checkpoints") if checkpoint_step(p) < step]
    checkpoint = before[-1] if before else None
    begun = 0 if checkpoint is None else checkpoint_step(checkpoint)
    run = RunFolder(folder)
    with run:
        trainer = build_trainer(
            recipe.model_copy(
                update={
                    "telemetry": TelemetryConfig(every=step, rows=64),
                    "alarms": None,
                    "logging": (),
                }
            ),
            Setup(recipe),
        )
        sink, found = _Kept(), []
        with trainer.replaying(checkpoint, sink) as take:
            while trainer.state.step < step - 1:
                take()
            batches = trainer.source.next_step()
            if documents:
                with preserved_rng():
                    found = weigh_documents(trainer.model, batches, trainer.tokenizer)
            take_again(trainer, batches)
            take()
    lines = {r["step"]: r for r in sink.records if "event" not in r}
    result = Replay(
        step,
        "the start" if checkpoint is None else checkpoint.name,
        _figures(trainer),
        {k: v for r in sink.records if r.get("event") == "telemetry" and r["step"] == step
         for k, v in r.items() if k not in ("step", "event")},
        found,
    )  # fmt: skip
    for record in recorded:
        number = record["step"]
        if "event" in record or not begun < number <= step or number not in lines:
            continue
        result.compared += 1
        if _lasting(record) != _lasting(lines[number]):
            result.differing.append(number)
    _add_notes(result, recorded, begun)
    if documents and not found:
        result.notes.append("this stage's batches are no packed documents, so none are weighed")
    return result


def take_again(trainer: Trainer, batches: Sequence[Any]) -> None:
    """Let the trainer's next step have these batches, which were taken from its source already."""
    source = trainer.source
    original = source.next_step

    def once() -> Sequence[Any]:
        source.next_step = original  # type: ignore[method-assign]
        return batches

    source.next_step = once  # type: ignore[method-assign]


def _figures(trainer: Trainer) -> dict[str, Any]:
    outcome = trainer.last_outcome
    assert outcome is not None
    names = {name: total / weight for name, (total, weight) in outcome.totals.items() if weight}
    return {**names, "grad_norm": outcome.norm, "skipped": outcome.reason}


def _lasting(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
        if key not in CLOCK and not key.endswith("_seconds")
    }


def _add_notes(result: Replay, recorded: Sequence[Mapping[str, Any]], begun: int) -> None:
    if result.differing:
        result.notes.append(
            f"steps {', '.join(map(str, result.differing[:5]))} differ from what was recorded: another "
            "machine, other versions, threads or ranks than the run's (environment.json)"
        )
    if any(r.get("event") == "changed" and r["step"] > begun for r in recorded):
        result.notes.append(
            "the recipe was changed after this checkpoint; the replay has its last values"
        )


def weigh_documents(
    model: CausalLM, batches: Sequence[Any], tokenizer: Tokenizer | None
) -> list[DocumentWeight]:
    """Each document's part in the gradient of a step, the longest gradient first; without dropout.

    One backward pass a document and one a micro-batch. Empty for batches that are no packed rows.
    Gradients of the model are cleared. Tested against: shares that sum to one; planted documents.
    """
    if not all(hasattr(batch, "targets") and hasattr(batch, "documents") for batch in batches):
        return []
    parameters = [p for p in model.parameters() if p.requires_grad]
    training = model.training
    model.eval()
    try:
        whole = _gradient(model, parameters, batches)
        square = sum(float(g.double().square().sum()) for g in whole)
        found = [
            _weight(model, parameters, batch, row, number, place, whole, square, tokenizer)
            for place, batch in enumerate(batches)
            for row in range(len(batch.ids))
            for number in batch.documents[row].unique().tolist()
            if number >= 0
        ]
    finally:
        model.train(training)
    there = [one for one in found if one is not None]
    return sorted(there, key=lambda one: -one.gradient_norm)


def _gradient(
    model: CausalLM, parameters: Sequence[nn.Parameter], batches: Sequence[Any]
) -> list[Tensor]:
    """The gradient of the summed loss over micro-batches."""
    total = [torch.zeros_like(p) for p in parameters]
    for batch in batches:
        batch = batch.to(model.device)
        hidden = model.hidden_states(batch.ids, documents=batch.documents)
        loss = model.cross_entropy(hidden, batch.targets)
        for one, g in zip(
            total, torch.autograd.grad(loss, list(parameters), allow_unused=True), strict=True
        ):
            if g is not None:
                one += g
    return total


def _weight(
    model: CausalLM,
    parameters: Sequence[nn.Parameter],
    batch: Any,
    row: int,
    number: int,
    place: int,
    whole: Sequence[Tensor],
    square: float,
    tokenizer: Tokenizer | None,
) -> DocumentWeight | None:
    """One document's; None where nothing of it is trained on."""
    inside = batch.documents[row] == number
    ids, targets = batch.ids[row][inside], batch.targets[row][inside]
    tokens = int((targets != IGNORE).sum())
    if not tokens:
        return None
    hidden = model.hidden_states(ids.unsqueeze(0).to(model.device))
    loss = model.cross_entropy(hidden, targets.unsqueeze(0).to(model.device))
    gradients = torch.autograd.grad(loss, list(parameters), allow_unused=True)
    dot = norm = 0.0
    for g, total in zip(gradients, whole, strict=True):
        if g is not None:
            dot += float((g.double() * total.double()).sum())
            norm += float(g.double().square().sum())
    text = "" if tokenizer is None else tokenizer.decode(ids.tolist())
    return DocumentWeight(
        dot / square if square else 0.0,
        math.sqrt(norm),
        float(loss.detach()) / tokens,
        tokens,
        (place, row, number),
        text[:EXCERPT],
    )


def replay_tables(result: Replay, *, top: int) -> Group:
    """The replay for a terminal."""
    equal = result.compared - len(result.differing)
    lines = [f"step {result.step}, from {result.checkpoint}"]
    lines += [f"{name}  {value:.6g}" for name, value in result.figures.items() if isinstance(value, float)]  # fmt: skip
    if result.figures.get("skipped"):
        lines.append(f"skipped: {result.figures['skipped']}")
    if result.compared:
        lines.append(f"{equal} of {result.compared} recorded lines equal to the bit")
    parts: list[RenderableType] = [Text("\n".join([*lines, *result.notes]) + "\n")]
    if result.documents:
        table = Table(
            title="Documents by the size of their gradient", title_justify="left", box=None
        )
        for name in ("share", "|g|", "nats a token", "tokens", "text"):
            table.add_column(name, justify="left" if name == "text" else "right")
        for one in result.documents[:top]:
            words = " ".join(one.text.split())
            table.add_row(
                f"{100 * one.share:.1f}%",
                f"{one.gradient_norm:.3g}",
                f"{one.loss_nats:.3f}",
                str(one.tokens),
                Text(words if len(words) < 90 else f"{words[:89]}…"),
            )
        parts += [table, Text("")]
    layers: dict[str, dict[str, float]] = {}
    for key, value in result.telemetry.items():
        measure, _, layer = key.partition("/")
        if layer:
            layers.setdefault(layer, {})[measure] = value
    measures = ("residual_rms", "activation_rms", "activation_max", "grad_norm", "update_ratio", "attention_entropy", "dead_units")  # fmt: skip
    table = Table(title="Inside", title_justify="left", box=None)
    table.add_column("layer")
    for measure in measures:
        table.add_column(measure.replace("_", " "), justify="right")
    for layer, values in layers.items():
        table.add_row(layer, *(f"{values[m]:.3g}" if m in values else "" for m in measures))
    return Group(*parts, table)
