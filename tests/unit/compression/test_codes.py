"""Every way to write a matrix down: its parts, its rounding, and its fast product against the plain one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from glassbox.compression import IntegerCodes, Mxfp4Codes, named_codes
from glassbox.core.errors import UserError
from glassbox.layers.linear import Embedding, Linear
from glassbox.layers.quantized_linear import QuantizedEmbedding, QuantizedLinear
from glassbox.layers.weight_codes import WeightCodes
from glassbox.ops.float_codes import E2M1, decode_mxfp4, encode_mxfp4
from glassbox.ops.integer_codes import (
    choose_grid,
    from_grid,
    in_groups,
    pack_halves,
    round_to_grid,
    round_to_grid_plain,
    unpack_halves,
)
from glassbox.ops.quantized_products import (
    from_kernel_order,
    int4_rows,
    kernel_group,
    quantize_rows,
    to_kernel_order,
)

NAMES = (
    "int8", "int8-asym", "int8-g32", "int8-dynamic", "int4", "int4-g32-sym", "int4-g128", "int4-g32",
    "int4-row", "nf4", "fp8", "fp8-g64", "mxfp4",
    "q8_0", "q4_0", "q4_1",
)  # fmt: skip
HALF = 2.0**-8
"""Half a step of bfloat16, relative."""


def matrix(rows: int = 192, columns: int = 256, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator) * 0.1


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 10), (8, 96), (8, 32)])
def test_rounding_is_the_definition(bits, group, symmetric):
    weight = matrix(5, 96)
    weight[0, :32] = 0  # a group without extremes
    grid = choose_grid(weight, bits, group, symmetric=symmetric)
    codes = round_to_grid(weight, grid, bits, group)
    assert torch.equal(codes, round_to_grid_plain(weight, grid, bits, group))
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    for o in range(5):
        for g, start in enumerate(range(0, 96, group)):
            part = weight[o, start : start + group]
            if not part.any():
                assert grid.scales[o, g] == 1
                continue
            if symmetric:
                scale = part.abs().max() / ((high - low) / 2)
                assert grid.scales[o, g] == scale
                continue
            scale = (part.max().clamp(min=0) - part.min().clamp(max=0)) / (high - low)
            assert grid.scales[o, g] == scale
            zero = low - torch.round(part.min().clamp(max=0) / scale)
            assert grid.zeros is not None
            assert grid.zeros[o, g] == zero.clamp(low, high)
    # a weight moves by half a step at most, but for the symmetric grid's largest, which is cut
    wide = from_grid(codes, grid, group)
    step = grid.scales.repeat_interleave(group, 1)[:, :96]
    moved = (wide - weight).abs() / step
    assert float(moved.max()) <= (0.5 if symmetric else 1.0) + 1e-4  # zero points are rounded too


def test_halves_and_the_kernels_order_come_back():
    codes = torch.randint(-8, 8, (128, 96), dtype=torch.int8)
    halves = pack_halves(codes)
    assert torch.equal(unpack_halves(halves, 96), codes)
    odd = codes[:, :95]
    assert torch.equal(unpack_halves(pack_halves(odd), 95), odd)
    if not kernel_group(128, 96, 32):
        pytest.skip("torch has no 4-bit kernel here")
    packed = to_kernel_order(halves)
    assert packed.shape == halves.shape
    assert torch.equal(from_kernel_order(packed), halves)
    rows = torch.tensor([0, 127, 31, 32, 64, 5])
    assert torch.equal(int4_rows(packed, rows), codes[rows])


def test_mxfp4_is_the_definition():
    weight = matrix(4, 64)
    weight[0, :32] = 0
    codes, scales = encode_mxfp4(weight)
    wide = decode_mxfp4(codes, scales)
    for row, other in zip(weight, wide, strict=True):
        for start in (0, 32):
            block = row[start : start + 32]
            if not block.any():
                assert not other[start : start + 32].any()
                continue
            power = 2.0 ** (torch.floor(torch.log2(block.abs().max())) - 2)
            for value, found in zip(block, other[start : start + 32], strict=True):
                nearest = min(E2M1, key=lambda m: abs(m - abs(float(value / power))))
                assert abs(float(found)) == pytest.approx(nearest * float(power))
    # between two values the even code: 2.5 becomes 2, 3.5 becomes 4, 5 becomes 4
    ties = torch.tensor([[2.5, 3.5, 5.0, 0.25, 0.75, 6.0] + [0.0] * 26])
    assert decode_mxfp4(*encode_mxfp4(ties))[0, :6].tolist() == [2.0, 4.0, 4.0, 0.0, 1.0, 6.0]


@pytest.mark.parametrize("name", NAMES)
def test_parts_have_the_layout_that_is_promised(name):
    codes = named_codes(name)
    weight = matrix()
    parts = codes.encode(weight)
    layout = codes.layout(*weight.shape)
    assert {n: (tuple(p.shape), p.dtype) for n, p in parts.items()} == layout
    assert codes.num_bytes(*weight.shape) == sum(p.numel() * p.itemsize for p in parts.values())
    # rows are independent of each other: those of a part stand for those rows
    rows = torch.tensor([3, 190, 0])
    some = codes.decode(codes.take_rows(parts, rows, 256), 256)
    assert torch.equal(some, codes.decode(parts, 256)[rows])
    assert float((codes.decode(parts, 256) - weight).abs().max()) < 0.1


@pytest.mark.parametrize("rows", [1, 3, 20, 70])
@pytest.mark.parametrize("name", NAMES)
def test_the_fast_product_is_the_plain_one(name, rows):
    """Bounds: what bfloat16 rounds of x, of W or its scales (twice), and of the sum."""
    codes = named_codes(name)
    linear = Linear(256, 192, bias=True)
    linear.weight.data, linear.bias.data = matrix(), torch.randn(192)
    layer = QuantizedLinear.from_linear(linear, codes)
    x = torch.randn(rows, 256, generator=torch.Generator().manual_seed(rows))
    seen = x
    if name == "int8-dynamic":
        quantized, steps = quantize_rows(x)
        seen = quantized.float() * steps
    wide = layer.dense(torch.float64)
    expected = F.linear(seen.double(), wide, linear.bias.double())
    bound = 3 * HALF * (seen.double().abs() @ wide.abs().T) + HALF * expected.abs() + 1e-5
    for is_packed in (False, True):
        if is_packed:
            layer.pack()
        with torch.inference_mode():
            found = layer(x)
        assert found.dtype == torch.float32
        assert bool(((found - expected).abs() <= bound).all()), is_packed
    if name == "int8-dynamic":  # whole numbers are summed: only the last few products round
        torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_go_to_the_activations(name):
    linear = Linear(64, 96, bias=True)
    linear.weight.data = matrix(96, 64)
    layer = QuantizedLinear.from_linear(linear, named_codes(name))
    x = torch.randn(5, 64, requires_grad=True)
    again = x.detach().clone().requires_grad_()
    upstream = torch.randn(5, 96)
    (layer(x) * upstream).sum().backward()
    (F.linear(again, layer.dense(), linear.bias) * upstream).sum().backward()
    torch.testing.assert_close(x.grad, again.grad)  # float32 on both sides


@pytest.mark.parametrize(
    "name", ["int4", "int4-g32-sym", "int8", "nf4", "fp8", "mxfp4", "q8_0", "q4_1"]
)
def test_saving_and_moving_keep_every_bit(name):
    linear = Linear(64, 128)
    linear.weight.data = matrix(128, 64)
    layer = QuantizedLinear.from_linear(linear, named_codes(name))
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    dense = layer.dense()
    layer.pack()
    saved = layer.state_dict()
    assert saved.keys() == before.keys()
    for key, value in before.items():
        assert torch.equal(saved[key].view(torch.uint8), value.view(torch.uint8)), key
    assert torch.equal(layer.to(torch.bfloat16).dense(), dense)  # no scale was narrowed
    fresh = QuantizedLinear(layer.format, 64, 128)
    fresh.pack()
    fresh.load_state_dict(saved)
    assert torch.equal(fresh.dense(), dense)


@pytest.mark.parametrize("name", ["int8", "int4-g32-sym", "nf4", "fp8"])
def test_an_embedding_looks_up_and_projects(name):
    plain = Embedding(128, 64)
    plain.weight.data = matrix(128, 64)
    table = QuantizedEmbedding.from_embedding(plain, named_codes(name))
    ids = torch.tensor([[0, 127, 5], [64, 63, 5]])
    dense = table.dense()
    for _ in range(2):
        assert torch.equal(table(ids), dense[ids])
        hidden = torch.randn(2, 64)
        bound = 4 * HALF * (hidden.abs() @ dense.abs().T) + 1e-5
        with torch.inference_mode():
            assert bool(((table.project(hidden) - hidden @ dense.T).abs() <= bound).all())
        table.pack()


def test_a_matrix_that_no_kernel_takes_is_still_multiplied():
    linear = Linear(33, 7)  # rows no multiple of a block, columns odd
    linear.weight.data = matrix(7, 33)
    for name in ("int4", "int4-g32", "int8", "nf4", "fp8"):
        layer = QuantizedLinear.from_linear(linear, named_codes(name))
        layer.pack()
        assert layer.dense().shape == (7, 33)
        with torch.inference_mode():
            found, dense = layer(torch.ones(2, 33)), layer.dense()
        bound = 4 * HALF * dense.abs().sum(1)
        assert bool(((found - dense.sum(1)).abs() <= bound).all()), name


def test_large_matrices_are_rounded_in_bands(monkeypatch):
    import glassbox.layers.weight_codes as module

    weight = matrix(300, 64)
    whole = {name: named_codes(name).encode(weight) for name in NAMES}
    monkeypatch.setattr(module, "_BAND_NUMBERS", 64 * 64)
    for name, parts in whole.items():
        for key, part in named_codes(name).encode(weight).items():
            assert torch.equal(part.view(torch.uint8), parts[key].view(torch.uint8)), (name, key)
        x = torch.randn(2, 64)
        with torch.inference_mode():
            banded = named_codes(name).linear(x, parts)
        dense = named_codes(name).decode(parts, 64)
        assert bool(((banded - x @ dense.T).abs() <= 0.05 * (x.abs() @ dense.abs().T) + 1e-4).all())


@pytest.mark.parametrize("name", NAMES)
def test_names_come_back(name):
    found = named_codes(name)
    assert isinstance(found, WeightCodes)
    assert named_codes(str(found)) == found


@pytest.mark.parametrize(
    "name", ["int5", "int4-x", "nf4-sym", "int8-g", "int8-dynamic-asym", "", "INT8", "int4-g2"]
)
def test_unknown_names_are_one_clear_line(name):
    with pytest.raises(UserError, match=r"quantize = .* is unknown; use one of int8") as error:
        named_codes(name)
    assert "\n" not in str(error.value)


def test_mxfp4_says_which_widths_it_takes():
    with pytest.raises(UserError, match="multiple of 32"):
        Mxfp4Codes().encode(torch.zeros(2, 40))
    assert IntegerCodes(bits=4, group=32).encode(torch.zeros(2, 40))["scales"].shape == (2, 2)
    assert in_groups(torch.ones(1, 5), 4).tolist() == [[[1, 1, 1, 1], [1, 0, 0, 0]]]
