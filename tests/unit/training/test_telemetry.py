"""Telemetry: training is the same to the bit with it, and each measure is what its name says."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from glassbox.data.loader import TokenBatch
from glassbox.formats.huggingface import save_pretrained
from glassbox.layers.attention import GroupedQuery
from glassbox.layers.feedforward import Gelu
from glassbox.layers.rotary import Alibi, Rotary
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import BlockSpec, ModelConfig, Repeat
from glassbox.ops.attention import alibi_slopes
from glassbox.training.next_token import NextToken
from glassbox.training.telemetry import TelemetryConfig
from glassbox.training.telemetry.noise import NoiseScale, noise_parts
from glassbox.training.telemetry.probe import LastCall, observe
from support.tiny_run import Signal, TinyRun, everything, metrics, tiny_model, tiny_trainer

EVERY = TelemetryConfig(every=1, rows=8)


def bare(folder: Path) -> dict[str, Any]:
    """All that a run leaves but the telemetry."""
    found = everything(folder)
    found["metrics"] = [r for r in found["metrics"] if r.get("event") != "telemetry"]
    del found["state"]["telemetry"]
    return found


@pytest.mark.parametrize("change", [{}, {"experts": True}, {"precision": "bfloat16"}])
def test_training_is_the_same_to_the_bit(tmp_path: Path, change: dict[str, Any]) -> None:
    options = TinyRun(steps=7, dropout=0.2, **change)
    tiny_trainer(tmp_path / "off", options).run()
    tiny_trainer(tmp_path / "on", options, telemetry=EVERY).run()
    assert bare(tmp_path / "on") == bare(tmp_path / "off")
    seen = [r["step"] for r in metrics(tmp_path / "on") if r.get("event") == "telemetry"]
    assert seen == list(range(1, 8))
    assert not [r for r in metrics(tmp_path / "off") if r.get("event") == "telemetry"]


def test_a_resumed_run_measures_the_same(tmp_path: Path) -> None:
    options = TinyRun(steps=9, rows_per_batch=2)
    tiny_trainer(tmp_path / "whole", options, telemetry=EVERY).run()
    first = tiny_trainer(tmp_path / "parts", options, telemetry=EVERY)
    first.hooks = [*first.hooks, Signal(5)]
    assert first.run().interrupted
    tiny_trainer(tmp_path / "parts", options, telemetry=EVERY).run()
    assert _telemetry(tmp_path / "parts") == _telemetry(tmp_path / "whole")


def _telemetry(folder: Path) -> list[dict[str, Any]]:
    return [r for r in metrics(folder) if r.get("event") == "telemetry"]


def test_the_default_measures_the_first_step_and_every_fiftieth(tmp_path: Path) -> None:
    options = TinyRun(steps=101, checkpoint_every=0, evaluate_every=0)
    tiny_trainer(tmp_path, options, telemetry=TelemetryConfig()).run()
    assert [r["step"] for r in _telemetry(tmp_path)] == [1, 50, 100]


def test_gradients_updates_and_clipping(tmp_path: Path) -> None:
    """Of the first step: per layer, before clipping, against the model by hand."""
    options = TinyRun(steps=1, dropout=0.0, evaluate_every=0)
    trainer = tiny_trainer(tmp_path, options, telemetry=EVERY)
    model = trainer.model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    source = trainer.source
    rows = source.rows.batch([source._order[i] for i in range(8)])
    twin = copy.deepcopy(model)
    output = NextToken()(twin, rows)
    (output.loss_sum / output.weight).backward()
    trainer.run()
    (record,) = _telemetry(tmp_path)
    for layer in ("blocks.0", "blocks.1", "embedding", "final_norm"):
        mine = [(n, p) for n, p in twin.named_parameters() if n.startswith(layer)]
        gradient = torch.cat([p.grad.flatten() for _, p in mine])
        assert record[f"grad_norm/{layer}"] == pytest.approx(float(gradient.norm()), rel=1e-4)
        assert record[f"grad_max/{layer}"] == pytest.approx(float(gradient.abs().max()), rel=1e-4)
        rms = float(gradient.square().mean().sqrt())
        assert record[f"grad_rms/{layer}"] == pytest.approx(rms, rel=1e-4)
        change = torch.cat(
            [(dict(model.named_parameters())[n] - before[n]).flatten() for n, _ in mine]
        )
        size = torch.cat([before[n].flatten() for n, _ in mine]).norm()
        ratio = float((change.norm() / size).detach())
        assert record[f"update_ratio/{layer}"] == pytest.approx(ratio, rel=1e-4)
    whole = sum(
        record[f"grad_norm/{n}"] ** 2 for n in ("blocks.0", "blocks.1", "embedding", "final_norm")
    )
    (line,) = [r for r in metrics(tmp_path) if "grad_norm" in r]
    assert math.sqrt(whole) == pytest.approx(line["grad_norm"], rel=1e-4)


def test_activations_and_logits_are_those_of_the_forward_pass() -> None:
    model = tiny_model()
    ids = torch.randint(32, (3, 16))
    outputs: dict[str, torch.Tensor] = {}
    watched: dict[str, nn.Module] = {}
    for index, block in enumerate(model.blocks):
        watched |= {f"blocks.{index}": block, f"blocks.{index}.mixer": block.mixer, f"blocks.{index}.ffn": block.ffn}  # fmt: skip
    for name, module in watched.items():
        module.register_forward_hook(lambda _m, _i, out, name=name: outputs.__setitem__(name, out))
    logits = model(ids).detach()
    values = observe(model, (ids, {}), TelemetryConfig(rows=3, queries=16))
    for name, out in outputs.items():
        kind = "residual" if name.count(".") == 1 else "activation"
        out = out.detach()
        assert float(values[f"{kind}_rms/{name}"]) == pytest.approx(float(out.pow(2).mean().sqrt()))
        assert float(values[f"{kind}_max/{name}"]) == pytest.approx(float(out.abs().max()))
    norm = outputs["blocks.1"].detach().norm(dim=-1).mean()
    assert float(values["residual_norm/blocks.1"]) == pytest.approx(float(norm))
    assert float(values["log_z/head"]) == pytest.approx(
        float(logits.logsumexp(-1).mean()), rel=1e-5
    )
    assert float(values["logit_max/head"]) == pytest.approx(float(logits.abs().max()), rel=1e-5)
    assert model.training


@pytest.mark.parametrize(
    "mixer",
    [
        GroupedQuery(num_heads=4, num_kv_heads=2, positions=Rotary()),
        GroupedQuery(num_heads=4, positions=Alibi(), scale=1.5),
        GroupedQuery(num_heads=4, positions=Rotary(), window=5, softcap=2.0),
        GroupedQuery(num_heads=4, num_kv_heads=1, sinks=True),
    ],
    ids=["rotary", "alibi", "window and cap", "sinks"],
)
def test_attention_entropy_is_the_definition_in_a_loop(mixer: GroupedQuery) -> None:
    torch.manual_seed(3)
    config = ModelConfig(
        vocab_size=32,
        hidden_size=32,
        context_length=24,
        blocks=(Repeat(block=BlockSpec(mixer=mixer, ffn=None)),),
    )
    model = CausalLM(config)
    with torch.no_grad():
        model.blocks[0].mixer.qkv.weight.mul_(20)  # so that weights are far from even
    ids = torch.randint(32, (2, 24))
    documents = torch.tensor([[0] * 10 + [1] * 14, [0] * 24])
    values = observe(model, (ids, {"documents": documents}), TelemetryConfig(rows=2, queries=24))
    caught: list[Any] = []
    layer = model.blocks[0].mixer
    layer.register_forward_pre_hook(lambda _m, inputs: caught.append(inputs))
    model.hidden_states(ids, documents=documents)
    q, k, _, _ = layer._heads(*caught[-1][:2])
    entropies, largest = [], -math.inf
    slopes = alibi_slopes(4)
    for head in range(4):
        found = []
        for row in range(2):
            for t in range(24):
                scores = []
                for s in range(t + 1):
                    if documents[row, s] != documents[row, t]:
                        continue
                    if mixer.window is not None and t - s >= mixer.window:
                        continue
                    dot = float(
                        (q[row, head, t] * k[row, head * k.shape[1] // 4, s]).sum().detach()
                    )
                    score = dot * (mixer.scale or 1 / math.sqrt(q.shape[-1]))
                    if mixer.softcap:
                        score = mixer.softcap * math.tanh(score / mixer.softcap)
                    if isinstance(mixer.positions, Alibi):
                        score -= float(slopes[head]) * (t - s)
                    scores.append(score)
                largest = max(largest, *scores)
                if mixer.sinks:
                    scores.append(float(layer.sinks[head].detach()))
                weights = torch.softmax(torch.tensor(scores, dtype=torch.float64), 0)
                found.append(-sum(float(w) * math.log(float(w)) for w in weights if w > 0))
        entropies.append(sum(found) / len(found))
    assert float(values["attention_entropy/blocks.0"]) == pytest.approx(
        sum(entropies) / 4, rel=1e-4
    )
    assert float(values["attention_entropy_min/blocks.0"]) == pytest.approx(
        min(entropies), rel=1e-4
    )
    if not mixer.sinks:
        assert float(values["attention_score_max/blocks.0"]) == pytest.approx(largest, rel=1e-4)


def test_attention_entropy_is_that_of_transformers_weights(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    model = tiny_model()
    with torch.no_grad():
        for block in model.blocks:
            block.mixer.qkv.weight.mul_(30)
    ids = torch.randint(32, (2, 16))
    save_pretrained(model, tmp_path)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    with torch.no_grad():
        maps = theirs(ids, output_attentions=True).attentions
    values = observe(model, (ids, {}), TelemetryConfig(rows=2, queries=16))
    for index, weights in enumerate(maps):
        entropy = torch.special.entr(weights).sum(-1).mean()
        mine = float(values[f"attention_entropy/blocks.{index}"])
        assert mine == pytest.approx(float(entropy), rel=1e-4)


def test_dead_and_saturated_units_are_counted() -> None:
    block = BlockSpec(mixer=GroupedQuery(num_heads=2), ffn=Gelu(size=10))
    config = ModelConfig(
        vocab_size=32, hidden_size=16, context_length=16, blocks=(Repeat(block=block),)
    )
    model = CausalLM(config)
    with torch.no_grad():
        up = model.blocks[0].ffn.up
        up.weight.mul_(50)
        up.weight[:3] = 0  # gelu(0) = 0 for every token
        up.weight[3] = 0
        up.bias[3] = 5.0  # the same for every token
    values = observe(model, (torch.randint(32, (2, 16)), {}), TelemetryConfig())
    assert float(values["dead_units/blocks.0"]) == pytest.approx(0.3)
    assert float(values["saturated_units/blocks.0"]) == pytest.approx(0.1)


def test_expert_load_is_each_layer_s_own() -> None:
    model = tiny_model(experts=True)
    with torch.no_grad():
        model.blocks[1].ffn.balance_bias[0] = 100.0  # every token chooses expert 0 of layer 1
    values = observe(model, (torch.randint(32, (2, 16)), {}), TelemetryConfig())
    assert float(values["expert_share_max/blocks.1"]) == pytest.approx(
        0.5
    )  # of two choices a token
    assert 1 / 6 <= float(values["expert_share_max/blocks.0"]) < 0.5
    assert float(values["expert_entropy/blocks.1"]) < float(values["expert_entropy/blocks.0"]) <= 1


def test_the_noise_scale_of_gaussian_gradients() -> None:
    torch.manual_seed(0)
    true, sigma = torch.full((50,), 0.1), 0.7
    traces, squares = [], []
    for _ in range(4000):
        one = true + sigma * torch.randn(
            4, 50
        )  # a batch of 4, of which the first 2 are the small one
        small, big = one[:2].mean(0), one.mean(0)
        trace, square = noise_parts(float(small.square().sum()), float(big.square().sum()), 2, 4)
        traces.append(trace)
        squares.append(square)
    mean = lambda xs: sum(xs) / len(xs)  # noqa: E731
    assert mean(traces) == pytest.approx(50 * sigma**2, rel=0.03)
    assert mean(squares) == pytest.approx(50 * 0.01, rel=0.1)
    assert NoiseScale().add(1.0, 1.0, 4, 4) is None
    assert NoiseScale().add(2.0, 1.0, 2, 4) is None  # |G|^2 = 0


def test_noise_scale_is_measured_where_a_step_has_several_batches(tmp_path: Path) -> None:
    options = TinyRun(steps=6, rows_per_batch=2, evaluate_every=0)
    tiny_trainer(tmp_path / "several", options, telemetry=EVERY).run()
    assert all(r["noise_scale"] > 0 for r in _telemetry(tmp_path / "several")[3:])
    one = TinyRun(steps=2, rows_per_batch=8, evaluate_every=0)
    tiny_trainer(tmp_path / "one", one, telemetry=EVERY).run()
    assert all("noise_scale" not in r for r in _telemetry(tmp_path / "one"))


def test_a_copied_model_calls_its_own_weights() -> None:
    model = tiny_model()
    ids = torch.randint(32, (1, 8))
    call = LastCall(model)
    with call.watching():
        twin = copy.deepcopy(model)
        with torch.no_grad():
            twin.embedding.weight.zero_()
        assert not torch.equal(twin.hidden_states(ids), model.hidden_states(ids))
        assert call.arguments is not None
    assert "hidden_states" not in model.__dict__


def test_compiled_blocks_stay_compiled_and_are_measured(tmp_path: Path) -> None:
    """The pass that measures runs blocks as they are written; the training's stay compiled."""
    model = tiny_model()
    batch = TokenBatch(torch.randint(32, (2, 8)), torch.randint(32, (2, 8)), torch.zeros(2, 8, dtype=torch.long))  # fmt: skip
    calls = []
    for block in model.blocks:
        eager = block._call_impl
        block._compiled_call_impl = lambda *a, eager=eager: (calls.append(1), eager(*a))[1]
    NextToken()(model, batch)
    assert len(calls) == 2
    values = observe(model, (batch.ids, {"documents": batch.documents}), TelemetryConfig())
    assert len(calls) == 2
    assert "residual_rms/blocks.1" in values
    NextToken()(model, batch)
    assert len(calls) == 4
