"""Adapters as a user meets them: a recipe, a kill, a resume, a chat, one model of the two at the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers

from glassbox.adapters.base import adapters_of
from glassbox.core.errors import UserError
from glassbox.formats.convert import convert, load_model
from glassbox.formats.huggingface import save_pretrained
from glassbox.formats.open_model import find_model, open_model
from glassbox.runs.recipe import read_recipe
from glassbox.runs.train import run_recipe
from support.tiny_chat import SENTENCES, tiny_chat_model, tiny_tokenizer

RECIPES = Path(__file__).parents[2] / "recipes"
SHORT = [
    "data.row_length=64",
    "data.rows_per_step=2",
    "data.rows_per_batch=1",
    "train.schedule.warmup_steps=1",
    "train.lr=0.01",
    "evaluation.every=0",
    "device=cpu",
]
KINDS = {
    "lora": [],
    "dora": ["adapter.dora=true", "adapter.bias=all"],
    "bottleneck": ["adapter={kind: bottleneck, size: 4}"],
    "prefix": ["adapter={kind: prefix, tokens: 3}"],
    "prompt": ["adapter={kind: prompt, tokens: 3, quantize: nf4, compute: float32}"],
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tokenizer = tiny_tokenizer()
    save_pretrained(tiny_chat_model(tokenizer), folder / "model", tokenizer=tokenizer)
    chats = [
        [
            {"role": "user", "content": f"Say it, number {number}."},
            {"role": "assistant", "content": SENTENCES[number % 3][: 20 + number]},
        ]
        for number in range(12)
    ]
    lines = [json.dumps({"messages": chat}) + "\n" for chat in chats]
    (folder / "chats.jsonl").write_text("".join(lines))
    return folder


def words(base: Path, out: Path, steps: int = 6) -> list[str]:
    return [
        f"init={base / 'model'}",
        f"data.path={base / 'chats.jsonl'}",
        f"out={out}",
        f"train.steps={steps}",
        "train.checkpoint_every=3",
        *SHORT,
    ]


def run(recipe: str, overrides: list[str]) -> dict[str, Any]:
    return run_recipe(read_recipe(str(RECIPES / recipe), overrides))


def left(folder: Path) -> dict[str, bytes]:
    """The bits that a run ends with: the adapter's, the optimizer's."""
    last = max(folder.glob("checkpoints/step-*/COMPLETE")).parent
    names = ("adapter_model.safetensors", "adapter_base.json", "training/optimizer.safetensors")
    return {name: (last / name).read_bytes() for name in names} | {"step": last.name.encode()}


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_from_a_checkpoint_it_ends_with_the_same_bits(
    kind: str, base: Path, tmp_path: Path
) -> None:
    before = (base / "model" / "model.safetensors").read_bytes()
    out = tmp_path / "run"
    run("lora.yaml", [*words(base, out), *KINDS[kind]])
    whole = left(out)
    (out / "DONE.json").unlink()
    shutil.rmtree(out / "checkpoints" / "step-00000006")
    torch.rand(5)
    summary = run("lora.yaml", [*words(base, out), *KINDS[kind]])
    assert summary["steps"] == 6
    assert left(out) == whole
    assert (base / "model" / "model.safetensors").read_bytes() == before
    first = out / "checkpoints" / "step-00000003" / "adapter_model.safetensors"
    trained = safetensors.torch.load(whole["adapter_model.safetensors"])
    earlier = safetensors.torch.load_file(first)
    assert any(not torch.equal(tensor, earlier[name]) for name, tensor in trained.items())
    model, _, _ = open_model(out)
    assert adapters_of(model) is not None
    assert adapters_of(model).base.name == str(base / "model")


def test_killed_resumed_merged_and_opened_by_transformers(base: Path, tmp_path: Path) -> None:
    overrides = [*words(base, tmp_path / "killed", 8), "train.checkpoint_every=2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "glassbox", "train", str(RECIPES / "qlora.yaml"), *overrides],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    checkpoints = tmp_path / "killed" / "checkpoints"
    deadline = time.monotonic() + 200
    while not list(checkpoints.glob("step-0000000[2-6]/COMPLETE")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "DONE.json").exists()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run("qlora.yaml", overrides)
    run("qlora.yaml", [word.replace(str(tmp_path / "killed"), str(tmp_path / "whole"))
                       for word in overrides])  # fmt: skip
    torch.set_num_threads(threads)
    assert left(tmp_path / "killed") == left(tmp_path / "whole")

    convert(find_model(tmp_path / "killed"), tmp_path / "merged", dtype="f32")
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    adapted = load_model(find_model(tmp_path / "killed")).model
    assert adapters_of(adapted) is not None
    ids = torch.randint(adapted.config.vocab_size, (2, 12))
    with torch.no_grad():
        expected, found = adapted(ids), merged(ids).logits
        bare = load_model(base / "model").model(ids)
    # the products with 4-bit matrices are in bfloat16 on our side, in float32 on theirs
    assert float((found - expected).abs().max()) < 0.05 * float((expected - bare).abs().max())


def test_what_cannot_be_is_said(base: Path, tmp_path: Path) -> None:
    run("lora.yaml", [*words(base, tmp_path / "prompt", 3), *KINDS["prompt"]])
    with pytest.raises(UserError, match="cannot be merged"):
        convert(find_model(tmp_path / "prompt"), tmp_path / "merged")
    again = [*words(base, tmp_path / "again"), f"init={tmp_path / 'prompt'}"]
    with pytest.raises(UserError, match="is an adapter beside its base"):
        run("lora.yaml", again)
    with pytest.raises(UserError, match=r"adapter and train\.only are both given"):
        run("lora.yaml", [*words(base, tmp_path / "both"), "train.only=['*norm*']"])


def test_partial_fine_tuning_leaves_the_rest_to_the_bit(base: Path, tmp_path: Path) -> None:
    only = ["adapter=null", "train.only=['blocks.1.ffn.*']"]
    run("lora.yaml", [*words(base, tmp_path / "run", 3), *only])
    before = load_model(base / "model").model.state_dict()
    after = open_model(tmp_path / "run")[0].state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == {name for name in before if name.startswith("blocks.1.ffn.")}


def test_preferences_and_rollouts_train_an_adapter(base: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    row = {"prompt": "Say it.", "chosen": SENTENCES[0], "rejected": "No."}
    pairs.write_text(4 * (json.dumps(row) + "\n"))
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(json.dumps({"prompt": f"{n} + 1?", "answer": str(n + 1)}) + "\n"
                                for n in range(4)))  # fmt: skip
    common = [
        f"init={base / 'model'}",
        "adapter={kind: lora, rank: 2}",
        "train.steps=2",
        "train.schedule.warmup_steps=1",
        "evaluation.every=0",
        "device=cpu",
    ]
    dpo = [f"data.path={pairs}", "data.pairs_per_step=2", f"out={tmp_path / 'dpo'}"]
    grpo = [f"data.path={problems}", "grpo.prompts_per_step=2", "grpo.group_size=2",
            "grpo.max_tokens=6", f"out={tmp_path / 'grpo'}"]  # fmt: skip
    for recipe, more in (("dpo.yaml", dpo), ("grpo.yaml", grpo)):
        run(recipe, [*common, *more])
        last = max((tmp_path / recipe[:-5]).glob("checkpoints/step-*"))
        assert (last / "adapter_model.safetensors").exists()
        assert not (last / "model.safetensors").exists()
