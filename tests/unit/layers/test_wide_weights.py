"""Weights in float32 beside narrower ones: which they are, what computes with them, what casts them."""

from __future__ import annotations

import pytest
import torch

from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.linear import Linear, WideLinear
from glassbox.layers.wide_weights import cast, wide_weights
from glassbox.models.causal_lm import CausalLM
from glassbox.models.config import ModelConfig
from glassbox.models.families import presets


def config() -> ModelConfig:
    return presets()["qwen3-next-tiny"]


def test_every_name_is_a_weights_or_that_of_a_bias_left_out():
    """A renamed parameter would else fall back to being narrowed, in silence."""
    for name, preset in presets().items():
        if not name.endswith("-tiny"):
            continue
        with torch.device("meta"):
            model = CausalLM(preset)
        unknown = wide_weights(model) - model.state_dict().keys()
        assert all(name.endswith("bias") for name in unknown), name
        assert wide_weights(model) & model.state_dict().keys()


def test_a_wide_linear_is_a_linear_and_computes_in_float32():
    torch.manual_seed(0)
    wide, plain = WideLinear(5, 3, bias=True), Linear(5, 3, bias=True)
    with torch.no_grad():
        for parameter in wide.parameters():
            parameter.normal_()
    plain.load_state_dict(wide.state_dict())
    for shape in ((2, 4, 5), (1, 1, 5)):
        x = torch.randn(shape)
        assert torch.equal(wide(x), plain(x))
        narrow = wide(x.bfloat16())
        assert narrow.dtype == torch.float32
        torch.testing.assert_close(narrow, plain(x.bfloat16().float()))
    assert wide.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_cast_is_modules_to_but_keeps_float32_of_mixed_models(dtype):
    for mixed in (False, True):
        torch.manual_seed(0)
        ours = CausalLM(config())
        if mixed:
            kept = wide_weights(ours)
            for name, parameter in ours.named_parameters():
                if name not in kept:
                    parameter.data = parameter.data.bfloat16()
        theirs = CausalLM(config())
        theirs.load_state_dict(ours.state_dict(), assign=True)
        before = {name: tensor.dtype for name, tensor in ours.state_dict().items()}
        cast(ours, dtype)
        theirs = theirs.to(dtype)
        stays = mixed and dtype in (torch.bfloat16, torch.float16)
        for name, tensor in ours.state_dict().items():
            wide = stays and before[name] == torch.float32
            assert tensor.dtype == (torch.float32 if wide else dtype), name
            assert torch.equal(tensor.to(dtype), theirs.state_dict()[name]), name
        assert all(isinstance(p, torch.nn.Parameter) for p in ours.parameters())


def test_the_dtype_of_the_blocks_is_the_matrices():
    """Blocks with the stream in float32 narrow what their branches read, though the norm is wide."""
    model = CausalLM(presets()["mamba-tiny"])
    assert all(block.float32_residual for block in model.blocks)
    kept = wide_weights(model)
    for name, parameter in model.named_parameters():
        if name not in kept:
            parameter.data = parameter.data.bfloat16()
    assert model(torch.tensor([[1, 2, 3]])).dtype == torch.bfloat16


def test_a_dense_feed_forward_has_none():
    model = CausalLM(config())
    assert not any(".shared." in name for name in wide_weights(model))
    assert not hasattr(SwiGlu(size=4), "wide_weights")
