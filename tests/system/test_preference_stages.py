"""Recipes of preferences and reward models, carried out on a tiny model: they learn, and they resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from glassbox.evaluation.storyworld import evaluate_story_world
from glassbox.formats.huggingface import save_pretrained
from glassbox.formats.open_model import open_model
from glassbox.models.scorer import sequence_scores
from glassbox.runs.recipe import read_recipe
from glassbox.runs.train import run_recipe
from glassbox.training.loop import Trainer
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

NAMES = ["fox", "girl", "ball", "tree", "sun", "old", "red", "home"]
RECIPES = ["dpo", "preference", "ipo", "orpo", "simpo", "cpo", "kto", "reward", "reward-process"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and data in which the answer that names the fox is the better one."""
    folder = tmp_path_factory.mktemp("preferences")
    tokenizer = tiny_tokenizer()
    save_pretrained(tiny_chat_model(tokenizer), folder / "model", tokenizer=tokenizer)
    questions = [f"the {a} {b} {c}?" for a in NAMES[:4] for b in NAMES for c in NAMES[:3]]
    pairs = [
        {"prompt": q, "chosen": f"the fox {q[4:7]}", "rejected": f"the ball {q[4:7]}"}
        for q in questions
    ]
    write(folder / "pairs.jsonl", pairs[16:])
    rows = [
        {
            "prompt": [{"role": "user", "content": pair["prompt"]}],
            "chosen": [{"role": "assistant", "content": pair["chosen"]}],
            "rejected": [{"role": "assistant", "content": pair["rejected"]}],
        }
        for pair in pairs[:16]
    ]
    write(folder / "preferences.heldout.jsonl", rows)
    steps = [
        {
            "prompt": pair["prompt"],
            "completions": [pair["chosen"], pair["rejected"]][:: 1 if i % 2 else -1],
            "labels": [bool(i % 2), not i % 2],
        }
        for i, pair in enumerate(pairs)
    ]
    write(folder / "steps.jsonl", steps)
    return folder


LONGER = {
    "reward": ("train.steps=30", "train.lr=0.01"),
    "reward-process": ("train.steps=40", "train.lr=0.06"),
}
"""A fresh scalar head takes more than the twelve steps of the others."""


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def run(name: str, folder: Path, out: Path, *more: str) -> dict[str, Any]:
    data = "steps" if name == "reward-process" else "pairs"
    words = [
        f"init={folder / 'model'}",
        f"data.path={folder / data}.jsonl",
        f"out={out}",
        "device=cpu",
        "data.pairs_per_step=8",
        "data.pairs_per_batch=4",
        "train.steps=12",
        "train.lr=0.003",
        "train.log_every=1",
        "train.checkpoint_every=5",
    ]
    return run_recipe(read_recipe(f"{name}.yaml", [*words, *more]))


def metrics(out: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "loss" in line]


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_learns(name: str, folder: Path, tmp_path: Path) -> None:
    assert run(name, folder, tmp_path, *LONGER.get(name, ()))["status"] == "finished"
    lines = metrics(tmp_path)
    assert sum(line["loss"] for line in lines[-3:]) < sum(line["loss"] for line in lines[:3])
    if name in ("dpo", "preference", "reward"):
        assert lines[-1]["reward_accuracy"] == 1
        assert lines[-1]["reward_margin"] > 0
    if name == "kto":
        assert lines[-1]["reward_chosen"] > lines[-1]["reward_rejected"]
        assert lines[0]["kl"] == 0
    if name == "reward-process":
        assert lines[-1]["right_steps"] == 0.5
        assert lines[-1]["step_accuracy"] > 0.9


def weights(out: Path) -> dict[str, torch.Tensor]:
    last = max(out.glob("checkpoints/step-*/COMPLETE")).parent
    return safetensors.torch.load_file(last / "model.safetensors")


@pytest.mark.parametrize("name", ["orpo", "kto", "reward"])
def test_a_run_that_was_killed_ends_with_the_same_bits(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(name, folder, tmp_path / "whole")
    step = Trainer._step

    def killed(self: Trainer) -> None:
        if self.state.step == 8:
            raise RuntimeError("killed")
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            run(name, folder, tmp_path / "parts")
    run(name, folder, tmp_path / "parts")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert ("score.weight" in whole) == (name == "reward")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_a_reward_model_opens_again_and_tells_unseen_pairs_apart(
    folder: Path, tmp_path: Path
) -> None:
    run("reward", folder, tmp_path, "optim={kind: adamw}", "loss.every_token=false")
    model, tokenizer, _ = open_model(tmp_path)
    (figures,) = [evaluate_story_world(model, tokenizer, folder, limits={"preferences": 0})]
    assert figures["scores"]["accuracy"]["value"] == 1.0
    assert figures["scores"]["accuracy"]["n"] == 16
    chat = [{"role": "user", "content": "the fox?"}, {"role": "assistant", "content": "the fox"}]
    other = [chat[0], {"role": "assistant", "content": "the ball"}]
    good, bad = sequence_scores(model, [tokenizer.encode_chat(c)[0] for c in (chat, other)])
    assert good > bad
    plain, _, _ = open_model(folder / "model")
    assert "scores" not in evaluate_story_world(plain, tokenizer, folder)


def test_sft_takes_neftune(folder: Path, tmp_path: Path) -> None:
    chats = [
        {"messages": [{"role": "user", "content": n}, {"role": "assistant", "content": f"the {n}"}]}
        for n in NAMES
    ]
    write(tmp_path / "chats.jsonl", chats)
    lasts = []
    for alpha in ("null", "5"):
        words = [f"init={folder / 'model'}", f"data.path={tmp_path}/chats.jsonl", "device=cpu"]
        words += ["data.row_length=64", "data.rows_per_step=2", "train.steps=3"]
        words += [
            f"out={tmp_path}/{alpha}",
            f"neftune_alpha={alpha}",
            "train.schedule.warmup_steps=1",
        ]
        words += ["train.log_every=1"]
        assert run_recipe(read_recipe("sft.yaml", words))["status"] == "finished"
        lasts.append(metrics(tmp_path / alpha)[0]["loss"])
    assert lasts[0] != lasts[1]
