"""An optimizer of your own: signed momentum (Signum, arXiv:1802.04434), named in a recipe.

    python examples/my_optimizer.py [FOLDER]

In a recipe: optim: {kind: python, path: my_optimizer.py:Signum, options: {momentum: 0.9}}
Torch's own need no code: optim: {kind: python, path: "torch.optim:Adagrad"}
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

import glassbox
from glassbox.optim.base import GroupedOptimizer
from glassbox.optim.groups import ParameterGroup


class Signum(GroupedOptimizer):
    """m = b m + (1 - b) g;  w -= lr (sign(m) + decay w). What `state_dict` gives is saved and resumed."""

    def __init__(self, groups: list[ParameterGroup], *, momentum: float = 0.9) -> None:
        super().__init__(groups)
        self.momentum = momentum
        self.buffers = {n: torch.zeros_like(p) for g in groups for n, p in g.parameters.items()}

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        for group in self.groups:
            for name, weight in group.parameters.items():
                if weight.grad is not None:
                    self.buffers[name].lerp_(weight.grad, 1 - self.momentum)
                    weight.mul_(1 - learning_rate * group.weight_decay)
                    weight.add_(self.buffers[name].sign(), alpha=-learning_rate)

    def state_dict(self) -> dict[str, Tensor]:
        return {f"momentum.{name}": buffer for name, buffer in self.buffers.items()}


def main(folder: Path) -> float:
    """Pre-train a tiny Llama on a book with it; the loss of the last step, in nats."""
    changes = {
        "out": str(folder / "run"), "data.path": str(Path(__file__).parent / "data" / "mybook.txt"),
        "optim": {"kind": "python", "path": f"{__file__}:Signum", "weight_decay": 0.1},
        "train.lr": 6e-3, "train.steps": 60, "train.schedule.warmup_steps": 5, "train.log_every": 60,
        "model.hidden_size": 48, "model.num_layers": 2, "model.num_heads": 4, "model.ffn_size": 96,
        "data.row_length": 64, "data.rows_per_step": 8, "tokenizer.vocab_size": 400,
    }  # fmt: skip
    result = glassbox.run_recipe("pretrain.yaml", changes)
    return float((result.folder / "metrics.jsonl").read_text().split('"loss": ')[-1].split(",")[0])


if __name__ == "__main__":
    print(main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())), "nats a token")
