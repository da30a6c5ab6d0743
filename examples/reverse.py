"""A task of your own in fifty lines: teach a small Llama to write a word backwards.

    python examples/reverse.py [FOLDER]

A batch source is all that is new; the objective, the loop and the model are the house's.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import glassbox
from glassbox.data.loader import TokenBatch
from glassbox.models.config import Initialization
from glassbox.optim.groups import decay_groups
from glassbox.optim.schedules.warmup_cosine import WarmupCosine

LETTERS, LENGTH, EQUALS = 12, 5, 12  # ids 0..11 are letters, 12 stands between word and answer


class Reversals:
    """Endless batches of `word = drow`; only the answer is learnt. The position is one number."""

    def __init__(self) -> None:
        self.cursor = 0

    def next_step(self) -> list[TokenBatch]:
        chance = random.Random(self.cursor)
        self.cursor += 1
        words = [[chance.randrange(LETTERS) for _ in range(LENGTH)] for _ in range(64)]
        rows = torch.tensor([[*word, EQUALS, *word[::-1]] for word in words])
        targets = rows[:, 1:].clone()
        targets[:, :LENGTH] = -100
        return [TokenBatch(rows[:, :-1], targets, torch.zeros_like(targets))]

    def state_dict(self) -> dict[str, Any]:
        return {"cursor": self.cursor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.cursor = state["cursor"]


def main(folder: Path) -> float:
    sizes = {"hidden_size": 48, "num_layers": 2, "num_heads": 2, "ffn_size": 96}
    init = Initialization(embedding_std=1.0)
    shape = glassbox.LlamaShape(**sizes, context_length=16, tie_embeddings=False, init=init)
    model = glassbox.CausalLM(shape.config(vocab_size=LETTERS + 1))
    optimizer = glassbox.AdamW(decay_groups(model.named_parameters(), weight_decay=0.01))
    config = glassbox.TrainConfig(steps=400, lr=5e-3, schedule=WarmupCosine(warmup_steps=20))
    glassbox.Trainer(
        model, glassbox.NextToken(), Reversals(), optimizer, config, folder=folder
    ).run()

    chance = random.Random("held out")
    words = [[chance.randrange(LETTERS) for _ in range(LENGTH)] for _ in range(200)]
    greedy = glassbox.SamplingParams(max_tokens=LENGTH, temperature=0.0)
    answers = glassbox.Engine(model).generate([[*word, EQUALS] for word in words], greedy)
    right = sum(a.token_ids == word[::-1] for a, word in zip(answers, words, strict=True))
    print(f"{right} of {len(words)} new words reversed")
    return right / len(words)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
