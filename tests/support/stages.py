"""The smallest recipe of every kind of stage, and the data that they need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from glassbox.formats.huggingface import save_pretrained
from glassbox.runs.recipe import parse_recipe
from support.tiny_chat import tiny_chat_model, tiny_tokenizer

NAMES = ["fox", "girl", "ball", "tree", "sun", "old", "red", "home"]


def make_home(folder: Path) -> Path:
    """A tiny model and data for every kind of stage."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer()
    save_pretrained(tiny_chat_model(tokenizer), folder / "model", tokenizer=tokenizer)
    questions = [f"the {a} {b}?" for a in NAMES for b in NAMES[:5]]

    def write(name: str, rows: list[dict[str, Any]]) -> None:
        (folder / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    write("text.jsonl", [{"text": f"{q} yes, {q[4:7]}."} for q in questions])
    write("other.jsonl", [{"text": f"no {q} never"} for q in questions[:20]])
    write(
        "pairs.jsonl",
        [{"prompt": q, "chosen": f"the fox {q[4:7]}", "rejected": "a ball"} for q in questions],
    )
    write(
        "steps.jsonl",
        [{"prompt": q, "completions": ["fox", "ball"], "labels": [True, False]} for q in questions],
    )
    write("problems.jsonl", [{"prompt": q, "answer": "Mia"} for q in questions])
    write(
        "chats.jsonl",
        [
            {
                "messages": [
                    {"role": "user", "content": q},
                    {"role": "assistant", "content": f"the {q[4:7]}"},
                ]
            }
            for q in questions
        ],
    )
    return folder  # fmt: skip


COMMON = {"device": "cpu", "seed": 3, "evaluation": {"every": 2, "documents": 8}}
TRAIN = {"steps": 4, "lr": 0.003, "log_every": 1, "checkpoint_every": 1, "keep_last": 9}
ROLLOUT = {"prompts_per_step": 2, "group_size": 2, "max_tokens": 12}
ROWS = {"row_length": 64, "rows_per_step": 2}
LLAMA = {
    "kind": "llama",
    "hidden_size": 16,
    "num_layers": 1,
    "num_heads": 2,
    "ffn_size": 16,
    "context_length": 64,
}
GRADERS = [{"kind": "length", "target": 5, "limit": 40}, {"kind": "exact", "weight": 0.5}]

KINDS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "pretrain": (
        {"stage": "pretrain", "data": {"path": "text.jsonl", **ROWS}, "model": LLAMA, "tokenizer": {"path": "model"}},
        {"heldout_loss", "heldout_loss_error"},
    ),
    "sft": ({"stage": "sft", "init": "model", "data": {"path": "chats.jsonl", **ROWS}}, {"heldout_loss"}),
    "dpo": (
        {"stage": "dpo", "init": "model", "data": {"path": "pairs.jsonl", "pairs_per_step": 4}},
        {"heldout_loss", "heldout_reward_accuracy", "heldout_reward_margin"},
    ),
    "kto": (
        {"stage": "preference", "init": "model", "loss": {"kind": "kto"}, "data": {"path": "pairs.jsonl", "pairs_per_step": 4, "heldout_share": 0.2}},
        {"heldout_loss", "heldout_kl", "heldout_reward_chosen"},
    ),
    "simpo": (
        {"stage": "preference", "init": "model", "loss": {"kind": "simpo"}, "data": {"path": "pairs.jsonl", "pairs_per_step": 4}},
        {"heldout_loss", "heldout_reward_accuracy"},
    ),
    "reward": (
        {"stage": "reward", "init": "model", "data": {"path": "pairs.jsonl", "pairs_per_step": 4}},
        {"heldout_loss", "heldout_reward_accuracy"},
    ),
    "process": (
        {"stage": "reward", "init": "model", "loss": {"kind": "process"}, "data": {"path": "steps.jsonl", "pairs_per_step": 4}},
        {"heldout_loss", "heldout_step_accuracy"},
    ),
    "grpo": (
        {"stage": "grpo", "init": "model", "graders": GRADERS, "grpo": ROLLOUT, "data": {"path": "problems.jsonl"}},
        {"heldout_reward", "heldout_pass_rate", "heldout_reward/length", "heldout_reward/exact"},
    ),
    "policy": (
        {"stage": "policy", "init": "model", "graders": GRADERS, "method": {"kind": "rloo", **ROLLOUT}, "data": {"path": "problems.jsonl"}},
        {"heldout_reward", "heldout_pass_rate"},
    ),
    "distill": (
        {"stage": "distill", "teacher": "model", "model": LLAMA, "data": {"path": "chats.jsonl", **ROWS}},
        {"heldout_loss", "heldout_divergence"},
    ),
    "distill-cached": (
        {"stage": "distill", "teacher": "model", "model": LLAMA, "distill": {"top_k": 5}, "data": {"path": "text.jsonl", "form": "text", **ROWS}},
        {"heldout_loss", "heldout_divergence"},
    ),
    "distill-on-policy": (
        {"stage": "distill", "teacher": "model", "init": "model", "distill": {"mode": "on_policy"}, "rollout": ROLLOUT, "data": {"path": "problems.jsonl", "form": "problems"}},
        {"heldout_loss", "heldout_divergence"},
    ),
    "distill-sequence": (
        {"stage": "distill", "teacher": "model", "model": LLAMA, "distill": {"mode": "sequence"}, "rollout": {**ROLLOUT, "max_tokens": 40}, "data": {"path": "problems.jsonl", "form": "problems", "heldout_share": 0.3, **ROWS}},
        {"heldout_loss"},
    ),
}  # fmt: skip


MORE_KINDS: dict[str, dict[str, Any]] = {
    "orpo": {"stage": "preference", "init": "model", "loss": {"kind": "orpo"}, "data": {"path": "pairs.jsonl", "pairs_per_step": 4}},
    "ppo": {"stage": "ppo", "init": "model", "graders": GRADERS, "ppo": {**ROLLOUT, "group_size": 1, "minibatches": 1, "updates_per_rollout": 2}, "data": {"path": "problems.jsonl"}},
    "rloo": {"stage": "rloo", "init": "model", "graders": GRADERS, "rloo": {**ROLLOUT, "updates_per_rollout": 2}, "data": {"path": "problems.jsonl"}},
}  # fmt: skip
"""Others, of which no figure is expected."""


def recipe(home: Path, out: Path, name: str, **changes: Any) -> Any:
    """A kind's recipe over the data of `make_home`, with some keys changed."""
    raw = {
        **COMMON,
        "out": str(out),
        "train": TRAIN,
        **(MORE_KINDS[name] if name in MORE_KINDS else KINDS[name][0]),
        **changes,
    }
    data = {**raw["data"], "path": str(home / raw["data"]["path"])}
    named = {key: str(home / "model") for key in ("init", "teacher") if key in raw}
    if "tokenizer" in raw:
        raw["tokenizer"] = {"path": str(home / "model")}
    return parse_recipe({**raw, "data": data, **named}, where=name)
