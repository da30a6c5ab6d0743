"""Several ranks, started by torchrun as users start them, over gloo on the loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from glassbox.formats.huggingface import save_pretrained
from support.stages import KINDS, MORE_KINDS, make_home
from support.tiny_chat import tiny_chat_model, tiny_tokenizer
from support.tiny_run import everything, last_weights, metrics

SUPPORT = Path(__file__).parents[1] / "support"
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    # the caller's own source too, where it is not the installed one
    "PYTHONPATH": os.pathsep.join([str(SUPPORT.parent), *sys.path]),
    "GLOO_SOCKET_IFNAME": "lo",
}


def torchrun(ranks: int, script: str, *arguments: object) -> None:
    command = [sys.executable]
    if ranks > 1:
        # rendezvous at a free port of its own
        command += ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}", "--standalone"]
    command += [str(SUPPORT / script), *map(str, arguments)]
    done = subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-9000:]


def test_two_ranks_give_the_curve_and_the_weights_of_one(tmp_path: Path) -> None:
    """The same 8 rows a step: 8 at once, or 4 on each of two ranks, or two times 2 on each.

    Each rank begins with other weights, and must take rank 0's. In float64 the sums differ by
    rounding alone, about 1e-15 a term; AdamW divides by sqrt(v), which is small where gradients are,
    so ten steps of 0.01 may enlarge that to about 1e-10.
    """
    options = ["dropout=0", "wide=true", "log_every=1", "steps=10", "seed_by_rank=true"]
    torchrun(1, "tiny_run.py", tmp_path / "one", *options, "rows_per_batch=8")
    torchrun(2, "tiny_run.py", tmp_path / "two", *options, "rows_per_batch=4")
    torchrun(2, "tiny_run.py", tmp_path / "four", *options, "rows_per_batch=2")
    one = metrics(tmp_path / "one")
    weights = last_weights(tmp_path / "one")
    for name in ("two", "four"):
        other = metrics(tmp_path / name)
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert mine.keys() == theirs.keys()
            for key, value in mine.items():
                if isinstance(value, float):
                    assert abs(value - theirs[key]) < 1e-9, (name, mine, theirs)
                else:
                    assert value == theirs[key]
        for key, tensor in last_weights(tmp_path / name).items():
            torch.testing.assert_close(tensor, weights[key], rtol=0, atol=1e-9)


def test_the_load_that_moves_the_balancing_bias_is_that_of_all_ranks_and_micro_batches(
    tmp_path: Path,
) -> None:
    """Tolerances as above; the bias itself moves by whole rates, so it must be the same number."""
    options = ["dropout=0", "wide=true", "log_every=1", "steps=6", "experts=true"]
    torchrun(1, "tiny_run.py", tmp_path / "one", *options, "rows_per_batch=8")
    torchrun(2, "tiny_run.py", tmp_path / "two", *options, "rows_per_batch=2")
    one, two = last_weights(tmp_path / "one"), last_weights(tmp_path / "two")
    for key, tensor in one.items():
        if key.endswith("balance_bias"):
            assert float(tensor.abs().max()) > 0
            assert torch.equal(two[key], tensor)
        torch.testing.assert_close(two[key], tensor, rtol=0, atol=1e-9)


def test_a_run_goes_on_on_another_number_of_ranks_and_to_the_same_bits_on_its_own(
    tmp_path: Path,
) -> None:
    options = ["dropout=0.2", "wide=true", "log_every=1", "checkpoint_every=4", "keep_last=9"]
    whole = tmp_path / "two"
    torchrun(2, "tiny_run.py", whole, *options)
    files = sorted(p.name for p in (whole / "checkpoints/step-00000004/training").iterdir())
    assert files[1:5] == [
        "rng-0000.json",
        "rng-0000.safetensors",
        "rng-0001.json",
        "rng-0001.safetensors",
    ]
    for name, ranks in (("again", 2), ("alone", 1)):
        folder = tmp_path / name
        shutil.copytree(whole, folder)
        for later in ("step-00000008", "step-00000012"):
            shutil.rmtree(folder / "checkpoints" / later)
        torchrun(ranks, "tiny_run.py", folder, *options)
    again = everything(tmp_path / "again")
    assert again == everything(whole)  # dropout included: every rank's random state is saved
    rows = [[r["tokens"] for r in metrics(tmp_path / n) if "tokens" in r] for n in ("two", "alone")]
    assert rows[0] == rows[1]
    source = [everything(tmp_path / n)["state"]["source"] for n in ("two", "alone")]
    assert source[0] == source[1]


def test_process_groups_do_what_they_say_on_every_rank(tmp_path: Path) -> None:
    torchrun(2, "ranks.py", tmp_path)


def glassbox_on(ranks: int, *words: str) -> None:
    """`glassbox` under torchrun."""
    command = [sys.executable]
    if ranks > 1:
        command += ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}", "--standalone"]
    done = subprocess.run(
        [*command, "-m", "glassbox", *words],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-9000:]


@pytest.mark.parametrize("name", ["kto", "dpo", "grpo"])
def test_recipes_on_two_ranks_give_the_figures_of_one(tmp_path: Path, name: str) -> None:
    """Held-out figures too, of which each rank computes its share. In float32 sums in another order
    differ by about 1e-6 of their terms; three steps of 0.003 enlarge that to less than 1e-3."""
    tokenizer = tiny_tokenizer()
    save_pretrained(tiny_chat_model(tokenizer), tmp_path / "model", tokenizer=tokenizer)
    questions = [f"who has {n}?" for n in range(40)]
    rows: list[dict[str, object]] = [
        {"prompt": q, "chosen": f"the fox {q[8:]}", "rejected": "a ball"} for q in questions
    ]
    words = ["data.pairs_per_step=8", "data.pairs_per_batch=2", "data.heldout_share=0.2"]
    if name == "grpo":
        rows = [{"prompt": q, "answer": "Mia"} for q in questions]
        words = ["grpo.prompts_per_step=4", "grpo.group_size=4", "grpo.max_tokens=12"]
        words += ["graders=[{kind: length, target: 2, limit: 30}]", "train.schedule.warmup_steps=1"]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words += [f"init={tmp_path / 'model'}", f"data.path={tmp_path / 'data.jsonl'}", "device=cpu"]
    words += ["train.steps=3", "train.lr=0.003", "train.log_every=1", "evaluation.every=1"]
    words += ["train.schedule.warmup_steps=1", "train.checkpoint_every=0"]
    for ranks in (1, 2):
        glassbox_on(ranks, "train", f"{name}.yaml", *words, f"out={tmp_path / str(ranks)}")
    same_figures(tmp_path / "1", tmp_path / "2")


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of stage, three steps: FOLDER/1/KIND on one rank, FOLDER/2/KIND on two."""
    folder = tmp_path_factory.mktemp("stages")
    make_home(folder / "home")
    for ranks in (1, 2):
        names = [*KINDS, *MORE_KINDS]
        torchrun(ranks, "rank_stages.py", folder / str(ranks), folder / "home", *names)
    return folder


@pytest.mark.parametrize("name", [*KINDS, *MORE_KINDS])
def test_every_kind_of_stage_on_two_ranks_gives_the_figures_of_one(stages: Path, name: str) -> None:
    same_figures(stages / "1" / name, stages / "2" / name)
    assert len([line for line in metrics(stages / "2" / name) if "loss" in line]) == 3


def same_figures(first: Path, second: Path) -> None:
    """Every line of metrics, but for rounding.

    In float32 sums in another order differ by about 1e-6 of their terms; AdamW divides by gradients
    that may be as small, so three steps of 0.003 enlarge that to less than 1e-3.
    """
    one, two = metrics(first), metrics(second)
    assert len(one) == len(two)
    for mine, theirs in zip(one, two, strict=True):
        if mine.get("event") == "telemetry":  # the rest is of the first rank's documents
            mine, theirs = of_the_whole_step(mine), of_the_whole_step(theirs)
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            if (
                key.endswith("reward_accuracy")
                and abs(mine.get(key.replace("accuracy", "margin"), 1.0)) < 1e-5
            ):
                continue  # ties at a margin of zero
            if isinstance(value, str):
                assert theirs[key] == value
            else:
                assert theirs[key] == pytest.approx(value, rel=1e-3, abs=1e-3), (key, mine, theirs)


def of_the_whole_step(line: dict[str, Any]) -> dict[str, Any]:
    """Of a telemetry record what all ranks have in common: gradients and updates."""
    return {
        key: value
        for key, value in line.items()
        if key in ("step", "event") or key.startswith(("grad_", "update_ratio"))
    }


def test_a_plain_module_is_trained_in_parallel_as_torch_does(tmp_path: Path) -> None:
    torchrun(2, "data_parallel.py")
