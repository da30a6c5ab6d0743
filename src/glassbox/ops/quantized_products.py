"""Products with a quantized matrix on a CPU, through the kernels that torch has for them.

Each takes activations of any float dtype and returns float32. What the fast ones round besides the
weights is said at each; `x W^T` with W widened is the oracle of all.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8, UInt8
from torch import Tensor

from glassbox.ops.integer_codes import unpack_halves
from glassbox.ops.single_row import is_single_row, single_row_linear

KERNEL_GROUPS = (256, 128, 64, 32)
"""Sizes of groups that torch's 4-bit kernel knows."""
_BAND = 256  # rows are packed so many at a time; a multiple of every kernel's block


@lru_cache(maxsize=1)
def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies matrices in bfloat16 by instructions of its own (AMX, AVX512-BF16)."""
    known = torch.cpu
    return bool(
        getattr(known, "_is_amx_tile_supported", bool)()
        or getattr(known, "_is_avx512_bf16_supported", bool)()
    )


def wide_dtype(x: Tensor) -> torch.dtype:
    """What a widened matrix and its activations are multiplied in: bfloat16 where that is fast.

    Only where no gradient is asked for. On a GPU it is the activations' own.
    """
    if x.device.type != "cpu" or torch.is_grad_enabled() or not has_fast_bfloat16():
        return x.dtype
    return torch.bfloat16 if x.dtype == torch.float32 else x.dtype


# ---- 8 bits, a scale a row ---------------------------------------------------------------------


def int8_kernel_takes(codes: Int8[Tensor, "O I"]) -> bool:
    """Whether torch's 8-bit kernel can multiply this matrix: it reads rows by 32 and does not look for their end."""
    rows, columns = codes.shape
    return codes.device.type == "cpu" and columns % 32 == 0 and rows % 16 == 0


def int8_rows_linear(
    x: Float[Tensor, "*shape I"], codes: Int8[Tensor, "O I"], scales: Float[Tensor, " O"]
) -> Float[Tensor, "*shape O"]:
    """s_o sum_i q_oi x_i, x rounded to bfloat16 and the sum once more, for a few rows of x.

    Error: at most 2^-8 (|x| |W|^T) + 2^-8 |y| a number. Tested against: the sum in float64.
    """
    if is_single_row(x):  # the compiler is looking: a loop of its own, and nothing is rounded
        return single_row_linear(x, codes).float() * scales
    flat = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
    ones = torch.ones(len(codes), dtype=torch.bfloat16)
    sums = torch._weight_int8pack_mm(flat, codes, ones)
    return (sums.float() * scales).view(*x.shape[:-1], -1)


def quantize_rows(
    x: Float[Tensor, "N I"],
) -> tuple[Int8[Tensor, "N I"], Float[Tensor, "N 1"]]:
    """Each row in 8 bits: q = round(x / s), s = max |x| / 127; a row of zeros stays one.

    Tested against: torchao's int8 dynamic activations.
    """
    wide = x.float()
    scales = wide.abs().amax(-1, keepdim=True).clamp_(min=1e-12) / 127
    return (wide / scales).round_().to(torch.int8), scales


def int8_dynamic_linear(
    x: Float[Tensor, "*shape I"], codes: Int8[Tensor, "O I"], scales: Float[Tensor, " O"]
) -> Float[Tensor, "*shape O"]:
    """Both sides in 8 bits: s_n s_o sum_i q_ni q_oi, the sum in whole numbers.

    x is rounded to 127 steps of each row's largest; nothing else is rounded.
    Source: Dettmers et al., LLM.int8(), arXiv:2208.07339, section 2. Tested against: the sum of
    whole numbers in float64; torchao.
    """
    rounded, steps = quantize_rows(x.reshape(-1, x.shape[-1]))
    if x.device.type == "cpu":
        sums = torch._int_mm(rounded, codes.t()).float()
    else:  # CUDA's kernel has demands on sizes
        sums = (rounded.float() @ codes.float().t()).float()
    return (sums * steps * scales).view(*x.shape[:-1], -1)


# ---- 4 bits ------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _kernel_block() -> int:
    """How many rows torch's 4-bit kernel keeps together on this CPU; 0 where it has another order.

    In the order that we can read, a block's bytes are (I, rows / 2), its first rows in the lower
    halves and its others in the upper.
    """
    codes = torch.randint(0, 16, (64, 34), generator=torch.Generator().manual_seed(0))
    try:
        found = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
    except (RuntimeError, AttributeError, NotImplementedError):
        return 0
    if found.dtype != torch.uint8:
        return 0
    for block in (64, 32, 16):
        bytes_of = found.reshape(64 // block, 34, block // 2)
        both = torch.cat((bytes_of & 15, bytes_of >> 4), dim=-1)
        if torch.equal(both.transpose(1, 2).reshape(64, 34).long(), codes):
            return block
    return 0


def kernel_group(rows: int, columns: int, group: int) -> int:
    """The kernel's group size for a matrix whose groups are so long; 0 where it cannot multiply it.

    Longer groups are several of the kernel's with equal scales.

    >>> kernel_group(64, 576, 32) in (0, 32)
    True
    """
    block = _kernel_block()
    if not block or rows % block or columns % min(group, columns):
        return 0
    size = min(group, columns)
    return next((g for g in KERNEL_GROUPS if size % g == 0 and columns % g == 0), 0)


def to_kernel_order(halves: UInt8[Tensor, "O half"]) -> UInt8[Tensor, "O half"]:
    """Codes of two a byte in the order in which the kernel reads them; as many bytes."""
    rows, half = halves.shape
    packed = torch.empty_like(halves)
    for start in range(0, rows, _BAND):
        band = unpack_halves(halves[start : start + _BAND], 2 * half).int() + 8
        done = torch.ops.aten._convert_weight_to_int4pack_for_cpu(band, 1)
        packed[start : start + _BAND] = done.view(-1, half)
    return packed


def from_kernel_order(packed: UInt8[Tensor, "O half"]) -> UInt8[Tensor, "O half"]:
    """What `to_kernel_order` was given. Tested against: it, both ways."""
    block, (rows, half) = _kernel_block(), packed.shape
    halves = torch.empty_like(packed)
    for start in range(0, rows, _BAND):
        part = packed[start : start + _BAND].reshape(-1, 2 * half, block // 2)
        codes = torch.cat((part & 15, part >> 4), dim=-1).transpose(1, 2).reshape(-1, 2 * half)
        halves[start : start + _BAND] = codes[:, ::2] | (codes[:, 1::2] << 4)
    return halves


def kernel_scales(
    scales: Float[Tensor, "O G"], floors: Float[Tensor, "O G"], repeats: int
) -> Float[Tensor, "G2 O 2"]:
    """The kernel's two numbers a group, in bfloat16: a weight is (code - 8) times the first plus the second.

    scales, floors: a weight is q scale + floor with q = code - 8 from -8 to 7.
    """
    both = torch.stack((scales.float(), floors.float()), dim=-1)  # (O, G, 2)
    return both.repeat_interleave(repeats, 1).transpose(0, 1).to(torch.bfloat16).contiguous()


def int4_linear(
    x: Float[Tensor, "*shape I"],
    packed: UInt8[Tensor, "O half"],
    scales: Float[Tensor, "G O 2"],
    group: int,
) -> Float[Tensor, "*shape O"]:
    """Products with a packed 4-bit matrix, x, scales and result in bfloat16, for a few rows of x.

    Error: at most 2^-8 (|x| |W|^T) for each of x, W and its scales, and 2^-8 |y|. Tested against: the
    widened product.
    """
    flat = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
    y = torch.ops.aten._weight_int4pack_mm_for_cpu(flat, packed, group, scales)
    return y.float().view(*x.shape[:-1], -1)


def widened_linear(
    x: Float[Tensor, "*shape I"], weight: Float[Tensor, "O I"]
) -> Float[Tensor, "*shape O"]:
    """x W^T in the weight's dtype, as float32."""
    return F.linear(x.to(weight.dtype), weight).float()


def int4_widened_linear(
    x: Float[Tensor, "*shape I"],
    packed: UInt8[Tensor, "O half"],
    scales: Float[Tensor, "G O 2"],
) -> Float[Tensor, "*shape O"]:
    """`int4_linear` for many rows of x: the matrix widened to bfloat16, some rows at a time.

    Tested against: the widened product.
    """
    block, (rows, half) = _kernel_block(), packed.shape
    columns, groups = 2 * half, len(scales)
    flat = x.reshape(-1, columns).to(torch.bfloat16)
    y = torch.empty(len(flat), rows)
    step = max(block, (1 << 20) // columns // block * block)
    for start in range(0, rows, step):
        part = packed[start : start + step].view(-1, columns, block // 2)
        wide = torch.empty(len(part), columns, block, dtype=torch.bfloat16)
        wide[..., : block // 2] = part & 15
        wide[..., block // 2 :] = part >> 4
        wide = wide.sub_(8).view(len(part), groups, -1, block)
        mine = scales[:, start : start + step].view(groups, len(part), 1, block, 2).transpose(0, 1)
        wide = wide.mul_(mine[..., 0]).add_(mine[..., 1]).view(len(part), columns, block)
        weight = wide.transpose(1, 2).reshape(-1, columns)
        y[:, start : start + step] = F.linear(flat, weight)
    return y.view(*x.shape[:-1], -1)


def int4_rows(packed: UInt8[Tensor, "O half"], rows: Tensor) -> Int8[Tensor, "R I"]:
    """The codes of some rows of a packed matrix, as signed bytes."""
    block, half = _kernel_block(), packed.shape[1]
    blocks = packed.view(-1, 2 * half, block // 2)
    place = rows % block
    found = blocks[rows // block, :, place % (block // 2)]  # (R, I)
    upper = (place >= block // 2).unsqueeze(1)
    return torch.where(upper, found >> 4, found & 15).to(torch.int8) - 8
