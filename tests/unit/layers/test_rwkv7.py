"""RWKV-7 against the paper's equations, written token by token with explicit matrices."""

from __future__ import annotations

import math

import pytest
import torch

from glassbox.core.errors import UserError
from glassbox.layers.context import Context
from glassbox.layers.rwkv7 import LEAD, MIXES, Rwkv7Channel, Rwkv7Time
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import ModelConfig

SIZE, HEADS, HEAD_DIM = 12, 3, 4
TOLERANCE = {"rtol": 1e-9, "atol": 1e-10}  # float64, other orders of summation


def random_weights(layer: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.double().parameters():
            parameter.copy_(0.7 * torch.randn(parameter.shape, generator=generator))
    return layer


def time_mixing(p: dict[str, torch.Tensor], x: torch.Tensor, lead: torch.Tensor | None):
    """Equations of arXiv:2503.14456, section 4, of one sequence x of (T, D); row vectors throughout."""
    outputs, values = [], []
    states = [torch.zeros(HEAD_DIM, HEAD_DIM, dtype=x.dtype) for _ in range(HEADS)]
    for t in range(len(x)):
        before = x[t - 1] if t else torch.zeros_like(x[t])
        mixed = {
            name: x[t] + (before - x[t]) * share
            for name, share in zip(MIXES, p["mix"], strict=True)
        }
        r = mixed["receptance"] @ p["receptance.weight"].T
        k = mixed["key"] @ p["key.weight"].T
        v = mixed["value"] @ p["value.weight"].T
        values.append(v)
        if lead is not None:
            low = mixed["value"] @ p["follow.down.weight"].T @ p["follow.up.weight"].T
            share = torch.sigmoid(p["follow.base"] + low)
            v = (1 - share) * v + share * lead[t]
        low = mixed["rate"] @ p["rate.down.weight"].T @ p["rate.up.weight"].T
        a = torch.sigmoid(p["rate.base"] + low)
        low = torch.tanh(mixed["decay"] @ p["decay.down.weight"].T) @ p["decay.up.weight"].T
        w = torch.exp(-math.exp(-0.5) * torch.sigmoid(p["decay.base"] + low))
        g = torch.sigmoid(mixed["gate"] @ p["gate.down.weight"].T) @ p["gate.up.weight"].T
        removed = k * p["removal"]
        replaced = k * (1 + (a - 1) * p["replacement"])
        read = []
        for h in range(HEADS):
            part = slice(h * HEAD_DIM, (h + 1) * HEAD_DIM)
            unit = removed[part] / removed[part].norm()
            change = torch.diag(w[part]) - torch.outer(unit, a[part] * unit)
            states[h] = states[h] @ change + torch.outer(v[part], replaced[part])
            y = states[h] @ r[part]
            y = (y - y.mean()) / torch.sqrt(y.var(correction=0) + HEAD_DIM * 1e-5)
            y = y * p["norm_weight"][part] + p["norm_bias"][part]
            now = (r[part] * replaced[part] * p["bonus"][h]).sum() * v[part]
            read.append(y + now)
        outputs.append((g * torch.cat(read)) @ p["output.weight"].T)
    return torch.stack(outputs), torch.stack(values)


@pytest.mark.parametrize("length", [1, 5, 40])
@pytest.mark.parametrize("values", ["own", "lead", "follow"])
def test_time_mixing_is_the_papers(length, values):
    spec = Rwkv7Time(
        head_dim=HEAD_DIM, values=values, decay_rank=3, rate_rank=2, value_rank=2, gate_rank=5
    )
    layer = random_weights(spec.build(SIZE))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, length, SIZE, generator=generator, dtype=torch.float64)
    lead = torch.randn(2, length, SIZE, generator=generator, dtype=torch.float64)
    context = Context(positions=torch.arange(length)[None])
    if values == "follow":
        context.shared[LEAD] = lead
    parameters = dict(layer.named_parameters())
    found = layer(x, context)
    rows = [time_mixing(parameters, x[i], lead[i] if values == "follow" else None) for i in (0, 1)]
    expected = torch.stack([output for output, _ in rows])
    torch.testing.assert_close(found, expected, **TOLERANCE)
    if values == "lead":
        handed = torch.stack([value for _, value in rows])
        torch.testing.assert_close(context.shared[LEAD], handed, **TOLERANCE)
    weights = torch.cos(torch.arange(found.numel())).view(found.shape)
    ours = torch.autograd.grad((found * weights).sum(), list(parameters.values()))
    theirs = torch.autograd.grad((expected * weights).sum(), list(parameters.values()))
    for name, a, b in zip(parameters, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, msg=name, **TOLERANCE)


def test_channel_mixing_is_the_papers():
    layer = random_weights(Rwkv7Channel(size=7).build(SIZE))
    x = torch.randn(1, 5, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = layer(x, Context(positions=torch.arange(5)[None]))
    for t in range(5):
        before = x[0, t - 1] if t else torch.zeros_like(x[0, t])
        mixed = x[0, t] + (before - x[0, t]) * layer.mix
        expected = torch.relu(mixed @ layer.key.weight.T) ** 2 @ layer.value.weight.T
        torch.testing.assert_close(found[0, t], expected, **TOLERANCE)


def model(first: str) -> ModelConfig:
    def block(values: str) -> dict:
        return {
            "mixer": {"kind": "rwkv7_time", "head_dim": 4, "values": values},
            "ffn": {"kind": "rwkv7_channel", "size": 20},
            "norm": {"kind": "layer_norm"},
        }

    return ModelConfig.model_validate(
        {
            "vocab_size": 11,
            "hidden_size": SIZE,
            "context_length": 20,
            "blocks": [{"block": block(first)}, {"block": block("follow"), "times": 2}],
        }
    )


@torch.no_grad()
def test_a_whole_model_decodes_as_it_trains():
    """The lead's values reach the followers in both."""
    torch.manual_seed(0)
    net = random_weights(CausalLM(model("lead")))
    ids = torch.randint(11, (2, 9))
    expected = net(ids)
    state, start = net.init_state(2, 9), 0
    for size in (4, 1, 1, 3):
        positions = torch.arange(start, start + size)[None]
        found = net(ids[:, start : start + size], positions=positions, state=state)
        torch.testing.assert_close(found, expected[:, start : start + size], **TOLERANCE)
        start += size
    net.blocks[0].mixer.value.weight.mul_(2)
    net.blocks[0].mixer.output.weight.zero_()  # its own output is gone, what it hands on is not
    silent = net(ids)
    net.blocks[0].mixer.value.weight.mul_(2)
    assert not torch.allclose(net(ids), silent)


def test_followers_need_a_lead():
    with pytest.raises(UserError, match="values = 'follow' needs an earlier layer"):
        CausalLM(model("own"))(torch.zeros(1, 3, dtype=torch.long))


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="head_dim = 5"):
        Rwkv7Time(head_dim=5).resolve(SIZE)
    ranks = Rwkv7Time().resolve(768)
    # 1.8 sqrt(768) = 49.9, 1.3 sqrt(768) = 36.0, 0.6 * 768^0.8 = 122: each to a multiple of 32
    assert (ranks.decay_rank, ranks.rate_rank, ranks.value_rank, ranks.gate_rank) == (64, 64, 32, 128)  # fmt: skip
