"""A token mixer of your own: a causal moving average whose width each channel learns.

    python examples/my_mixer.py [FOLDER]

The module maps (B, T, D) to (B, T, D) and looks at earlier positions alone; packed documents and cached
generation are taken care of. In a recipe: mixer: {kind: python, path: my_mixer.py:LearnedAverage}
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import glassbox


class LearnedAverage(nn.Module):
    """h_t = a * h_(t-1) + (1 - a) * v_t with a rate `a` for each channel, computed as one product."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.value = nn.Linear(hidden_size, hidden_size, bias=False)
        self.gate = nn.Linear(hidden_size, hidden_size)
        self.rate = nn.Parameter(torch.linspace(-2.0, 4.0, hidden_size))

    def forward(self, hidden: Tensor) -> Tensor:
        order = torch.arange(hidden.shape[1], device=hidden.device)
        distance = (order[:, None] - order[None, :]).clamp(min=0)  # (T, T)
        keep = torch.sigmoid(self.rate)  # (D,)
        weights = (1 - keep) * keep ** distance[..., None] * (order[:, None] >= order)[..., None]
        mixed = torch.einsum("tsd,bsd->btd", weights, self.value(hidden))
        return mixed * torch.sigmoid(self.gate(hidden))


def main(folder: Path) -> float:
    """Train a model of two such layers on a book by a recipe; the loss at the end, in nats."""
    block = {
        "mixer": {"kind": "python", "path": f"{__file__}:LearnedAverage"},
        "ffn": {"kind": "swiglu", "size": 96},
    }
    model = {"kind": "blocks", "hidden_size": 48, "context_length": 64, "blocks": [{"block": block, "times": 2}]}  # fmt: skip
    book = Path(__file__).parent / "data" / "mybook.txt"
    data = {"path": str(book), "row_length": 64, "rows_per_step": 8}
    train = {
        "steps": 60,
        "lr": 5e-3,
        "schedule": {"kind": "warmup_cosine", "warmup_steps": 5},
        "log_every": 60,
    }
    recipe = {"stage": "pretrain", "out": str(folder / "run"), "model": model, "data": data, "train": train, "tokenizer": {"vocab_size": 400}}  # fmt: skip
    result = glassbox.run_recipe(recipe)
    own = glassbox.load(result.folder, code=[f"{__file__}:LearnedAverage"])
    print(own.generate("Once upon a time", max_tokens=20, seed=0))
    return float(glassbox.evaluate(own, book, limit=5)["heldout"]["loss_nats"]["value"])


if __name__ == "__main__":
    print(main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())), "nats a token")
