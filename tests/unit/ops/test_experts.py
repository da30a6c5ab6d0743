"""Routing and the experts' products: fast against plain, and both against loops and transformers."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from glassbox.ops.activations import gelu, swiglu
from glassbox.ops.experts import experts_grouped, experts_plain
from glassbox.ops.routing import balance_loss, expert_loads, route, within_capacity, z_loss

FLOAT64 = {"rtol": 1e-11, "atol": 1e-12}  # sums in another order


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(0, 9),
    num_experts=st.integers(1, 6),
    data=st.data(),
    bias=st.booleans(),
    gated=st.booleans(),
    dropping=st.booleans(),
)
def test_grouped_dispatch_equals_the_masked_loop(tokens, num_experts, data, bias, gated, dropping):
    """Outputs and the gradients of everything that has one, whatever nobody chose among it."""
    top_k = data.draw(st.integers(1, num_experts))
    size, width = 3, 4
    middle = 2 * width if gated else width
    routing = route(normal(tokens, num_experts, seed=tokens), top_k)
    kept = normal(tokens, top_k, seed=1) > 0 if dropping else None
    given = [
        normal(tokens, size, seed=2),
        routing.gates,
        normal(num_experts, middle, size, seed=3),
        normal(num_experts, size, width, seed=4),
        normal(num_experts, middle, seed=5) if bias else None,
        normal(num_experts, size, seed=6) if bias else None,
    ]
    results = []
    for function in (experts_plain, experts_grouped):
        x, gates, up, down, up_bias, down_bias = leaves = [
            None if tensor is None else tensor.clone().requires_grad_() for tensor in given
        ]
        output = function(
            x,
            routing.experts,
            gates,
            up,
            down,
            swiglu if gated else gelu,
            up_bias=up_bias,
            down_bias=down_bias,
            kept=kept,
        )
        (output * normal(tokens, size, seed=7)).sum().backward()
        results.append([output, *(leaf.grad for leaf in leaves if leaf is not None)])
    for plain, grouped in zip(*results, strict=True):
        torch.testing.assert_close(grouped, plain, **FLOAT64)


def test_gradients_of_the_dispatch_are_the_derivatives():
    experts = torch.tensor([[0, 2], [2, 0], [3, 2]])
    kept = torch.tensor([[True, True], [True, False], [True, True]])
    inputs = [normal(3, 2), normal(3, 2, seed=1), normal(4, 6, 2, seed=2), normal(4, 2, 3, seed=3)]

    def function(x, gates, up, down):
        return experts_grouped(x, experts, gates, up, down, swiglu, kept=kept)

    assert torch.autograd.gradcheck(function, [tensor.requires_grad_() for tensor in inputs])


def test_experts_that_nobody_chose_are_not_touched():
    """Their weights may be anything: a cost that grew with all experts would have to read them."""
    x = normal(1, 4)
    up, down = normal(5, 6, 4, seed=1), normal(5, 4, 3, seed=2)
    experts, gates = torch.tensor([[3, 1]]), torch.tensor([[0.7, 0.3]], dtype=torch.float64)
    before = experts_grouped(x, experts, gates, up, down, swiglu)
    for unused in (0, 2, 4):
        up[unused] = down[unused] = torch.nan
    assert torch.equal(experts_grouped(x, experts, gates, up, down, swiglu), before)
    assert experts_plain(x, experts, gates, up, down, swiglu).isnan().all()


@pytest.mark.parametrize("normalize", [True, False])
def test_softmax_routing_by_hand(normalize):
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0]], dtype=torch.float64)
    routing = route(logits, 2, normalize=normalize, scale=2.0)
    assert routing.experts.tolist() == [[1, 2]]
    total = sum(math.exp(x) for x in ((3, 2) if normalize else (0, 1, 2, 3)))
    expected = [2 * math.exp(3) / total, 2 * math.exp(2) / total]
    assert routing.gates[0].tolist() == pytest.approx(expected)
    assert float(routing.probabilities.sum()) == pytest.approx(1.0)


def test_normalised_gates_are_the_softmax_of_the_chosen_logits():
    logits = normal(20, 8)
    routing = route(logits, 3)
    chosen = logits.gather(-1, routing.experts).softmax(-1)
    torch.testing.assert_close(routing.gates, chosen, **FLOAT64)


def dense(experts: torch.Tensor, gates: torch.Tensor, count: int) -> torch.Tensor:
    return torch.zeros(len(gates), count, dtype=gates.dtype).scatter(1, experts, gates)


@pytest.mark.parametrize("normalize", [True, False])
def test_sigmoid_routing_with_groups_and_bias_is_deepseek_v3s(normalize):
    config = SimpleNamespace(
        num_experts_per_tok=3,
        num_local_experts=12,
        hidden_size=5,
        routed_scaling_factor=2.5,
        n_group=4,
        topk_group=2,
        norm_topk_prob=normalize,
    )
    theirs = DeepseekV3TopkRouter(config)
    x, weight = normal(50, 5).float(), normal(12, 5, seed=1).float()
    theirs.weight.data = weight
    theirs.e_score_correction_bias = 0.5 * normal(12, seed=2).float()
    logits, gates, experts = theirs(x)
    ours = route(
        logits,
        3,
        score="sigmoid",
        normalize=normalize,
        scale=2.5,
        num_groups=4,
        top_groups=2,
        group_score="top2",
        choice_bias=theirs.e_score_correction_bias,
    )
    torch.testing.assert_close(dense(ours.experts, ours.gates, 12), dense(experts, gates, 12))


def test_softmax_routing_with_groups_is_deepseek_v2s():
    config = SimpleNamespace(
        num_experts_per_tok=3,
        num_experts=12,
        hidden_size=5,
        routed_scaling_factor=16.0,
        topk_method="group_limited_greedy",
        n_group=4,
        topk_group=2,
    )
    theirs = DeepseekV2TopkRouter(config)
    theirs.weight.data = normal(12, 5, seed=1).float()
    logits, gates, experts = theirs(normal(50, 5).float())
    ours = route(logits, 3, normalize=False, scale=16.0, num_groups=4, top_groups=2)
    torch.testing.assert_close(dense(ours.experts, ours.gates, 12), dense(experts, gates, 12))


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_choice_bias_changes_the_choice_and_never_a_gate(score, normalize):
    logits = normal(40, 6)
    bias = torch.zeros(6, dtype=torch.float64)
    bias[4] = 10.0
    plain = route(logits, 2, score=score, normalize=normalize)
    biased = route(logits, 2, score=score, normalize=normalize, choice_bias=bias)
    assert (biased.experts == 4).any(1).all()
    assert not torch.equal(biased.experts, plain.experts)
    scores = logits.softmax(-1) if score == "softmax" else logits.sigmoid()
    gates = scores.gather(1, biased.experts)
    if normalize:
        gates = gates / gates.sum(1, keepdim=True)
    torch.testing.assert_close(biased.gates, gates, **FLOAT64)
    assert torch.equal(biased.probabilities, plain.probabilities)


def served_by_a_loop(experts, gates, capacity, priority, candidates):
    pairs = [(t, k) for t in range(len(experts)) for k in range(experts.shape[1])]
    pairs = [(t, k) for t, k in pairs if candidates is None or candidates[t, 0]]
    if priority == "gate":
        pairs.sort(key=lambda pair: -float(gates[pair]))  # stable: ties in order of arrival
    taken: dict[int, int] = {}
    served = torch.zeros_like(experts, dtype=torch.bool)
    for pair in pairs:
        expert = int(experts[pair])
        served[pair] = taken.get(expert, 0) < capacity
        taken[expert] = taken.get(expert, 0) + 1
    return served


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(0, 12),
    capacity=st.integers(0, 5),
    priority=st.sampled_from(["arrival", "gate"]),
    seed=st.integers(0, 99),
    padded=st.booleans(),
)
def test_capacity_serves_whom_a_loop_would(tokens, capacity, priority, seed, padded):
    routing = route(normal(tokens, 4, seed=seed), 2)
    gates = (routing.gates * 4).round()  # with ties
    candidates = normal(tokens, 1, seed=seed + 1) > 0 if padded else None
    found = within_capacity(
        routing.experts, gates, capacity, priority=priority, candidates=candidates
    )
    expected = served_by_a_loop(routing.experts, gates, capacity, priority, candidates)
    assert torch.equal(found, expected)
    assert (expert_loads(routing.experts, 4, found) <= capacity).all()


@pytest.mark.parametrize("padded", [False, True])
def test_balance_loss_is_transformers(padded):
    logits = normal(24, 6).float().requires_grad_()
    real = torch.arange(24) % 4 != 3 if padded else None
    mask = None if real is None else real.view(2, 12).long()
    expected = load_balancing_loss_func((logits,), 6, 2, mask)
    routing = route(logits, 2)
    loads = expert_loads(routing.experts, 6, None if real is None else real[:, None])
    loss = balance_loss(routing.probabilities, loads, real)
    torch.testing.assert_close(loss, expected)
    grads = [torch.autograd.grad(value, logits)[0] for value in (loss, expected)]
    torch.testing.assert_close(*grads)


def test_balance_loss_is_least_where_all_is_even():
    even = route(torch.eye(4).double() * 1e-6, 1)
    assert float(balance_loss(even.probabilities, expert_loads(even.experts, 4))) == pytest.approx(
        1.0
    )
    skewed = route(torch.tensor([[5.0, 0, 0, 0]]).expand(4, 4), 1)
    assert float(balance_loss(skewed.probabilities, expert_loads(skewed.experts, 4))) > 3.8


def test_z_loss_by_hand():
    logits = torch.tensor([[0.0, 0.0], [1.0, 1.0], [9.0, 9.0]])
    expected = (math.log(2) ** 2 + (1 + math.log(2)) ** 2) / 2
    assert float(z_loss(logits[:2])) == pytest.approx(expected)
    assert float(z_loss(logits, torch.tensor([True, True, False]))) == pytest.approx(expected)
