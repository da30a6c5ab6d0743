"""ggml's block formats: a row of weights is cut into blocks, each with scales of its own.

| format | weights a block | bytes | a weight is, of its q |
|---|---|---|---|
| Q4_0 | 32 | 18 | d (q - 8) |
| Q4_1 | 32 | 20 | d q + m |
| Q5_0 | 32 | 22 | d (q - 16) |
| Q5_1 | 32 | 24 | d q + m |
| Q8_0 | 32 | 34 | d q |
| Q2_K | 256 | 84 | d s q - m t, with a 4-bit s and t for each 16 weights |
| Q3_K | 256 | 110 | d (s - 32) (q - 4), with a 6-bit s for each 16 |
| Q4_K | 256 | 144 | d s q - m t, with a 6-bit s and t for each 32 |
| Q5_K | 256 | 176 | as Q4_K, with 5-bit q |
| Q6_K | 256 | 210 | d s (q - 32), with an 8-bit s for each 16 |
| IQ4_NL | 32 | 18 | d t(q), with t a table of 16 uneven steps |
| IQ4_XS | 256 | 136 | d (s - 32) t(q), with a 6-bit s for each 32 |
| MXFP4 | 32 | 17 | 2^(s - 128) t(q), with t twice the 16 values of e2m1 |

d and m are float16. Source: ggml's `ggml-common.h` (the layouts) and `ggml-quants.c` (the formulas).
Tested against: the gguf package's `dequantize` and `quantize`, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float, Int8, UInt8
from torch import Tensor

from glassbox.ops.ggml_codes import round_q4_0, round_q4_1, round_q8_0

UNEVEN = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
TWICE_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)

Blocks = UInt8[Tensor, "blocks bytes"]
Weights = Float[Tensor, "blocks weights"]


@dataclass(frozen=True)
class Format:
    """How a type of GGUF lays numbers out. code: its number there. decode: float32 from raw blocks."""

    code: int
    block_size: int
    block_bytes: int
    decode: Callable[[Tensor], Tensor]

    def row_bytes(self, length: int) -> int:
        """Bytes of a row of `length` numbers, which must be a multiple of `block_size`."""
        return length // self.block_size * self.block_bytes


def quantize_q8_0(weights: Float[Tensor, "*rows F"]) -> UInt8[Tensor, "blocks 34"]:
    """Round each 32 weights w to q = round(w / d), with d = max |w| / 127; halves round away from 0.

    Blocks of 34 bytes: d in float16, then 32 int8. Raises UserError for weights that are not finite
    or so large that d does not fit float16. Tested against: the gguf package, to the last bit.
    """
    codes, steps, _ = round_q8_0(weights)
    return torch.cat([steps.view(torch.uint8), codes.view(torch.uint8)], dim=1)


def quantize_q4_0(weights: Float[Tensor, "*rows F"]) -> UInt8[Tensor, "blocks 18"]:
    """`ops.ggml_codes.round_q4_0` as blocks of 18 bytes: d in float16, then 32 codes of half a byte.

    Tested against: the gguf package, to the last bit.
    """
    codes, steps, _ = round_q4_0(weights)
    return torch.cat([steps.view(torch.uint8), _in_halves(codes)], dim=1)


def quantize_q4_1(weights: Float[Tensor, "*rows F"]) -> UInt8[Tensor, "blocks 20"]:
    """`ops.ggml_codes.round_q4_1` as blocks of 20 bytes: d and m in float16, then 32 codes.

    Tested against: the gguf package, to the last bit.
    """
    codes, steps, floors = round_q4_1(weights)
    assert floors is not None
    return torch.cat([steps.view(torch.uint8), floors.view(torch.uint8), _in_halves(codes)], dim=1)


def _in_halves(codes: Int8[Tensor, "blocks 32"]) -> UInt8[Tensor, "blocks 16"]:
    """The first sixteen codes in the lower halves of the bytes, the others in the upper."""
    raised = (codes + 8).to(torch.uint8)
    return raised[:, :16] | (raised[:, 16:] << 4)


QUANTIZE: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"Q8_0": quantize_q8_0, "Q4_0": quantize_q4_0, "Q4_1": quantize_q4_1}
)
"""The block formats that can be written."""


def codes_of(type_name: str, blocks: Blocks, columns: int) -> dict[str, Tensor]:
    """Rows of raw blocks of Q8_0, Q4_0 or Q4_1 as the parts of `compression.GgmlCodes`.

    blocks: of whole rows of so many weights.
    """
    groups = columns // 32
    parts = {"scales": blocks[:, :2].contiguous().view(torch.float16).view(-1, groups)}
    if type_name == "Q8_0":
        return {"codes": _signed(blocks[:, 2:]).view(-1, columns), **parts}
    if type_name == "Q4_1":
        parts["floors"] = blocks[:, 2:4].contiguous().view(torch.float16).view(-1, groups)
    codes = _nibbles(blocks[:, 4 if type_name == "Q4_1" else 2 :])
    return {"codes": (codes[:, ::2] | (codes[:, 1::2] << 4)).view(-1, columns // 2), **parts}


def _float16(blocks: Blocks, start: int) -> Weights:
    """The float16 at a byte of each block, (blocks, 1)."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).to(torch.float32)


def _signed(raw: Blocks) -> Int8[Tensor, "blocks bytes"]:
    return raw.contiguous().view(torch.int8)


def _nibbles(raw: Blocks) -> Blocks:
    """All low halves of the bytes, then all high halves."""
    return torch.cat([raw & 15, raw >> 4], dim=-1)


def _bits(raw: Blocks, width: int) -> UInt8[Tensor, "blocks parts bytes"]:
    """Each byte's fields of `width` bits, the lowest first: (blocks, 8 / width, bytes)."""
    shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=raw.device)
    return (raw.unsqueeze(-2) >> shifts.unsqueeze(-1)) & ((1 << width) - 1)


def _high_bits(blocks: Blocks, start: int) -> Blocks:
    """32 single bits in four bytes, one a weight, in the place of a fifth bit."""
    return _bits(blocks[:, start : start + 4], 1).transpose(1, 2).reshape(-1, 32) << 4


def _q4_0(b: Blocks) -> Weights:
    return _float16(b, 0) * (_nibbles(b[:, 2:]).to(torch.float32) - 8)


def _q4_1(b: Blocks) -> Weights:
    return _float16(b, 0) * _nibbles(b[:, 4:]) + _float16(b, 2)


def _q5_0(b: Blocks) -> Weights:
    q = _nibbles(b[:, 6:]) | _high_bits(b, 2)
    return _float16(b, 0) * (q.to(torch.float32) - 16)


def _q5_1(b: Blocks) -> Weights:
    return _float16(b, 0) * (_nibbles(b[:, 8:]) | _high_bits(b, 4)) + _float16(b, 2)


def _q8_0(b: Blocks) -> Weights:
    return _float16(b, 0) * _signed(b[:, 2:])


def _q2_k(b: Blocks) -> Weights:
    # Two halves of 128 weights; in each, 32 bytes hold four rounds of 32 weights.
    scales = b[:, :16].reshape(-1, 16, 1)
    q = _bits(b[:, 16:80].reshape(-1, 32), 2).reshape(-1, 16, 16)
    step, floor = _float16(b, 80).unsqueeze(-1), _float16(b, 82).unsqueeze(-1)
    return (step * (scales & 15) * q - floor * (scales >> 4)).reshape(-1, 256)


def _q3_k(b: Blocks) -> Weights:
    low = _bits(b[:, 32:96].reshape(-1, 32), 2).reshape(-1, 16, 16)
    high = _bits(b[:, :32], 1).reshape(-1, 16, 16)  # 0 where 4 is to be taken away
    packed = b[:, 96:108]
    scales = _nibbles(packed[:, :8]) | (_bits(packed[:, 8:], 2).reshape(-1, 16) << 4)
    q = low.to(torch.float32) - 4 * (1 - high.to(torch.float32))
    step = _float16(b, 108) * (scales.to(torch.float32) - 32)
    return (step.unsqueeze(-1) * q).reshape(-1, 256)


def _scales_and_floors(packed: Blocks) -> tuple[Tensor, Tensor]:
    """Eight 6-bit scales and eight 6-bit floors out of twelve bytes, each (blocks, 8)."""
    first, second, rest = packed.split(4, dim=1)
    scales = torch.cat([first & 63, (rest & 15) | (first >> 6 << 4)], dim=1)
    floors = torch.cat([second & 63, (rest >> 4) | (second >> 6 << 4)], dim=1)
    return scales.unsqueeze(-1), floors.unsqueeze(-1)


def _q4_k(b: Blocks) -> Weights:
    return _from_k(b, _bits(b[:, 16:].reshape(-1, 32), 4).reshape(-1, 8, 32))


def _q5_k(b: Blocks) -> Weights:
    q = _bits(b[:, 48:].reshape(-1, 32), 4).reshape(-1, 8, 32)
    return _from_k(b, q | (_bits(b[:, 16:48], 1) << 4))


def _from_k(b: Blocks, q: Tensor) -> Weights:
    scales, floors = _scales_and_floors(b[:, 4:16])
    step, floor = _float16(b, 0).unsqueeze(-1), _float16(b, 2).unsqueeze(-1)
    return (step * scales * q - floor * floors).reshape(-1, 256)


def _q6_k(b: Blocks) -> Weights:
    low = _bits(b[:, :128].reshape(-1, 64), 4).reshape(-1, 8, 32)
    high = _bits(b[:, 128:192].reshape(-1, 32), 2).reshape(-1, 8, 32)
    q = (low | (high << 4)).reshape(-1, 16, 16).to(torch.float32) - 32
    step = _float16(b, 208) * _signed(b[:, 192:208])
    return (step.unsqueeze(-1) * q).reshape(-1, 256)


def _stepped(b: Blocks, steps: tuple[int, ...]) -> Weights:
    return torch.tensor(steps, dtype=torch.float32)[_nibbles(b).int()]


def _iq4_nl(b: Blocks) -> Weights:
    return _float16(b, 0) * _stepped(b[:, 2:], UNEVEN)


def _iq4_xs(b: Blocks) -> Weights:
    low = _bits(b[:, 4:8], 4).transpose(1, 2).reshape(-1, 8)
    high = _bits(b[:, 2:4], 2).transpose(1, 2).reshape(-1, 8)
    step = _float16(b, 0) * ((low | (high << 4)).to(torch.float32) - 32)
    q = _stepped(b[:, 8:].reshape(-1, 16), UNEVEN).view(-1, 8, 32)
    return (step.unsqueeze(-1) * q).reshape(-1, 256)


def _mxfp4(b: Blocks) -> Weights:
    step = torch.ldexp(torch.ones(len(b), 1), b[:, :1].int() - 128)
    return step * _stepped(b[:, 1:], TWICE_E2M1)


def _as_type(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda blocks: blocks.view(dtype).to(torch.float32)


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "F32": Format(0, 1, 4, _as_type(torch.float32)),
        "F16": Format(1, 1, 2, _as_type(torch.float16)),
        "Q4_0": Format(2, 32, 18, _q4_0),
        "Q4_1": Format(3, 32, 20, _q4_1),
        "Q5_0": Format(6, 32, 22, _q5_0),
        "Q5_1": Format(7, 32, 24, _q5_1),
        "Q8_0": Format(8, 32, 34, _q8_0),
        "Q2_K": Format(10, 256, 84, _q2_k),
        "Q3_K": Format(11, 256, 110, _q3_k),
        "Q4_K": Format(12, 256, 144, _q4_k),
        "Q5_K": Format(13, 256, 176, _q5_k),
        "Q6_K": Format(14, 256, 210, _q6_k),
        "IQ4_NL": Format(20, 32, 18, _iq4_nl),
        "IQ4_XS": Format(23, 256, 136, _iq4_xs),
        "BF16": Format(30, 1, 2, _as_type(torch.bfloat16)),
        "MXFP4": Format(39, 32, 17, _mxfp4),
    }
)
"""The types of tensors that can be read, by ggml's names."""

UNREAD: Mapping[int, str] = MappingProxyType(
    {
        9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S",
        22: "IQ2_S", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0",
        35: "TQ2_0", 40: "NVFP4", 41: "Q1_0",
    }
)  # fmt: skip
"""The names of the other types that ggml has, by their numbers."""
