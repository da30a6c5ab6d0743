"""State-space and recurrent layers: fresh weights, states of fixed size, sizes that do not fit."""

from __future__ import annotations

import doctest
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from glassbox.layers.mamba import Mamba
from glassbox.layers.mamba2 import Mamba2
from glassbox.layers.norms import RmsNorm
from glassbox.layers.rwkv import RwkvChannel, RwkvTime
from glassbox.layers.rwkv7 import Rwkv7Channel, Rwkv7Time
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import ModelConfig
from glassbox.models.families import jamba
from glassbox.ops import scan, token_shift

SIZE = 192
BLOCKS = {
    "mamba": (Mamba(norm=RmsNorm(), bias=True), None),
    "mamba2": (Mamba2(num_heads=48, head_dim=8, state_size=16, bias=True), None),
    "rwkv": (RwkvTime(), RwkvChannel(size=512)),
    "rwkv7": (Rwkv7Time(head_dim=32, values="lead"), Rwkv7Channel(size=512)),
}


def model(name: str, init: dict | None = None) -> CausalLM:
    mixer, ffn = BLOCKS[name]
    blocks = [{"block": {"mixer": mixer, "ffn": ffn}, "times": 2}]
    if name == "rwkv7":
        follow = mixer.model_copy(update={"values": "follow"})
        blocks.append({"block": {"mixer": follow, "ffn": ffn}})
    raw = {"vocab_size": 50, "hidden_size": SIZE, "context_length": 8, "blocks": blocks}
    torch.manual_seed(0)
    return CausalLM(ModelConfig.model_validate(raw | {"init": init or {}}))


@pytest.mark.parametrize("name", BLOCKS)
def test_fresh_weights_follow_the_table(name):
    net = model(name, {"std": 0.05})
    table = (Path(__file__).parents[3] / "docs" / "design" / "initialization.md").read_text(
        encoding="utf-8"
    )
    branches = sum(1 + (spec.ffn is not None) for spec in net.config.layers())
    narrow = {"mixer.output.weight"} | ({"ffn.value.weight"} if "rwkv" in name else set())
    for full, parameter in net.named_parameters():
        kind = re.sub(r"^blocks\.\d+", "blocks.N", full)
        assert f"`{kind}`" in table, f"docs/design/initialization.md lacks {kind}"
        short = kind.removeprefix("blocks.N.")
        if short.endswith("weight") and parameter.dim() == 2 and "step" not in short:
            std = 0.05 / math.sqrt(branches) if short in narrow else 0.05
            # n draws: the deviation's own relative error is 1 / sqrt(2 n); five of them
            error = 5 / math.sqrt(2 * parameter.numel())
            assert abs(float(parameter.detach().std()) / std - 1) < error, full
        assert torch.isfinite(parameter).all(), full


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_steps_and_rates_of_a_fresh_mamba(name):
    mixer = model(name).blocks[0].mixer
    step = F.softplus(mixer.step_bias.detach())
    assert 0.00099 < float(step.min()) < 0.005
    assert 0.02 < float(step.max()) < 0.101
    # log-uniform: as many below the middle, 0.01, as above; five deviations of a fair coin
    below = (step < 0.01).double().mean()
    assert abs(float(below) - 0.5) < 5 * 0.5 / math.sqrt(step.numel())
    rate = mixer.rate.detach().exp()
    if name == "mamba":
        torch.testing.assert_close(rate, torch.arange(1.0, 17.0).expand_as(rate))
        assert float(mixer.step_weight.detach().abs().max()) <= mixer.sizes[0] ** -0.5
    else:
        assert (rate >= 1).all()
        assert (rate <= 16).all()
        assert float(rate.std()) > 2
    assert (mixer.skip == 1).all()


def test_a_fresh_rwkv7_forgets_at_many_speeds():
    mixer = model("rwkv7").blocks[0].mixer
    decay = torch.exp(-math.exp(-0.5) * torch.sigmoid(mixer.decay.base.detach()))
    spans = 1 / (1 - decay)
    assert float(spans.max()) > 1000
    assert float(spans.min()) < 12
    assert (spans[1:] <= spans[:-1]).all()


@pytest.mark.parametrize("name", BLOCKS)
def test_the_state_does_not_grow_with_the_length(name):
    net = model(name)
    small, large = net.init_state(2, 8), net.init_state(2, 100_000)
    size = sum(layer.cache_bytes for layer in small)
    assert size == sum(layer.cache_bytes for layer in large) > 0
    # float32: the convolution's inputs or last tokens, and what each mixer sums up, of two rows
    layer = {
        "mamba": 3 * 384 + 384 * 16,
        "mamba2": 3 * (384 + 2 * 16) + 48 * 16 * 8,
        "rwkv": 192 + 3 * 192 + 192,
        "rwkv7": 192 + 6 * 32 * 32 + 192,
    }[name]
    assert size == 2 * 4 * layer * net.config.num_layers
    half = net.init_state(2, 8, dtype=torch.bfloat16)
    sums = {"mamba": "memory", "mamba2": "memory", "rwkv": "denominator", "rwkv7": "memory"}[name]
    assert half[0].mixer[sums].dtype == torch.float32


@pytest.mark.parametrize(
    ("mixer", "message"),
    [
        ({"kind": "mamba2", "num_heads": 3, "num_groups": 2}, "num_groups = 2"),
        ({"kind": "mamba2", "num_heads": 5}, "num_heads = 5"),
        ({"kind": "rwkv7_time", "head_dim": 7}, "head_dim = 7"),
        ({"kind": "mamba", "conv_taps": 1}, "conv_taps"),
        ({"kind": "rwkv_time", "size": 0}, "size"),
    ],
)
def test_sizes_that_do_not_fit_are_named(mixer, message):
    blocks = [{"block": {"mixer": mixer, "ffn": None}}]
    raw = {"vocab_size": 5, "hidden_size": 192, "context_length": 8, "blocks": blocks}
    with pytest.raises(ValueError, match=message):
        ModelConfig.model_validate(raw)


@pytest.mark.parametrize("module", [scan, token_shift, jamba])
def test_the_examples_in_docstrings(module):
    found = doctest.testmod(module, extraglobs={"torch": torch})
    assert found.attempted > 0
    assert found.failed == 0
