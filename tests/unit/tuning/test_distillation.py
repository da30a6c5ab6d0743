"""Distillation as runs: each mode through its recipe, the cache, resume, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from glassbox.core.errors import UserError
from glassbox.formats.huggingface import save_pretrained
from glassbox.runs.recipe import parse_recipe
from glassbox.runs.train import run_recipe
from glassbox.tokenizers import train_bpe
from glassbox.tuning.distillation.objective import same_vocabulary
from support.tiny_chat import tiny_chat_model, tiny_tokenizer
from support.tiny_run import last_weights, metrics

WORDS = ["Who has the kite?", "Mia has the kite.", "And the ball?", "Tom has it."]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distill")
    tokenizer = tiny_tokenizer()
    save_pretrained(tiny_chat_model(tokenizer), folder / "teacher", tokenizer=tokenizer)
    chats = [
        {"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]}
        for a in WORDS
        for b in WORDS
    ]
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    (folder / "problems.jsonl").write_text("\n".join(json.dumps({"prompt": w}) for w in WORDS))
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": w * 3}) for w in WORDS * 20))
    return folder


def recipe(home: Path, out: Path, **changes: Any) -> Any:
    raw: dict[str, Any] = {
        "stage": "distill",
        "out": str(out),
        "device": "cpu",
        "teacher": str(home / "teacher"),
        "model": {
            "kind": "llama", "hidden_size": 8, "num_layers": 1, "num_heads": 2, "ffn_size": 16,
            "context_length": 96,
        },
        "data": {"path": str(home / "chats.jsonl"), "row_length": 64, "rows_per_step": 4},
        "train": {
            "steps": 6, "lr": 0.01, "log_every": 1, "checkpoint_every": 2,
            "schedule": {"kind": "constant"},
        },
    }  # fmt: skip
    for key, value in changes.items():
        raw[key] = {**raw.get(key, {}), **value} if isinstance(value, dict) else value
    return parse_recipe(raw, where="test")


PROMPTS = {"form": "problems"}
ROLLOUT = {"prompts_per_step": 2, "group_size": 2, "max_tokens": 24, "temperature": 1.0}


@pytest.mark.parametrize(
    "changes",
    [
        {"distill": {"divergence": "js", "hard_weight": 0.2}},
        {"distill": {"hidden_weight": 0.5}},
        {"distill": {"top_k": 8, "temperature": 2.0}},
        {"data": {"form": "text", "path": "text.jsonl"}, "distill": {"temperature": 2.0}},
        {
            "distill": {"mode": "on_policy", "divergence": "reverse_kl"},
            "data": {"form": "problems", "path": "problems.jsonl"},
            "rollout": ROLLOUT,
        },
        {
            "distill": {"mode": "sequence"},
            "data": {"form": "problems", "path": "problems.jsonl"},
            "rollout": {**ROLLOUT, "group_size": 8, "max_tokens": 60},
        },
    ],
    ids=["js", "hidden", "cached", "text", "on_policy", "sequence"],
)
def test_each_mode_runs_and_learns(home: Path, tmp_path: Path, changes: Any) -> None:
    if "path" in changes.get("data", {}):
        changes = {
            **changes,
            "data": {**changes["data"], "path": str(home / changes["data"]["path"])},
        }
    summary = run_recipe(recipe(home, tmp_path / "run", **changes))
    assert summary["status"] == "finished"
    losses = [line["loss"] for line in metrics(tmp_path / "run") if "loss" in line]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    if changes.get("distill", {}).get("top_k"):
        assert (tmp_path / "run/teacher/cache.json").exists()


def test_an_interrupted_run_resumes_to_the_same_bits(home: Path, tmp_path: Path) -> None:
    import shutil

    for kind, distill in (("hidden", {"hidden_weight": 0.5}), ("cached", {"top_k": 8})):
        whole = tmp_path / kind
        run_recipe(recipe(home, whole, distill=distill, train={"keep_last": 9}))
        expected = last_weights(whole)
        for name in ("step-00000004", "step-00000006"):
            shutil.rmtree(whole / "checkpoints" / name)
        (whole / "DONE.json").unlink()
        run_recipe(recipe(home, whole, distill=distill, train={"keep_last": 9}))
        again = last_weights(whole)
        assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())


def test_other_vocabularies_are_refused_by_name(home: Path, tmp_path: Path) -> None:
    ours, theirs = tiny_tokenizer(), train_bpe(["Something else entirely, zebra quartz."], 290)
    same_vocabulary(ours, tiny_tokenizer())
    with pytest.raises(UserError, match=r"different tokenizers \(token \d+ is .* use a teacher"):
        same_vocabulary(ours, theirs)
    student = tiny_chat_model(theirs)
    save_pretrained(student, tmp_path / "student", tokenizer=theirs)
    with pytest.raises(UserError, match="different tokenizers"):
        run_recipe(recipe(home, tmp_path / "run", init=str(tmp_path / "student"), model=None))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"init": "x"}, "one of init"),
        ({"data": {"form": "problems"}}, "data.form = 'problems' does not go"),
        ({"distill": {"mode": "sequence"}}, "the others problems"),
        ({"distill": {"top_k": 4, "hidden_weight": 1.0}}, "top_k = 4"),
        ({"distill": {"mode": "on_policy", "hard_weight": 0.5}, "data": PROMPTS}, "hard_weight: 0"),
        (
            {"distill": {"mode": "sequence", "hard_weight": 0.5}, "data": PROMPTS},
            "teacher's text alone",
        ),
    ],
)
def test_settings_that_contradict_are_refused(home: Path, changes: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        recipe(home, home / "never", **changes)


def test_a_cache_of_something_else_is_refused(home: Path, tmp_path: Path) -> None:
    run_recipe(recipe(home, tmp_path / "run", distill={"top_k": 4}))
    (tmp_path / "run/DONE.json").unlink()
    path = tmp_path / "run/teacher/cache.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "temperature": 9.0}))
    with pytest.raises(UserError, match=r"made with temperature = 9\.0"):
        run_recipe(recipe(home, tmp_path / "run", distill={"top_k": 4}))
