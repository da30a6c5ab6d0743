"""Layers of the user's own: what the common tests of all mixers do not ask."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glassbox.core.errors import UserError
from glassbox.layers.python_layer import PythonFeedForward, PythonMixer
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat

SOURCE = """
from torch import nn
class Wide(nn.Module):
    def __init__(self, size, factor=2):
        super().__init__()
        self.up, self.down = nn.Linear(size, factor * size), nn.Linear(factor * size, size)
    def forward(self, x):
        return self.down(self.up(x).relu())
class Shrinks(nn.Module):
    def __init__(self, size):
        super().__init__()
    def forward(self, x):
        return x[..., :-1]
def number(size):
    return size
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def model(file: Path, mixer: str = "Wide", ffn: str = "Wide") -> CausalLM:
    block = BlockSpec(
        mixer=PythonMixer(path=f"{file}:{mixer}"),
        ffn=PythonFeedForward(path=f"{file}:{ffn}", options={"factor": 3} if ffn == "Wide" else {}),
    )
    return CausalLM(
        ModelConfig(
            vocab_size=11, hidden_size=8, context_length=16, blocks=(Repeat(block=block, times=2),)
        )
    )


def test_a_model_of_own_layers_trains(file: Path) -> None:
    own = model(file)
    loss = own(torch.tensor([[1, 2, 3]])).logsumexp(-1).sum()
    loss.backward()
    assert all(p.grad is not None for p in own.parameters())
    assert "blocks.0.ffn.inner.up.weight" in own.state_dict()


def test_what_is_no_module_or_changes_the_shape_is_one_line(file: Path) -> None:
    with pytest.raises(UserError, match=r"gave a int, not a torch\.nn\.Module"):
        model(file, mixer="number")
    with pytest.raises(UserError, match="must give the same shape"):
        model(file, mixer="Shrinks")(torch.tensor([[1, 2, 3]]))
    with pytest.raises(UserError, match="feed-forward of kind 'python'"):
        model(file, ffn="Shrinks")(torch.tensor([[1, 2, 3]]))
