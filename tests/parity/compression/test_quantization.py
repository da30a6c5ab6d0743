"""Codes, scales and steps against bitsandbytes.

Its CPU kernel for 8 bits finds a code by a table of 65,536 entries and misses the nearest one close to
zero; its own fallback for other types takes the nearest. The codes are held to the fallback, which
float64 reaches, and to be no farther off than the kernel's. Its GPU kernels are not asked here.
"""

from __future__ import annotations

import pytest
import torch
from bitsandbytes import functional
from bitsandbytes.backends.cpu import ops as cpu_ops
from bitsandbytes.backends.default import ops as default_ops
from bitsandbytes.nn import Linear4bit
from bitsandbytes.optim import AdamW8bit as Theirs

from glassbox.layers.linear import Linear
from glassbox.layers.quantized import Nf4Linear
from glassbox.ops.quantization import (
    BLOCK_8BIT,
    dequantize_blocks,
    dequantize_nf4,
    dynamic_table,
    nf4_table,
    quantize_blocks,
    quantize_nf4,
)
from glassbox.optim.adamw8bit import AdamW8bit
from glassbox.optim.groups import ParameterGroup


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def nearest(x: torch.Tensor, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """bitsandbytes' fallback: codes and scales in blocks of 256."""
    return torch.ops.bitsandbytes.quantize_blockwise.default(x.double(), table, BLOCK_8BIT)


def test_tables_are_theirs_to_the_bit() -> None:
    assert torch.equal(nf4_table(), functional.get_4bit_type("nf4", device="cpu"))
    for signed in (True, False):
        assert torch.equal(dynamic_table(signed=signed), functional.create_dynamic_map(signed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64, 64), (48, 112), (7, 30), (3, 1000), (257, 130)])
def test_nf4_codes_scales_and_values_are_theirs(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = (randn(*shape) * randn(shape[0], 1, seed=1).exp()).to(dtype)
    codes, state = functional.quantize_4bit(x, quant_type="nf4", compress_statistics=True)
    ours = quantize_nf4(x)
    assert torch.equal(ours.codes, codes.view(-1))
    assert torch.equal(ours.scale_scales, state.state2.absmax)
    assert torch.equal(ours.offset, state.offset)
    _, plain = functional.quantize_4bit(x, quant_type="nf4", compress_statistics=False)
    wanted, _ = nearest(plain.absmax - state.offset, dynamic_table())
    assert torch.equal(ours.scales, wanted)
    assert float((ours.scales != state.absmax).float().mean()) < 0.1
    # their CPU kernel begins each row with a block of its own, though blocks run over the whole
    # tensor: it gives back other numbers unless rows are whole blocks. Their plain version does not.
    scales = functional.dequantize_blockwise(ours.scales, state.state2) + state.offset
    compute = default_ops._dequantize_4bit_compute
    theirs = compute(codes.view(-1), scales, state.code, 64, shape, dtype)
    if shape[1] % 64 == 0:
        torch.testing.assert_close(
            functional.dequantize_4bit(codes, state), theirs, rtol=2**-8, atol=0
        )
    # their bf16 kernel may round a product otherwise: one unit in the last place of bf16
    tolerance = 0.0 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(dequantize_nf4(ours, shape, dtype), theirs, rtol=tolerance, atol=0)


@pytest.mark.parametrize("size", [256, 1000, 4096])
def test_dynamic_8_bit_codes_are_theirs(size: int) -> None:
    x = randn(size) ** 3
    table = dynamic_table()
    ours = quantize_blocks(x, table, BLOCK_8BIT)
    codes, scales = nearest(x, table)
    assert torch.equal(ours.scales, scales)
    assert torch.equal(ours.codes, codes)
    _, state = functional.quantize_blockwise(x, code=table, blocksize=BLOCK_8BIT)
    values = dequantize_blocks(ours, table, BLOCK_8BIT)
    assert torch.equal(values, functional.dequantize_blockwise(ours.codes, state))
    kernel, _ = functional.quantize_blockwise(x, code=table, blocksize=BLOCK_8BIT)
    theirs = functional.dequantize_blockwise(kernel, state)
    assert bool(((values - x).abs() <= (theirs - x).abs() + 1e-6).all())


def test_the_layer_is_their_linear4bit_forward_and_backward() -> None:
    linear = Linear(128, 40, bias=True)
    with torch.no_grad():
        linear.weight.copy_(randn(40, 128))
        assert linear.bias is not None
        linear.bias.copy_(randn(40, seed=1))
    theirs = Linear4bit(128, 40, compute_dtype=torch.float32, quant_type="nf4")
    theirs.load_state_dict(linear.state_dict())
    theirs = theirs.to("cpu")
    ours = Nf4Linear.from_linear(linear, compute_dtype=torch.float32)
    x, mine = (randn(5, 128, seed=2).requires_grad_() for _ in range(2))
    expected, found = theirs(x), ours(mine)
    # the same float32 numbers multiplied in another order
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights = randn(5, 40, seed=3)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    torch.testing.assert_close(mine.grad, x.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_in_8_bits_steps_as_theirs(decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def exact(x: torch.Tensor, table: torch.Tensor, scales: torch.Tensor, codes: torch.Tensor,
              block: int) -> None:  # fmt: skip
        found, found_scales = nearest(x, table)
        codes.copy_(found)
        scales.copy_(found_scales)

    monkeypatch.setattr(cpu_ops, "_quant_blockwise_fp32_direct", exact)
    shapes = {"large": (80, 70), "odd": (4097,), "small": (30, 4)}
    ours = {n: torch.nn.Parameter(randn(*s, seed=i)) for i, (n, s) in enumerate(shapes.items())}
    theirs = {name: torch.nn.Parameter(p.detach().clone()) for name, p in ours.items()}
    reference = Theirs(theirs.values(), lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=decay)
    optimizer = AdamW8bit([ParameterGroup(ours, decay)], betas=(0.9, 0.95), eps=1e-8)
    for step in range(6):
        for number, name in enumerate(shapes):
            gradient = randn(*shapes[name], seed=50 * step + number) * 10.0 ** (-step)
            ours[name].grad, theirs[name].grad = gradient.clone(), gradient.clone()
        optimizer.step(3e-3)
        reference.step()
        for name in ("large", "odd"):
            state = reference.state[theirs[name]]
            for place, codes in enumerate(("state1", "state2")):
                assert torch.equal(optimizer.codes[name][place], state[codes]), (step, name, codes)
    for name in shapes:
        # small tensors: theirs folds the bias correction into the step; float32 rounding
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)
