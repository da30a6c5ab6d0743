"""Checks of user-defined parts, to be called in their tests; each raises AssertionError if a check
fails.

    from glassbox.api.checks import check_mixer

    def test_mixer():
        check_mixer("my.py:Mixer")
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from glassbox.core.distributed import Group
from glassbox.data.curation.python_step import PythonStepSpec
from glassbox.data.curation.runner import Output, run_curation
from glassbox.data.curation.shard_files import read_records
from glassbox.data.curation.sources import FilesSource, find_sources
from glassbox.data.python_source import PythonSource
from glassbox.evaluation.tasks.documents import Data
from glassbox.evaluation.tasks.python_task import load_task
from glassbox.evaluation.tasks.task import Item, Task
from glassbox.layers.python_layer import PythonMixer
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.models.shapes import LlamaShape
from glassbox.optim.python_optimizer import PythonOptimizer
from glassbox.optim.schedules.python_schedule import PythonSchedule
from glassbox.tokenizers import train_tokenizer
from glassbox.training.python_metric import PythonMetric
from glassbox.tuning.grading.python_grader import PythonGrader
from glassbox.tuning.preference.python_loss import Answers, PythonLoss


def check_mixer(
    path: str, options: Mapping[str, Any] | None = None, *, hidden_size: int = 16, length: int = 12
) -> None:
    """Check a mixer inside a model.

    No position depends on a later one, packed documents are independent of each other, cached
    decoding equals the full forward pass, and every parameter receives a gradient. Computed in
    float64, with a tolerance of 1e-9.
    """
    torch.manual_seed(0)
    mixer = PythonMixer(path=path, options=dict(options or {}))
    block = Repeat(block=BlockSpec(mixer=mixer, ffn=None), times=2)
    model = CausalLM(
        ModelConfig(
            vocab_size=11, hidden_size=hidden_size, context_length=2 * length, blocks=(block,)
        )
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ids = torch.randint(0, 11, (2, length))
    full = model(ids)
    changed = ids.clone()
    changed[:, length // 2] = (changed[:, length // 2] + 1) % 11
    before = slice(0, length // 2)
    gap = float((model(changed)[:, before] - full[:, before]).abs().max())
    assert gap < 1e-9, f"a position sees a later token: logits before it move by {gap:.1e}"
    documents = torch.zeros_like(ids)
    documents[:, length // 2 :] = 1
    packed = model(ids, documents=documents)[:, length // 2 :]
    gap = float((packed - model(ids[:, length // 2 :])).abs().max())
    assert gap < 1e-9, f"packed documents see each other: logits move by {gap:.1e}"
    state = model.init_state(2, length, torch.float64)
    for place in range(length):
        where = torch.full((2, 1), place)
        logits = model(ids[:, place : place + 1], positions=where, state=state)
        gap = float((logits[:, 0] - full[:, place]).abs().max())
        assert gap < 1e-9, f"cached decoding differs at position {place}: by {gap:.1e}"
    full.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"'{name}' gets no gradient"


def check_optimizer(
    path: str, options: Mapping[str, Any] | None = None, *, learning_rate: float = 0.01
) -> None:
    """Check an optimizer on a small regression.

    The loss falls, and a run resumed from `state_dict` in the middle ends with exactly the weights
    of an uninterrupted one.
    """
    spec = PythonOptimizer(path=path, options=dict(options or {}))
    torch.manual_seed(0)
    inputs = torch.randn(32, 4)
    wanted = inputs.sum(dim=1, keepdim=True)

    def run(*, resume_at: int | None) -> tuple[list[float], nn.Module]:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        optimizer, losses = spec.build(model), []
        for step in range(40):
            if step == resume_at:
                saved = {name: tensor.clone() for name, tensor in optimizer.state_dict().items()}
                optimizer = spec.build(model)
                optimizer.load_state_dict(saved)
            optimizer.zero_grad()
            loss = (model(inputs) - wanted).square().mean()
            loss.backward()
            losses.append(float(loss))
            optimizer.step(learning_rate)
        return losses, model

    losses, whole = run(resume_at=None)
    assert losses[-1] < 0.9 * losses[0], f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f}"
    _, broken = run(resume_at=17)
    for one, other in zip(whole.parameters(), broken.parameters(), strict=True):
        assert torch.equal(one, other), "a resumed run differs: state_dict does not hold everything"


def check_schedule(
    path: str, options: Mapping[str, Any] | None = None, *, steps: int = 100
) -> None:
    """Check that a schedule returns finite numbers >= 0 at every step, and the same ones when
    called again.
    """
    schedule = PythonSchedule(path=path, options=dict(options or {}))
    factors = [schedule.factor(step, steps) for step in range(steps)]
    assert factors == [schedule.factor(step, steps) for step in range(steps)], (
        "the schedule remembers: a resumed run would get other rates"
    )


def check_preference_loss(path: str, options: Mapping[str, Any] | None = None) -> None:
    """Check that a preference loss returns one finite number a pair, and falls as the chosen answer
    becomes more probable.
    """
    spec = PythonLoss(path=path, options=dict(options or {}))
    torch.manual_seed(0)
    sums = [-10 * torch.rand(6, dtype=torch.float64) for _ in range(4)]
    chosen = Answers(sums[0].requires_grad_(), torch.arange(3.0, 9.0).double(), sums[1])
    rejected = Answers(sums[2].requires_grad_(), torch.arange(4.0, 10.0).double(), sums[3])
    losses = spec.make("preference loss", chosen, rejected)
    assert losses.shape == (6,), f"got {tuple(losses.shape)} for 6 pairs"
    assert bool(losses.isfinite().all()), "a loss is not finite"
    losses.sum().backward()
    assert sums[0].grad is not None, "the chosen answers get no gradient"
    assert bool((sums[0].grad <= 0).all()), "a likelier chosen answer makes a loss larger"


def check_grader(
    path: str, problem: Mapping[str, Any], completions: Mapping[str, float | None], **options: Any
) -> None:
    """Check that a grader returns the expected numbers for some completions (None: any finite
    number).
    """
    grade = PythonGrader(path=path, options=options).build(None)
    for completion, expected in completions.items():
        found = grade(completion, problem)
        assert math.isfinite(found), f"{completion!r}: {found} is not finite"
        assert expected is None or math.isclose(found, expected), (
            f"{completion!r}: got {found}, expected {expected}"
        )


def check_source(path: str, options: Mapping[str, Any] | None = None) -> list[Any]:
    """Check that a data source yields JSON-serializable items, the same ones when called again;
    return them.
    """
    source = PythonSource(path=path, options=dict(options or {}))
    items = [item for _, item in source.items()]
    assert items, "the source gives no items"
    for number, item in enumerate(items, start=1):
        assert isinstance(item, str | Mapping), f"item {number} is a {type(item).__name__}"
        json.dumps(item)
    again = [item for _, item in source.items()]
    assert items == again, "called again, the source gives other items: a resumed run would differ"
    return items


def check_step(
    path: str, documents: Sequence[str], options: Mapping[str, Any] | None = None
) -> tuple[list[str], dict[str, int]]:
    """Run a curation step on documents twice and check that the results agree.

    Returns the texts that are kept, and the number of dropped documents by reason.
    """
    step = PythonStepSpec(path=path, options=dict(options or {}))
    results = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            rows = "".join(json.dumps({"text": text}) + "\n" for text in documents)
            (folder / "documents.jsonl").write_text(rows, encoding="utf-8")
            found = find_sources(
                [FilesSource(path=str(folder / "documents.jsonl"))], downloads=folder
            )
            out = folder / "out"
            (out / "documents").mkdir(parents=True)
            tally = run_curation(found, [(step.counted_as, step.build())], Output(out))
            assert tally is not None
            shards = sorted((out / "documents").glob("*.jsonl"))
            kept = [record.text for shard in shards for record in read_records(shard)]
            results.append((kept, dict(tally.step(step.counted_as).dropped)))
    assert results[0] == results[1], "run again, the step gives another result"
    return results[0]


def check_task(path: str) -> list[tuple[Any, ...]]:
    """An evaluation task: every document gives requests, and the right answers get full marks.

    Returns the arguments of all requests: (prompt, continuation), (text,) or (prompt, settings).
    """
    task = load_task(path).build(Data())
    asked: list[tuple[Any, ...]] = []
    for item in task.items():
        assert item.requests, f"document {item.doc_id} gives no requests"
        asked += [request.arguments for request in item.requests]
        marks = task.judge(item, _right_answers(task, item))
        assert marks, f"document {item.doc_id} gets no values"
        for name in ("acc", "exact_match"):
            assert marks.get(name, 1) == 1, (
                f"document {item.doc_id}: the right answer gets {name} = {marks[name]}; is the "
                "target among the choices?"
            )
    return asked


def _right_answers(task: Task, item: Item) -> list[Any]:
    """What a model would answer that knows everything."""
    if item.requests[0].kind == "generate_until":
        target = task.target(item.doc)
        if task.has_choices:
            target = task.choices(item.doc)[target]
        return [str(target[0] if isinstance(target, list) else target)]
    if item.requests[0].kind == "loglikelihood_rolling":
        return [-1.0]
    if not task.has_choices:
        return [(-1.0, True, 1) for _ in item.requests]
    gold = task.gold(item.doc, task.choices(item.doc))
    right = set(gold) if isinstance(gold, list) else {gold}
    count = len(task.choices(item.doc))
    return [(-1.0 if n in right else -100.0, n in right, 1) for n in range(count)] + [
        (-50.0, False, 1) for _ in item.requests[count:]
    ]


def check_metric(path: str, options: Mapping[str, Any] | None = None) -> dict[str, float]:
    """Check that a metric of a tiny model returns finite numbers and leaves the weights unchanged;
    return them by name.
    """
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["Once upon a time there was a story. "] * 4, 300)
    shape = LlamaShape(hidden_size=16, num_layers=1, num_heads=2, ffn_size=24, context_length=64)
    model = CausalLM(shape.config(tokenizer.vocab_size)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    metric = PythonMetric(path=path, options=dict(options or {}))
    hook = metric.build(tokenizer, every=1, group=Group())
    values = {name: float(value) for name, value in hook(model, 1).items()}
    assert values, "the metric gives no values"
    for name, value in values.items():
        assert math.isfinite(value), f"'{name}' is {value}"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"the metric changes the weights of '{name}'"
    return values
