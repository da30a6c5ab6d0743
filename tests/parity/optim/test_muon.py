"""Muon against torch.optim.Muon and against what orthogonal means."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from glassbox.optim import muon as module
from glassbox.optim.groups import ParameterGroup
from glassbox.optim.muon import Muon, Together, orthogonalize


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24), (3, 16, 8)])
def test_orthogonalize_keeps_directions_and_levels_singular_values(shape: tuple[int, ...]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = orthogonalize(matrix, steps=5)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.3
    assert values.max() < 1.3
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.mT @ result @ vh.mT  # diagonal exactly where the singular vectors are unchanged
    diagonal = torch.diagonal(inner, dim1=-2, dim2=-1)
    assert (inner - torch.diag_embed(diagonal)).abs().max() < 1e-9


def test_zero_matrix_stays_zero() -> None:
    assert orthogonalize(torch.zeros(4, 3)).abs().max() == 0


def random_parameters(seed: int) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (12, 6), "b": (6, 12), "c": (12, 6), "d": (6, 6)}
    return {k: nn.Parameter(torch.randn(s, generator=generator)) for k, s in shapes.items()}


@pytest.mark.parametrize("batched", [False, True])
def test_equals_torch_muon(batched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = random_parameters(0), random_parameters(0)
    optimizer = Muon([ParameterGroup(ours, weight_decay=0.1)], momentum=0.9, batched=batched)
    reference = torch.optim.Muon(theirs.values(), lr=0.02, momentum=0.9, weight_decay=0.1)
    # torch iterates in bfloat16; do the same here, so that what remains is the order of roundings
    plain = orthogonalize
    monkeypatch.setattr(
        module, "orthogonalize", lambda m, *, steps: plain(m.bfloat16(), steps=steps).to(m.dtype)
    )
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        for name in ours:
            gradient = torch.randn(ours[name].shape, generator=generator)
            ours[name].grad = gradient.clone()
            theirs[name].grad = gradient.clone()
        optimizer.step(0.02)
        reference.step()
    for name in ours:
        # five steps of 0.02 in bfloat16 (8 bits): 5 * 0.02 * 2^-8 * a few
        assert (ours[name] - theirs[name]).abs().max() < 4e-3, name
        assert (ours[name] - random_parameters(0)[name]).abs().max() > 2e-2


def test_batched_equals_plain() -> None:
    ours, theirs = random_parameters(2), random_parameters(2)
    one, other = (
        Muon([ParameterGroup(ours)], batched=True),
        Muon([ParameterGroup(theirs)], batched=False),
    )
    for step in range(4):
        gradients = random_parameters(10 + step)
        for name in ours:
            ours[name].grad = gradients[name].detach().clone()
            theirs[name].grad = gradients[name].detach().clone()
        one.step(0.01)
        other.step(0.01)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batched", [False, True])
def test_a_stack_is_made_orthogonal_matrix_by_matrix(batched: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    start = {name: torch.randn(5, 12, 6, generator=generator) for name in ("one", "other")}
    stacks = {name: nn.Parameter(value.clone()) for name, value in start.items()}
    apart = {
        f"{name}.{number}": nn.Parameter(matrix.clone())
        for name, stack in start.items()
        for number, matrix in enumerate(stack)
    }
    together = Muon([ParameterGroup(stacks, weight_decay=0.1)], batched=batched)
    alone = Muon([ParameterGroup(apart, weight_decay=0.1)], batched=False)
    for _ in range(3):
        for name, stack in stacks.items():
            stack.grad = torch.randn(stack.shape, generator=generator)
            for number, gradient in enumerate(stack.grad):
                apart[f"{name}.{number}"].grad = gradient.clone()
        together.step(0.02)
        alone.step(0.02)
    for name, stack in stacks.items():
        matrices = torch.stack([apart[f"{name}.{number}"].detach() for number in range(5)])
        torch.testing.assert_close(stack.detach(), matrices, rtol=1e-5, atol=1e-6)
        # sqrt(12 / 6) * orthogonal, three times 0.02: every direction of every expert has moved
        moved = torch.linalg.svdvals(stack.detach() - start[name])
        assert moved.min() > 0.01


def test_state_round_trip_through_together() -> None:
    from glassbox.optim.adamw import AdamW

    def build() -> tuple[dict[str, nn.Parameter], Together]:
        parameters = random_parameters(3)
        first = {k: parameters[k] for k in ("a", "b")}
        rest = {k: parameters[k] for k in ("c", "d")}
        return parameters, Together([Muon([ParameterGroup(first)]), AdamW([ParameterGroup(rest)])])

    def advance(parameters: dict[str, nn.Parameter], optimizer: Together, seed: int) -> None:
        for name, gradient in random_parameters(seed).items():
            parameters[name].grad = gradient.detach()
        optimizer.step(0.01)
        optimizer.zero_grad()
        assert all(p.grad is None for p in optimizer.parameters())

    parameters, optimizer = build()
    advance(parameters, optimizer, 4)
    saved = {key: tensor.clone() for key, tensor in optimizer.state_dict().items()}
    weights = {name: p.detach().clone() for name, p in parameters.items()}
    advance(parameters, optimizer, 5)

    again, resumed = build()
    with torch.no_grad():
        for name, p in again.items():
            p.copy_(weights[name])
    resumed.load_state_dict(saved)
    advance(again, resumed, 5)
    for name in parameters:
        assert torch.equal(parameters[name], again[name])


def test_refuses_vectors_and_foreign_state() -> None:
    with pytest.raises(ValueError, match="matrices only"):
        Muon([ParameterGroup({"bias": nn.Parameter(torch.zeros(3))})])
    optimizer = Muon([ParameterGroup(random_parameters(0))])
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"momentum\.a"):
        optimizer.load_state_dict({k: v for k, v in state.items() if k != "momentum.a"})
    with pytest.raises(ValueError, match="has shape"):
        optimizer.load_state_dict(state | {"momentum.a": torch.zeros(1, 1)})


def test_matrices_laid_out_as_one_are_made_orthogonal_one_by_one() -> None:
    """The update of each of q, k, v and of gate and up is that of torch's Muon on it alone: cosine 1."""
    from glassbox.layers.attention import GroupedQuery
    from glassbox.layers.feedforward import SwiGlu
    from glassbox.layers.parameter_roles import fused_rows
    from glassbox.models.causal_lm import CausalLM
    from glassbox.models.config import BlockSpec, ModelConfig, Repeat
    from glassbox.optim.muon import MuonConfig

    torch.manual_seed(0)
    block = BlockSpec(mixer=GroupedQuery(num_heads=4, num_kv_heads=2), ffn=SwiGlu(size=20))
    config = ModelConfig(
        vocab_size=30, hidden_size=16, context_length=8, blocks=(Repeat(block=block, times=2),)
    )
    model = CausalLM(config).double()
    optimizer = MuonConfig(weight_decay=0.0).build(model)
    rows = fused_rows(model)
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in rows} == {"qkv", "gate_up"}
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model(torch.randint(30, (2, 8))).square().sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    optimizer.step(0.1)
    for name, divided in rows.items():
        updates = divided.split(model.get_parameter(name).detach() - before[name])
        for gradient, update in zip(divided.split(gradients[name]), updates, strict=True):
            alone = torch.nn.Parameter(torch.zeros_like(gradient))
            muon = Muon([ParameterGroup({"alone": alone})], momentum=0.95)
            alone.grad = gradient
            muon.step(0.1)
            cosine = torch.nn.functional.cosine_similarity(
                update.flatten(), alone.detach().flatten(), dim=0
            )
            assert float(cosine) == pytest.approx(1.0, abs=1e-9)
            torch.testing.assert_close(update, alone.detach(), rtol=1e-9, atol=1e-12)
