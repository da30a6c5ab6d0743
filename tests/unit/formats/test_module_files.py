"""Plain modules and their optimizers in one file: to the bit, without pickles, damage found."""

from __future__ import annotations

import copy
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from glassbox.core.errors import UserError
from glassbox.formats.module_files import load_module, save_module
from glassbox.optim.adamw import AdamWConfig
from glassbox.optim.torch_interface import TorchInterface


class Tied(nn.Module):
    """Tied weights, buffers of several types, a view of another tensor, an empty one."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Embedding(8, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 8, bias=False)
        self.head.weight = self.table.weight
        base = torch.randn(3, 4)
        self.register_buffer("base", base)
        self.register_buffer("row", base[1])
        self.register_buffer("nothing", torch.empty(0))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.narrow = nn.Parameter(torch.randn(3).bfloat16())
        self.scalar = nn.Parameter(torch.tensor(2.0))

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = (
            self.head(self.norm(self.table(ids))) * self.scalar * self.narrow.float().sum()
        )
        return out


def train(model: nn.Module, optimizer: Any, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(torch.randint(8, (6,))).pow(2).mean().backward()
        optimizer.step()


KINDS: dict[str, Any] = {
    "adamw": lambda ps: torch.optim.AdamW(ps, lr=0.01),
    "amsgrad": lambda ps: torch.optim.Adam(ps, lr=0.01, amsgrad=True),
    "sgd": lambda ps: torch.optim.SGD(ps, lr=0.01, momentum=0.9),
    "rmsprop": lambda ps: torch.optim.RMSprop(ps, lr=0.01),
    "adagrad": lambda ps: torch.optim.Adagrad(ps, lr=0.01),
    "rprop": lambda ps: torch.optim.Rprop(ps, lr=0.01),
}


@pytest.mark.parametrize("kind", [*KINDS, "ours", "ours in torch's interface"])
def test_a_loaded_run_goes_on_to_the_same_bits(kind: str, tmp_path: Path) -> None:
    def made(seed: int) -> tuple[nn.Module, Any]:
        model = Tied(seed)
        if kind in KINDS:
            return model, KINDS[kind](model.parameters())
        return model, TorchInterface(AdamWConfig().build(model), lr=0.01)

    def state_of(optimizer: Any) -> Any:
        return optimizer.inner if kind == "ours" else optimizer

    model, optimizer = made(0)
    train(model, optimizer, range(3))
    extra = {"step": 3, "rates": (0.1, [1, None]), "random": torch.get_rng_state(), 5: {"a": True}}
    save_module(tmp_path / "a/model.safetensors", model, state_of(optimizer), extra=extra)
    saved = copy.deepcopy(model.state_dict())
    train(model, optimizer, range(3, 6))

    other, again = made(1)
    found = load_module(tmp_path / "a/model.safetensors", other, state_of(again))
    assert other.state_dict().keys() == saved.keys()
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, saved[name]), name
    assert found.keys() == extra.keys()
    assert (found["step"], found["rates"], found[5]) == (3, (0.1, [1, None]), {"a": True})
    assert torch.equal(found["random"], extra["random"])  # type: ignore[arg-type]
    assert other.head.weight is other.table.weight
    train(other, again, range(3, 6))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["model.safetensors"]


def test_what_does_not_fit_is_named_and_the_module_stays(tmp_path: Path) -> None:
    path = save_module(tmp_path / "m.safetensors", nn.Linear(3, 2))
    for wrong, words in (
        (nn.Linear(3, 4), r"'bias' is \(2,\) float32, the module's \(4,\) float32|'weight' is"),
        (nn.Linear(3, 2, bias=False), "'bias': the module has none"),
        (nn.Linear(3, 2).double(), "float64"),
        (nn.Bilinear(3, 3, 2), "'weight' is"),
        (nn.Sequential(nn.Linear(3, 2)), r"'0\.bias': the file lacks it"),
    ):
        before = copy.deepcopy(wrong.state_dict())
        with pytest.raises(UserError, match=words):
            load_module(path, wrong)
        assert all(torch.equal(before[k], v) for k, v in wrong.state_dict().items())
    model = nn.Linear(3, 2)
    with pytest.raises(UserError, match="holds no optimizer's state"):
        load_module(path, model, torch.optim.SGD(model.parameters()))
    save_module(path, model, torch.optim.SGD(model.parameters()))
    two = torch.optim.SGD([{"params": [model.weight]}, {"params": [model.bias]}])
    with pytest.raises(UserError, match="another optimizer"):
        load_module(path, model, two)
    with pytest.raises(UserError, match=r"extra\.f is a function"):
        save_module(path, model, extra={"f": train})
    with pytest.raises(UserError, match="no file"):
        load_module(tmp_path / "none", model)


def test_damage_is_found(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    path = save_module(tmp_path / "m.safetensors", model, extra={"step": 1})
    content = path.read_bytes()
    for position in (len(content) - 1, len(content) - 20):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged"):
            load_module(path, model)
    path.write_bytes(content[:-3])
    with pytest.raises(UserError, match="truncated"):
        load_module(path, model)
    torch.save(model.state_dict(), path)
    with pytest.raises(UserError):
        load_module(path, model)


def test_killed_while_it_writes_the_old_content_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the moment before the new file takes the old one's place."""
    path = save_module(tmp_path / "m.safetensors", nn.Linear(3, 2), extra={"step": 1})
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(Path, "replace", lambda *a: os.kill(os.getpid(), signal.SIGKILL))
        save_module(path, nn.Linear(3, 2), extra={"step": 2})
        os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert load_module(path, nn.Linear(3, 2)) == {"step": 1}
    save_module(path, nn.Linear(3, 2), extra={"step": 3})
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
