"""NF4, dynamic 8-bit codes, the layer that keeps its matrix in 4 bits, and 8-bit AdamW's memory."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from glassbox.layers.linear import Linear
from glassbox.layers.quantized import Nf4Linear
from glassbox.ops.quantization import (
    Blocks,
    Nf4,
    dequantize_blocks,
    dequantize_nf4,
    dynamic_table,
    nf4_table,
    quantize_blocks,
    quantize_blocks_plain,
    quantize_nf4,
)
from glassbox.optim.adamw import AdamW
from glassbox.optim.adamw8bit import AdamW8bit
from glassbox.optim.groups import decay_groups


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 16), st.integers(0, 1000), st.booleans())
def test_fast_codes_are_the_plain_ones(count: int, block: int, seed: int, four: bool) -> None:
    x = randn(count, seed=seed)
    x[seed % count] = 0.0
    table = nf4_table() if four else dynamic_table()
    fast, plain = quantize_blocks(x, table, block), quantize_blocks_plain(x, table, block)
    assert torch.equal(fast.codes, plain.codes)
    assert torch.equal(fast.scales, plain.scales)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 700), st.integers(0, 1000))
def test_values_of_a_table_come_back_as_they_were(count: int, seed: int) -> None:
    codes = torch.randint(0, 16, (count,), generator=torch.Generator().manual_seed(seed))
    codes[::64] = 15  # each block reaches its scale
    x = nf4_table()[codes]
    packed = quantize_nf4(x)
    assert [len(part) for part in (packed.codes, packed.scales, packed.scale_scales)] == [
        *Nf4.sizes(count)
    ]
    assert torch.equal(dequantize_nf4(packed, (count,)), x)  # the scales are all 1: offset is exact


def test_zeros_stay_zeros_and_nothing_is_nan() -> None:
    packed = quantize_nf4(torch.zeros(130))
    assert torch.equal(dequantize_nf4(packed, (130,)), torch.zeros(130))
    table = dynamic_table()
    blocks = quantize_blocks(torch.zeros(3), table, 256)
    assert torch.equal(dequantize_blocks(blocks, table, 256), torch.zeros(3))


def test_dynamic_tables_rise_and_hold_zero_and_one() -> None:
    for signed in (True, False):
        table = dynamic_table(signed=signed)
        assert len(table) == len(table.unique()) == 256
        assert bool((table.diff() > 0).all())
        assert {0.0, 1.0} <= set(table.tolist())
        assert bool((table < 0).any()) == signed


def test_a_unit_of_error_is_bounded_by_half_the_widest_gap() -> None:
    x = randn(64 * 9)
    blocks = quantize_blocks(x, nf4_table(), 64)
    error = (dequantize_blocks(blocks, nf4_table(), 64) - x).abs().view(-1, 64).amax(1)
    assert bool((error <= blocks.scales * nf4_table().diff().max() / 2 + 1e-6).all())
    assert blocks == Blocks(blocks.codes, blocks.scales)


@pytest.mark.parametrize(("out", "inside", "bias"), [(6, 64, True), (5, 13, False), (3, 7, True)])
def test_a_saved_layer_opens_in_a_fresh_one(out: int, inside: int, bias: bool) -> None:
    linear = Linear(inside, out, bias=bias)
    with torch.no_grad():
        linear.weight.copy_(randn(out, inside))
        if linear.bias is not None:
            linear.bias.copy_(randn(out, seed=1))
    layer = Nf4Linear.from_linear(linear, compute_dtype=torch.float32)
    saved = safetensors.torch.load(safetensors.torch.save(dict(layer.state_dict())))
    fresh = Nf4Linear(inside, out, bias=bias, compute_dtype=torch.float32)
    fresh.load_state_dict(saved)
    x = randn(2, 3, inside, seed=2)
    assert torch.equal(fresh(x), layer(x))
    assert torch.equal(fresh.dense(), layer.dense())
    torch.testing.assert_close(fresh(x), nn.functional.linear(x, layer.dense(), linear.bias))
    assert torch.equal(layer.to_linear(torch.float32).weight, layer.dense())


def test_the_gradient_reaches_the_input_and_the_bias_alone() -> None:
    linear = Linear(12, 5, bias=True)
    nn.init.normal_(linear.weight)
    layer = Nf4Linear.from_linear(linear, compute_dtype=torch.float32)
    x = randn(4, 12).requires_grad_()
    out = randn(4, 5, seed=1)
    (layer(x) * out).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, out @ layer.dense())
    assert layer.bias is not None
    assert layer.bias.grad is not None
    torch.testing.assert_close(layer.bias.grad, out.sum(0))
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert Nf4Linear(12, 5)(x.bfloat16()).dtype == torch.bfloat16


def train(optimizer: AdamW | AdamW8bit, first: int, last: int) -> None:
    for step in range(first, last):
        for number, parameter in enumerate(optimizer.parameters()):
            parameter.grad = randn(*parameter.shape, seed=100 * number + step)
        optimizer.step(0.01)


def test_eight_bit_memory_through_safetensors_goes_on_to_the_same_bits() -> None:
    nets = [nn.Linear(40, 10), nn.Linear(40, 10)]
    nets[1].load_state_dict(nets[0].state_dict())
    whole, part = (AdamW8bit(decay_groups(n.named_parameters(), 0.1), smallest=100) for n in nets)
    train(whole, 0, 9)
    train(part, 0, 4)
    saved = safetensors.torch.load(safetensors.torch.save(part.state_dict()))
    assert saved["first_codes.weight"].dtype == torch.uint8
    assert saved["first_codes.bias"].dtype == torch.float32  # small: not quantized
    fresh = AdamW8bit(decay_groups(nets[1].named_parameters(), 0.1), smallest=100)
    fresh.load_state_dict(saved)
    train(fresh, 4, 9)
    assert torch.equal(nets[0].weight, nets[1].weight)
    with pytest.raises(ValueError, match=r"'first_codes\.weight'"):
        fresh.load_state_dict({k: v for k, v in saved.items() if k != "first_codes.weight"})
    with pytest.raises(ValueError, match=r"'steps\.new'"):
        fresh.load_state_dict({**saved, "steps.new": torch.tensor(1)})


def test_small_tensors_step_as_adamw_does_and_large_ones_nearly() -> None:
    nets = [nn.Linear(40, 10), nn.Linear(40, 10)]
    nets[1].load_state_dict(nets[0].state_dict())
    before = nets[0].weight.detach().clone()
    exact = AdamW(decay_groups(nets[0].named_parameters(), 0.1), foreach=False)
    packed = AdamW8bit(decay_groups(nets[1].named_parameters(), 0.1), smallest=100)
    train(exact, 0, 10)
    train(packed, 0, 10)
    torch.testing.assert_close(nets[0].bias, nets[1].bias, rtol=0, atol=1e-7)
    moved = float((nets[0].weight - before).detach().norm())
    apart = float((nets[0].weight - nets[1].weight).detach().norm())
    assert 0 < apart < 0.1 * moved  # 8-bit moments: a few percent of the way
