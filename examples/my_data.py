"""Data of your own: a source, a curation step, and a metric of the training run.

    python examples/my_data.py [FOLDER]

    glassbox data curate curate-web.yaml source='[{kind: python, path: "examples/my_data.py:weather"}]' \
        steps='[{kind: python, path: "examples/my_data.py:no_rain"}]' out=weather
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

import glassbox
from glassbox.data.curation.step import Dropped, Record

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SKIES = ("sunny", "cloudy", "windy", "rainy")


def weather(*, weeks: int = 40) -> Iterator[str]:
    """A source: the same documents, in the same order, each time that it is called."""
    chance = random.Random(0)
    for _ in range(weeks):
        yield " ".join(f"{day} is {chance.choice(SKIES)}." for day in DAYS)


def no_rain(record: Record, *, most: int = 1) -> Record | Dropped:
    """A curation step: drop weeks with more than `most` rainy days."""
    count = record.text.count("rainy")
    return record if count <= most else Dropped("too much rain", f"{count} days, at most {most}")


@torch.no_grad()
def knows_days(model: glassbox.CausalLM, tokenizer: glassbox.Tokenizer) -> float:
    """A metric: the share of days after which "is" is the likeliest next token."""
    prompts = [[tokenizer.eos_id, *tokenizer.encode(day)] for day in DAYS]
    likeliest = [int(model(torch.tensor([ids], device=model.device))[0, -1].argmax()) for ids in prompts]  # fmt: skip
    return sum(tokenizer.decode([id]).strip().startswith("is") for id in likeliest) / len(DAYS)


def main(folder: Path) -> float:
    """Train a tiny Llama on the weather; the metric at the end."""
    changes = {
        "out": str(folder / "run"), "data.path": {"kind": "python", "path": f"{__file__}:weather"},
        "evaluation.metrics": [{"kind": "python", "path": f"{__file__}:knows_days", "every": 20}],
        "train.steps": 60, "train.lr": 5e-3, "train.schedule.warmup_steps": 5, "data.rows_per_step": 8,
        "model.hidden_size": 48, "model.num_layers": 2, "model.num_heads": 4, "model.ffn_size": 96,
        "data.row_length": 64, "tokenizer.vocab_size": 300,
    }  # fmt: skip
    result = glassbox.run_recipe("pretrain.yaml", changes)
    return float((result.folder / "metrics.jsonl").read_text().split('"knows_days": ')[-1].split("}")[0].split(",")[0])  # fmt: skip


if __name__ == "__main__":
    print(main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())), "of the days")
