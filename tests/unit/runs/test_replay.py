"""Replay: a step again to the bit, its files untouched; a planted document comes first."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch

from glassbox.core.errors import UserError
from glassbox.core.metrics import read_metrics
from glassbox.core.yaml12 import load_yaml
from glassbox.runs.recipe import parse_recipe
from glassbox.runs.replay import replay, replay_tables, weigh_documents
from glassbox.runs.setup import Setup
from glassbox.runs.train import build_trainer, run_recipe
from support.tiny_run import tiny_model, tiny_rows

STEPS, BAD, SETTLED = 60, 12, 20


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty steps on plain sentences, among them twelve documents of random letters."""
    folder = tmp_path_factory.mktemp("replay")
    rng = random.Random(0)
    animals, places = ("fox", "owl", "hen", "cat"), ("river", "barn", "hill", "road")
    documents = [
        " ".join(f"The {rng.choice(animals)} sat by the {rng.choice(places)}." for _ in range(4))
        for _ in range(700)
    ]
    for place in range(BAD):
        junk = "".join(rng.choice("qzxjkvwbgQZXJKVW?%#@") for _ in range(110))
        documents.insert(58 * place + 3, junk)
    source = folder / "text.jsonl"
    lines = (json.dumps({"text": document}) for document in documents)
    source.write_text("\n".join(lines), encoding="utf-8")
    raw = {
        "stage": "pretrain",
        "out": str(folder / "run"),
        "device": "cpu",
        "tokenizer": {"vocab_size": 300},
        "data": {"path": str(source), "row_length": 64, "rows_per_step": 6, "rows_per_batch": 3},
        "model": {
            "kind": "llama",
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 2,
            "ffn_size": 64,
            "context_length": 64,
            "dropout": 0.1,
        },
        "train": {
            "steps": STEPS,
            "lr": 0.005,
            "schedule": {"kind": "constant"},
            "log_every": 5,
            "checkpoint_every": 20,
            "keep_last": 3,
        },
    }
    run_recipe(parse_recipe(raw, where="r.yaml"))
    return folder / "run"


def contents(folder: Path) -> dict[str, bytes]:
    names = ("metrics.jsonl", "recipe.yaml", "DONE.json", "environment.json")
    files = [*(folder / name for name in names), *folder.glob("checkpoints/*/COMPLETE")]
    return {str(file): file.read_bytes() for file in files}


@pytest.mark.parametrize("step", [3, 25, 30])
def test_a_step_again_is_the_step_to_the_bit(run: Path, step: int) -> None:
    """From the start, where no checkpoint is kept before it, and from checkpoints."""
    before = contents(run)
    result = replay(run, step, documents=step == 25)
    assert contents(run) == before
    assert result.checkpoint == {3: "the start", 25: "step-00000020", 30: "step-00000020"}[step]
    expected = {3: 0, 25: 1, 30: 2}[step]
    assert (result.compared, result.differing) == (expected, [])
    lines = {r["step"]: r for r in read_metrics(run / "metrics.jsonl") if "grad_norm" in r}
    if step in lines:
        assert result.figures["grad_norm"] == lines[step]["grad_norm"]
    assert result.telemetry["update_ratio/blocks.1"] > 0
    assert result.telemetry["attention_entropy/blocks.0"] > 0


def test_a_replay_that_differs_says_so(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    text = (copy / "metrics.jsonl").read_text()
    line = next(one for one in text.splitlines() if '"step": 25' in one and "grad_norm" in one)
    changed = line.replace('"grad_norm": ', '"grad_norm": 1')
    (copy / "metrics.jsonl").write_text(text.replace(line, changed))
    result = replay(copy, 25, documents=False)
    assert result.differing == [25]
    assert "differ from what was recorded" in result.notes[0]


def test_planted_documents_come_first(run: Path) -> None:
    """Every step in which one is trained on, once the loss has settled."""
    recipe = parse_recipe({**load_yaml(run / "recipe.yaml"), "out": str(run)}, where="r.yaml")
    trainer = build_trainer(recipe, Setup(recipe))
    source, tokenizer = trainer.source, trainer.tokenizer
    assert tokenizer is not None
    planted = []
    for step in range(1, STEPS + 1):
        texts = [
            tokenizer.decode(row.tolist()) for batch in source.next_step() for row in batch.ids
        ]
        if step > SETTLED and any(_is_junk(text) for text in texts):
            planted.append(step)
    assert len(planted) >= 4
    firsts = [replay(run, step).documents[0] for step in planted]
    hits = [_is_junk(first.text) for first in firsts]
    assert all(hits), [first.text for first in firsts]


def _is_junk(text: str) -> bool:
    return sum(letter in "qzxjkvQZXJKVW?%#@" for letter in text) > 20


def test_shares_sum_to_one_and_are_those_of_each_document_s_gradient(tmp_path: Path) -> None:
    model = tiny_model().double()
    batch = tiny_rows(tmp_path).batch([0, 1, 2])
    found = weigh_documents(model, [batch], None)
    assert sum(one.share for one in found) == pytest.approx(1, abs=1e-9)
    assert sum(one.tokens for one in found) == int((batch.targets >= 0).sum())
    best = found[0]
    inside = batch.documents[best.place[1]] == best.place[2]
    ids = batch.ids[best.place[1]][inside].unsqueeze(0)
    targets = batch.targets[best.place[1]][inside].unsqueeze(0)
    loss = model.cross_entropy(model.hidden_states(ids), targets)
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    norm = torch.cat([g.flatten() for g in gradient]).norm()
    assert best.gradient_norm == pytest.approx(float(norm))
    assert best.loss_nats == pytest.approx(float(loss.detach()) / best.tokens)
    assert all(p.grad is None for p in model.parameters())


def test_what_is_no_run_or_no_step_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no recipe\.yaml"):
        replay(tmp_path, 1)
    with pytest.raises(UserError, match="has steps 1 to 60"):
        replay(run, 61)


def test_it_is_shown(run: Path) -> None:
    from rich.console import Console

    console = Console(width=150, record=True, quiet=False, file=(run / "shown.txt").open("w"))
    console.print(replay_tables(replay(run, 25), top=2))
    text = console.export_text()
    assert "1 of 1 recorded lines equal to the bit" in text
    assert "Documents by the size" in text
    assert "blocks.1" in text
