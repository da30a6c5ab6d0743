"""The layer of experts: against the plain loop, what it leaves out, what it says, how it balances."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from glassbox.core.distributed import Group
from glassbox.layers.context import Auxiliary, Context
from glassbox.layers.experts import MixtureOfExperts, MixtureOfExpertsLayer
from glassbox.layers.feedforward import ClampedSwiGlu, GeGlu, Gelu, Relu2, SwiGlu
from glassbox.layers.initialization import Draw
from glassbox.ops.experts import experts_plain
from glassbox.ops.routing import balance_loss, expert_loads, route, z_loss
from glassbox.optim.groups import decay_groups
from support.tiny_run import Signal, TinyRun, everything, metrics, tiny_model, tiny_trainer

SIZE = 8
FLOAT64 = {"rtol": 1e-11, "atol": 1e-12}  # sums in another order


def layer_of(**fields: Any) -> MixtureOfExpertsLayer:
    words = {"num_experts": 4, "top_k": 2, "expert": SwiGlu(size=6), **fields}
    layer = MixtureOfExpertsLayer(MixtureOfExperts(**words), SIZE).double()
    draw = Draw(0.5, 0.5, 0.5, torch.Generator().manual_seed(0))
    for parameter in layer.parameters():
        draw.normal(parameter.data)
    return layer


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def context_of(length: int, **more: Any) -> Context:
    return Context(positions=torch.arange(length)[None], **more)


@pytest.mark.parametrize(
    "expert",
    [
        SwiGlu(size=6),
        SwiGlu(size=6, bias=True),
        GeGlu(size=6, tanh=False),
        Gelu(size=6),
        Relu2(size=6),
        ClampedSwiGlu(size=6, alpha=1.5, limit=0.3, bias=True),
    ],
    ids=lambda expert: expert.kind,
)
def test_the_layer_is_the_plain_loop_and_the_shared_expert(expert):
    layer = layer_of(expert=expert, shared=5, shared_gate=True, router_bias=True, routed_scale=1.5)
    hidden = normal(2, 5, SIZE).requires_grad_()
    found = layer(hidden, context_of(5))

    x = hidden.reshape(-1, SIZE)
    routing = route(x @ layer.router.weight.T + layer.router.bias, 2, scale=1.5)
    name = layer.up_name
    expected = experts_plain(
        x,
        routing.experts,
        routing.gates,
        getattr(layer, name),
        layer.down,
        expert.activate,
        up_bias=getattr(layer, f"{name}_bias"),
        down_bias=layer.down_bias,
    ).view_as(hidden)
    expected = expected + torch.sigmoid(hidden @ layer.shared_gate.weight.T) * layer.shared(hidden)
    torch.testing.assert_close(found, expected, **FLOAT64)
    inputs = [hidden, *layer.parameters()]
    weights = normal(2, 5, SIZE, seed=1)
    grads = [torch.autograd.grad((y * weights).sum(), inputs) for y in (found, expected)]
    for mine, plain in zip(*grads, strict=True):
        assert float(plain.abs().max()) > 0
        torch.testing.assert_close(mine, plain, **FLOAT64)


def test_clamped_swiglu_cuts_both_halves():
    gate_up = torch.tensor([[9.0, -9.0, 1.0, 9.0, -9.0, 2.0]])
    found = ClampedSwiGlu(size=3, alpha=2.0, limit=3.0).activate(gate_up)[0]
    gates, ups = torch.tensor([3.0, -9.0, 1.0]), torch.tensor([3.0, -3.0, 2.0])
    torch.testing.assert_close(found, (ups + 1) * gates * torch.sigmoid(2 * gates))


@pytest.mark.parametrize("how", ["lengths", "documents"])
def test_padding_goes_to_no_expert_and_counts_in_no_loss(how):
    layer = layer_of(balance_loss=0.3, z_loss=0.2, capacity_factor=1.0)  # room for all but padding
    hidden = normal(2, 5, SIZE)
    alone = [hidden[0], hidden[1, :2]]
    lengths = torch.tensor([5, 2])
    hidden[1, 2:] = 99.0
    documents = torch.tensor([[0, 0, 0, 1, 1], [0, 0, -1, -1, -1]])
    more = {"lengths": lengths} if how == "lengths" else {"documents": documents}
    padded, whole = Auxiliary(), Auxiliary()
    found = layer(hidden, context_of(5, auxiliary=padded, **more))
    both = torch.cat(alone)[None]
    expected = layer(both, context_of(7, auxiliary=whole))[0]
    torch.testing.assert_close(torch.cat((found[0], found[1, :2])), expected, **FLOAT64)
    for mine, theirs in ((padded.losses, whole.losses), (padded.measures, whole.measures)):
        assert mine.keys() == theirs.keys()
        for name in theirs:
            torch.testing.assert_close(mine[name][0], theirs[name][0], **FLOAT64)


def test_a_token_is_routed_by_itself_alone():
    """Whatever stands beside it; so nothing of the future can leak."""
    layer = layer_of().eval()
    hidden = normal(3, 5, SIZE)
    apart = torch.stack([torch.stack([layer(t[None, None])[0, 0] for t in row]) for row in hidden])
    torch.testing.assert_close(layer(hidden, context_of(5)), apart, **FLOAT64)


def test_losses_and_measures_are_those_of_the_formulas_and_only_for_who_asks():
    layer = layer_of(balance_loss=0.3, z_loss=0.2)
    hidden = normal(2, 5, SIZE)
    auxiliary = Auxiliary()
    output = layer(hidden, context_of(5, auxiliary=auxiliary))
    assert torch.equal(layer(hidden, context_of(5)), output)
    logits = hidden.view(-1, SIZE) @ layer.router.weight.T
    routing = route(logits, 2)
    loads = expert_loads(routing.experts, 4)
    assert auxiliary.losses.keys() == {"balance_loss", "router_z_loss"}
    balance = 0.3 * balance_loss(routing.probabilities, loads)
    torch.testing.assert_close(auxiliary.losses["balance_loss"][0], balance, **FLOAT64)
    torch.testing.assert_close(
        auxiliary.losses["router_z_loss"][0], 0.2 * z_loss(logits), **FLOAT64
    )
    p = routing.probabilities
    entropy = -(p * p.log()).sum(-1).mean()
    torch.testing.assert_close(auxiliary.measures["router_entropy"][0], entropy.detach(), **FLOAT64)
    assert torch.equal(auxiliary.measures["expert_load"][0], loads)
    assert float(auxiliary.measures["dropped_share"][0]) == 0.0
    silent = Auxiliary()
    layer_of()(hidden, context_of(5, auxiliary=silent))
    assert silent.total_loss() is None


def test_capacity_binds_in_training_alone_and_says_what_it_dropped():
    hidden = normal(1, 12, SIZE)
    free, full = layer_of(), layer_of(capacity_factor=0.5)
    auxiliary = Auxiliary()
    output = full(hidden, context_of(12, auxiliary=auxiliary))
    assert not torch.allclose(output, free(hidden))
    assert torch.equal(full.eval()(hidden), free(hidden))
    loads = auxiliary.measures["expert_load"][0]
    kept = loads.clamp(max=3).sum()  # ceil(0.5 * 12 * 2 / 4)
    assert float(auxiliary.measures["dropped_share"][0]) == pytest.approx(float(1 - kept / 24))
    assert 24 - kept > 0
    # who came first is served whatever comes later
    later = hidden.clone()
    later[:, 8:] += 5.0
    torch.testing.assert_close(full.train()(later)[:, :6], output[:, :6], **FLOAT64)


class TestTheBalancingBias:
    def test_it_evens_the_load_without_a_gradient(self):
        layer = layer_of(balance_bias=True, balance_rate=0.005)
        with torch.no_grad():
            layer.router.weight[0] += 0.5 * layer.router.weight[1]  # one is favoured at first
        hidden = normal(8, 50, SIZE)
        hidden = hidden + layer.router.weight[1].detach()

        def skew() -> float:
            auxiliary = Auxiliary()
            layer.eval()(hidden, context_of(50, auxiliary=auxiliary))
            layer.train()
            loads = auxiliary.measures["expert_load"][0].double()
            return float(loads.max() / loads.mean())

        before = skew()
        assert before > 1.3
        for _ in range(120):
            for part in hidden.split(4):  # two micro-batches a step
                layer(part)
            layer.after_step(Group(), taken=True)
        assert skew() < 1.1
        assert "balance_bias" not in dict(layer.named_parameters())
        assert "balance_bias" in layer.state_dict()

    def test_it_moves_by_the_rate_once_a_step_from_the_loads_of_all_micro_batches(self):
        layer = layer_of(balance_bias=True, balance_rate=0.25, top_k=1)
        with torch.no_grad():
            layer.router.weight.copy_(torch.eye(4, SIZE))
        tokens = 9.0 * torch.eye(4, SIZE).double()
        for chosen in ([0, 0, 1], [0, 1, 2]):  # together 3, 2, 1 and 0: the mean is 1.5
            layer(tokens[chosen][None])
        layer.after_step(Group(), taken=True)
        assert layer.balance_bias.tolist() == [-0.25, -0.25, 0.25, 0.25]
        layer.after_step(Group(), taken=True)  # nothing was seen since
        assert layer.balance_bias.tolist() == [-0.25, -0.25, 0.25, 0.25]

    def test_neither_evaluation_nor_a_skipped_step_moves_it(self):
        layer = layer_of(balance_bias=True)
        hidden = normal(2, 9, SIZE)
        layer.eval()(hidden)
        layer.after_step(Group(), taken=True)
        layer.train()(hidden)
        layer.after_step(Group(), taken=False)
        with torch.no_grad():
            layer(hidden)  # a rollout
        layer.after_step(Group(), taken=True)
        assert float(layer.balance_bias.abs().max()) == 0

    def test_that_of_a_frozen_layer_stays(self):
        """Where other layers alone are trained, nothing of this one may change."""
        hidden = normal(2, 9, SIZE)
        for trained, moves in (
            ("down", True),
            ("router.weight", True),
            ("shared.down.weight", False),
        ):
            layer = layer_of(balance_bias=True, shared=5)
            for name, parameter in layer.named_parameters():
                parameter.requires_grad_(name == trained)
            layer(hidden)
            layer.after_step(Group(), taken=True)
            assert (float(layer.balance_bias.abs().max()) > 0) == moves


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top_k": 5}, "top_k = 5"),
        ({"num_groups": 3}, "num_groups = 3"),
        ({"num_groups": 2, "top_groups": 3}, "top_groups = 3"),
        ({"num_groups": 4, "top_groups": 1}, "top_k = 2"),
        ({"num_groups": 4, "top_groups": 2, "group_score": "top2"}, "group_score = top2"),
        ({"shared_gate": True}, "shared_gate = true"),
    ],
)
def test_numbers_that_do_not_fit_are_named(fields, message):
    with pytest.raises(ValidationError, match=message):
        MixtureOfExperts(**{"num_experts": 4, "top_k": 2, "expert": SwiGlu(size=2), **fields})


def test_under_autocast_the_router_still_decides_in_float32():
    layer = layer_of(num_experts=8).float()
    hidden = normal(1, 400, SIZE).float()
    outputs, loads = [], []
    for enabled in (False, True):
        auxiliary = Auxiliary()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            outputs.append(layer(hidden, context_of(400, auxiliary=auxiliary)))
        loads.append(auxiliary.measures["expert_load"][0])
    assert torch.equal(*loads)
    assert outputs[1].dtype == torch.bfloat16
    outputs[1].float().sum().backward()
    assert layer.gate_up.grad.dtype == torch.float32
    torch.testing.assert_close(outputs[1].float(), outputs[0], rtol=0.05, atol=0.05)  # 8 bits


def test_biases_of_stacked_experts_are_not_decayed():
    layer = layer_of(expert=SwiGlu(size=6, bias=True))
    decayed, spared = decay_groups(layer.named_parameters(), 0.1)
    assert decayed.parameters.keys() == {"router.weight", "gate_up", "down"}
    assert spared.parameters.keys() == {"gate_up_bias", "down_bias"}


class TestTraining:
    def test_an_interrupted_run_goes_on_to_the_same_bits(self, tmp_path: Path):
        options = TinyRun(experts=True, steps=6)
        tiny_trainer(tmp_path / "whole", options).run()
        stopped = tiny_trainer(tmp_path / "broken", options, hooks=[Signal(3)]).run()
        assert stopped.interrupted
        tiny_trainer(tmp_path / "broken", options).run()
        whole, broken = everything(tmp_path / "whole"), everything(tmp_path / "broken")
        for one in (whole, broken):
            del one["metrics"]  # the hooks differ
        assert broken == whole

    def test_metrics_name_the_losses_and_the_routers(self, tmp_path: Path):
        model = tiny_model(experts=True)
        for block in model.blocks:
            ffn = block.ffn
            ffn.spec = ffn.spec.model_copy(update={"balance_loss": 0.5, "z_loss": 0.1})
        tiny_trainer(tmp_path, TinyRun(steps=2, log_every=1), model=model, hooks=()).run()
        for line in metrics(tmp_path):
            parts = line["main_loss"] + line["balance_loss"] + line["router_z_loss"]
            assert line["loss"] == pytest.approx(parts, rel=1e-5)
            assert line["balance_loss"] > 2 * 0.5 * 2 * 0.99  # two layers, top 2: 2 each where even
            assert 1 / 6 < line["max_expert_share"] < 0.5
            assert 1.0 < line["router_entropy"] < 1.8  # ln 6 = 1.79
            assert line["dropped_share"] == 0.0

    def test_no_graph_is_kept_from_step_to_step(self, tmp_path: Path, monkeypatch):
        seen: list[weakref.ref[torch.Tensor]] = []
        add_loss = Auxiliary.add_loss

        def recording(self: Auxiliary, name: str, value: torch.Tensor) -> None:
            assert value.grad_fn is not None
            seen.append(weakref.ref(value))
            add_loss(self, name, value)

        monkeypatch.setattr(Auxiliary, "add_loss", recording)
        model = tiny_model(experts=True)
        for block in model.blocks:
            block.ffn.spec = block.ffn.spec.model_copy(update={"balance_loss": 0.1})

        class Alive:
            every = 1

            def __init__(self) -> None:
                self.counts: list[int] = []

            def __call__(self, model: object, step: int) -> dict[str, float | str]:
                gc.collect()
                self.counts.append(sum(ref() is not None for ref in seen))
                return {}

        alive = Alive()
        tiny_trainer(tmp_path, TinyRun(steps=5), model=model, hooks=[alive]).run()
        assert len(seen) == 5 * 2 * 2  # steps, micro-batches, layers
        assert alive.counts == [0] * 6
        assert model.blocks[0].ffn._pending_load is None
