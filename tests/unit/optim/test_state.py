"""Parameter groups and the optimizer's memory."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch import nn

from glassbox.core.config import parse
from glassbox.core.errors import UserError
from glassbox.optim.adamw import AdamW
from glassbox.optim.groups import ParameterGroup, decay_groups
from glassbox.training.config import TrainConfig


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(4)
        self.frozen = nn.Linear(4, 4)
        self.frozen.requires_grad_(False)
        self.head = nn.Linear(4, 5, bias=True)
        self.head.weight = self.embedding.weight


def test_matrices_are_decayed_vectors_not_frozen_left_out_and_tied_counted_once() -> None:
    # remove_duplicate=False: names of tied parameters come twice
    groups = decay_groups(Tied().named_parameters(remove_duplicate=False), 0.1)
    assert [(sorted(g.parameters), g.weight_decay) for g in groups] == [
        (["embedding.weight"], 0.1),
        (["head.bias", "norm.bias", "norm.weight"], 0.0),
    ]


def test_a_model_all_frozen_is_refused() -> None:
    with pytest.raises(ValueError, match="unfreeze"):
        decay_groups(nn.Linear(2, 2).requires_grad_(False).named_parameters(), 0.1)


def test_a_parameter_in_two_groups_is_refused() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="'w' stands in two groups"):
        AdamW([ParameterGroup({"w": weight}), ParameterGroup({"w": weight})])


@pytest.mark.parametrize("foreach", [False, True])
def test_a_parameter_without_gradient_is_left_alone(foreach: bool) -> None:
    model = nn.Linear(3, 3)
    optimizer = AdamW(decay_groups(model.named_parameters(), 0.5), foreach=foreach)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step(0.1)
    model.bias.grad = torch.ones(3)
    optimizer.step(0.1)
    assert torch.equal(model.weight, before[0])
    assert not torch.equal(model.bias, before[1])
    assert optimizer.steps == {"weight": 0, "bias": 1}
    optimizer.zero_grad()
    assert all(p.grad is None for p in optimizer.parameters())


def run(optimizer: AdamW, first: int, last: int) -> None:
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for parameter in optimizer.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step(0.01)


@pytest.mark.parametrize("foreach", [False, True])
def test_memory_through_safetensors_goes_on_to_the_same_bits(foreach: bool) -> None:
    nets = [nn.Linear(4, 4), nn.Linear(4, 4)]
    nets[1].load_state_dict(nets[0].state_dict())
    whole, resumed = (AdamW(decay_groups(n.named_parameters(), 0.1), foreach=foreach) for n in nets)
    run(whole, 0, 20)
    run(resumed, 0, 7)
    saved = safetensors.torch.load(safetensors.torch.save(resumed.state_dict()))
    fresh = AdamW(decay_groups(nets[1].named_parameters(), 0.1), foreach=foreach)
    fresh.load_state_dict(saved)
    run(fresh, 7, 20)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[name]), name
    assert torch.equal(nets[0].weight, nets[1].weight)


def test_memory_that_does_not_fit_is_refused_by_name() -> None:
    optimizer = AdamW(decay_groups(nn.Linear(4, 4).named_parameters(), 0.1))
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"'second\.weight'"):
        optimizer.load_state_dict({k: v for k, v in state.items() if k != "second.weight"})
    with pytest.raises(ValueError, match=r"'second\.extra'"):
        optimizer.load_state_dict({**state, "second.extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"'first\.bias' has shape \(3,\).*\(4,\)"):
        optimizer.load_state_dict({**state, "first.bias": torch.zeros(3)})


def test_settings_that_contradict_each_other_are_refused() -> None:
    base = {"steps": 10, "lr": 0.1}
    with pytest.raises(UserError, match=r"warmup_steps = 10 leaves nothing of 10 steps"):
        parse(TrainConfig, {**base, "schedule": {"kind": "constant", "warmup_steps": 10}})
    with pytest.raises(UserError, match="early_stop = true needs best_metric"):
        parse(TrainConfig, {**base, "early_stop": True})
