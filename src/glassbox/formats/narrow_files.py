"""Checkpoints with weights in FP8 and MXFP4, which are dequantized when read.

| quant_method | tensors | a weight is |
|---|---|---|
| fp8 | `W` (R, C), float8 e4m3; `W_scale_inv` (R / m, C / n), rounded up | W[r, c] s[r // m, c //
n] |
| mxfp4 | `W_blocks` (E, R, C / 32, 16), two e2m1 a byte; `W_scales` (E, R, C / 32), e8m0 | value
2^(s - 127) |

m and n are 128 in published files; one scale for a whole matrix is read as well. Scales are floats,
or e8m0: the exponent s of 2^(s - 127). MXFP4 stands for experts' matrices (E, C, R), transposed.
Sources: DeepSeek-V3, arXiv:2412.19437, section 3.3 (fp8, as DeepSeek-V3 and Qwen3-FP8 are
published); OCP Microscaling Formats 1.0, sections 5.2 and 5.3 (mxfp4, as gpt-oss is).
Tested against: the table's formulas as loops; transformers' Fp8Dequantize and
convert_moe_packed_tensors.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from glassbox.core.errors import UserError
from glassbox.formats.compressed_files import METHOD
from glassbox.formats.tensor_files import TensorFiles
from glassbox.formats.tensor_source import TensorSource, row_chunks
from glassbox.models.family import HfConfig
from glassbox.ops.float_codes import MX_BLOCK, decode_mxfp4, exponents

FP8, MXFP4 = "fp8", "mxfp4"
SCALE, BLOCKS, SCALES = "_scale_inv", "_blocks", "_scales"
WIDEN = 16  # a decoded chunk and what it takes to decode it, in chunks as they are stored


@dataclass(frozen=True)
class Narrow:
    """How a folder's weights are narrowed. block: rows and columns that share a scale; None: all do."""

    method: str
    block: tuple[int, int] | None = None


def read_narrow(raw: Mapping[str, Any], where: str) -> Narrow | None:
    """What config.json says of quantized weights; None where it says nothing.

    Raises UserError for methods that are not read, and for details of known ones that are not.
    """
    words = HfConfig(raw, where).inner("quantization_config")
    if words is None:
        return None
    method = words.raw.get("quant_method")
    if method == METHOD:  # ours, which stays narrow
        return None
    if method == MXFP4:
        return Narrow(MXFP4)
    if method != FP8:
        raise UserError(
            f"{words.where}: 'quant_method' = {method!r} is not supported; known: '{FP8}' (e4m3 with "
            f"a scale a block) and '{MXFP4}'; open the model in transformers with dequantized "
            "weights and save it again, or take its files that are not quantized"
        )
    words.refuse_unless("fmt", ("e4m3",))
    words.refuse_unless("activation_scheme", ("dynamic",))
    words.refuse_unless("expert_dtype", (FP8,))
    if "weight_block_size" in words.raw and words.raw["weight_block_size"] is None:
        return Narrow(FP8)
    block = words.find_list("weight_block_size", int) or [128, 128]
    if len(block) != 2 or min(block) < 1:
        raise UserError(
            f"{words.where}: 'weight_block_size' = {block} is no pair of numbers above 0"
        )
    return Narrow(FP8, (block[0], block[1]))


def widened(source: TensorSource, narrow: Narrow | None) -> TensorSource:
    """The source, or where its weights are narrow the same with wide ones.

    Raises UserError where tensors and scales do not belong together, naming the first.
    """
    if narrow is None:
        return source
    if not isinstance(source, TensorFiles):
        raise UserError(f"{source.where}: quantized weights are read from safetensors alone")
    return Fp8Files(source, narrow.block) if narrow.method == FP8 else Mxfp4Files(source)


class _Wide(TensorSource):
    """Files some of whose tensors are put together from a narrow one and its scales."""

    read_as: ClassVar[str]
    """The type that holds such tensors to the last bit, in safetensors' words."""

    def __init__(self, files: TensorFiles) -> None:
        self.files = files
        self.where = files.where
        self._stored = frozenset(files.names)
        self._narrow = self._find()

    @abc.abstractmethod
    def _find(self) -> dict[str, tuple[int, ...]]:
        """Names of the tensors that are put together, and their shapes."""

    @abc.abstractmethod
    def _parts(self, name: str) -> tuple[str, str]:
        """What a tensor is put together from: numbers and scales."""

    @property
    def names(self) -> list[str]:
        """Every tensor there is, without the parts."""
        parts = {part for name in self._narrow for part in self._parts(name)}
        return sorted((self._stored - parts) | self._narrow.keys())

    def file(self, name: str) -> str:
        """The file that a tensor, or its numbers, are in, quoted."""
        return self.files.file(self._parts(name)[0] if name in self._narrow else name)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape as it is read."""
        return self._narrow.get(name) or self.files.shape(name)

    def dtype(self, name: str) -> str:
        """The type that a tensor is read as."""
        return self.read_as if name in self._narrow else self.files.dtype(name)

    def copy_into(self, name: str, out: Tensor) -> None:
        """Read a tensor into one of its shape, a few megabytes at a time."""
        if name in self._narrow:
            assert tuple(out.shape) == self._narrow[name], name
            self._widen_into(name, out)
        else:
            self.files.copy_into(name, out)

    @abc.abstractmethod
    def _widen_into(self, name: str, out: Tensor) -> None:
        """Read a tensor that is put together."""

    def _check_scales(self, name: str, expected: tuple[tuple[int, ...], ...]) -> None:
        """The scales are there, in one of these shapes."""
        numbers, scales = self._parts(name)
        if scales not in self._stored:
            raise UserError(
                f"{self.where} lacks tensor '{scales}', the scales of '{numbers}'; expected it of "
                f"shape {expected[0]}, found none of that name"
            )
        if self.files.shape(scales) not in expected:
            raise UserError(
                f"{self.where}: tensor '{scales}' has the wrong shape: expected {expected[0]} for "
                f"'{numbers}' of shape {self.files.shape(numbers)}, found {self.files.shape(scales)}"
            )

    def _check_dtype(self, name: str, allowed: tuple[str, ...]) -> None:
        if self.files.dtype(name) not in allowed:
            raise UserError(
                f"{self.files.file(name)}: tensor '{name}' has the wrong dtype: expected "
                f"{' or '.join(allowed)}, found {self.files.dtype(name)}"
            )


class Fp8Files(_Wide):
    """Matrices in float8 e4m3, each block of rows and columns times its own scale."""

    read_as = "F32"

    def __init__(self, files: TensorFiles, block: tuple[int, int] | None) -> None:
        self.block = block
        super().__init__(files)

    def _find(self) -> dict[str, tuple[int, ...]]:
        found = {}
        for name in sorted(self._stored):
            if self.files.dtype(name) != "F8_E4M3":
                continue
            shape = found[name] = self.files.shape(name)
            if len(shape) != 2:
                raise UserError(f"{self.where}: tensor '{name}' in FP8 has shape {shape}; expected a matrix")  # fmt: skip
            if self.block is None:
                self._check_scales(name, ((1,), (), (1, 1)))
            else:
                per_axis = zip(shape, self.block, strict=True)
                self._check_scales(name, (tuple(-(-size // each) for size, each in per_axis),))
            self._check_dtype(name + SCALE, ("F32", "BF16", "F16", "F8_E8M0", "U8"))
        return found

    def _parts(self, name: str) -> tuple[str, str]:
        return name, name + SCALE

    def _widen_into(self, name: str, out: Tensor) -> None:
        rows, columns = out.shape
        stored = self.files.get(name + SCALE)
        is_exponent = stored.dtype == torch.uint8
        scales = exponents(stored) if is_exponent else stored.float()
        high, wide = self.block or (rows, columns)
        scales = scales.view(-(-rows // high), -(-columns // wide))
        for start, stop in row_chunks((rows,), WIDEN * columns):
            numbers = self.files.rows(name, start, stop, columns).float()
            each = scales[torch.arange(start, stop) // high].repeat_interleave(wide, 1)
            out[start:stop].copy_(numbers.mul_(each[:, :columns]))


class Mxfp4Files(_Wide):
    """Experts' matrices in MXFP4: 32 weights in a row share an exponent."""

    read_as = "BF16"

    def _find(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for blocks in sorted(self._stored):
            if not blocks.endswith(BLOCKS):
                continue
            name, shape = blocks.removesuffix(BLOCKS), self.files.shape(blocks)
            if len(shape) != 4 or shape[-1] != MX_BLOCK // 2:
                raise UserError(
                    f"{self.where}: tensor '{blocks}' has the wrong shape: expected (experts, rows, "
                    f"blocks, {MX_BLOCK // 2}), found {shape}"
                )
            self._check_scales(name, (shape[:-1],))
            for part in self._parts(name):
                self._check_dtype(part, ("U8", "F8_E8M0") if part.endswith(SCALES) else ("U8",))
            found[name] = (shape[0], shape[2] * MX_BLOCK, shape[1])
        return found

    def _parts(self, name: str) -> tuple[str, str]:
        return name + BLOCKS, name + SCALES

    def _widen_into(self, name: str, out: Tensor) -> None:
        blocks, scales = self._parts(name)
        _, columns, rows = out.shape
        for expert, matrix in enumerate(out.transpose(1, 2)):  # (R, C)
            first = expert * rows
            for start, stop in row_chunks((rows,), WIDEN * columns // 2):
                place = first + start, first + stop
                packed = self.files.rows(blocks, *place, columns // 2)
                powers = self.files.rows(scales, *place, columns // MX_BLOCK)
                matrix[start:stop].copy_(decode_mxfp4(packed, powers))
