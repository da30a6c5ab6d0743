"""Blocks that we write against the gguf package, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from gguf.quants import quantize as theirs

from glassbox.compression import GgmlCodes
from glassbox.formats.gguf.blocks import FORMATS, QUANTIZE, codes_of


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1"])
def test_blocks_are_the_gguf_packages(name):
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(64, 96, generator=generator) * torch.logspace(-3, 2, 64).unsqueeze(1)
    weights[0], weights[1, :32] = 0, 0.5  # zeros; all alike
    weights[2, :32] = torch.tensor([-1.0, 1.0]).repeat(16)  # two of largest magnitude
    kind = GGMLQuantizationType[name]
    expected = theirs(weights.numpy(), kind)
    found = QUANTIZE[name](weights)
    assert np.array_equal(found.numpy().reshape(64, -1), expected)
    # as layers run them: the same codes by rounding and by reading, and the package's weights
    codes = GgmlCodes(type=name)
    parts = codes_of(name, found, 96)
    for key, part in codes.encode(weights).items():
        assert torch.equal(part, parts[key]), key
    wide = torch.from_numpy(dequantize(expected, kind).reshape(64, 96).copy())
    assert torch.equal(codes.decode(parts, 96), wide)
    assert torch.equal(FORMATS[name].decode(found).view(64, 96), wide)
