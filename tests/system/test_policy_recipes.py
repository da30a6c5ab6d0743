"""Each policy recipe as a user runs it, interrupted and resumed: the same bits as a run that was not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from glassbox.core.errors import UserError
from glassbox.formats.huggingface import save_pretrained
from glassbox.runs.recipe import read_recipe
from glassbox.runs.train import run_recipe
from support.tiny_chat import tiny_chat_model, tiny_tokenizer
from support.tiny_run import everything, metrics


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = tiny_tokenizer()
    save_pretrained(tiny_chat_model(tokenizer), folder / "model", tokenizer=tokenizer)
    rows = [{"prompt": f"Who has {w}?", "answer": "Mia"} for w in ("it", "a kite", "the ball", "x")]
    (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def words(home: Path, out: Path, method: str, *more: str) -> list[str]:
    return [
        f"init={home / 'model'}", f"data.path={home / 'problems.jsonl'}", f"out={out}", "device=cpu",
        f"{method}.prompts_per_step=2", f"{method}.max_tokens=24", "train.steps=4", "train.schedule.warmup_steps=1",
        "train.checkpoint_every=1", "train.keep_last=9", "train.lr=0.003",
        "graders=[{kind: length, target: 5, limit: 40}, {kind: exact, weight: 0.5}]", *more,
    ]  # fmt: skip


RUNS: list[tuple[str, str, tuple[str, ...]]] = [
    ("ppo.yaml", "ppo", ("ppo.group_size=3", "ppo.minibatches=2")),
    ("rloo.yaml", "rloo", ("rloo.group_size=3", "rloo.updates_per_rollout=2")),
    ("gspo.yaml", "grpo", ("grpo.group_size=3", "grpo.tools.names=[calculator]")),
    ("dapo.yaml", "grpo", ("grpo.group_size=3",)),
    ("dr-grpo.yaml", "grpo", ("grpo.group_size=3", "grpo.kl_beta=0.1")),
]


@pytest.mark.parametrize(("recipe", "method", "more"), RUNS, ids=[r[0] for r in RUNS])
def test_an_interrupted_recipe_ends_in_the_same_bits(
    home: Path, tmp_path: Path, recipe: str, method: str, more: Any
) -> None:
    out = tmp_path / "run"
    settings: Any = read_recipe(recipe, words(home, out, method, *more))
    assert run_recipe(settings)["status"] == "finished"
    expected = everything(out)
    for step in (
        3,
        4,
    ):  # as if it had been killed after step 1, in the midst of a rollout of two updates
        shutil.rmtree(out / "checkpoints" / f"step-0000000{step}")
    shutil.rmtree(out / "checkpoints" / "step-00000002")
    (out / "DONE.json").unlink()
    assert run_recipe(settings)["status"] == "finished"
    again = everything(out)
    assert again.pop("metrics") == expected.pop("metrics")
    assert again == expected
    assert any("reward/length" in line for line in metrics(out))


def test_a_reward_model_that_gives_no_scores_is_refused(home: Path, tmp_path: Path) -> None:
    grader = f"graders=[{{kind: reward_model, model: {home / 'model'}}}]"
    settings: Any = read_recipe("rloo.yaml", [*words(home, tmp_path / "run", "rloo"), grader])
    with pytest.raises(UserError, match="score_head"):
        run_recipe(settings)
