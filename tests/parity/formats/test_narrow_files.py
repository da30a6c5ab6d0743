"""Files in FP8 and MXFP4 against their formulas as loops, and against transformers on the same weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import FP4_VALUES, convert_moe_packed_tensors

from glassbox.core.errors import UserError
from glassbox.formats.convert import convert
from glassbox.formats.huggingface import load_config, load_pretrained
from glassbox.formats.narrow_files import Fp8Files, Mxfp4Files, decode_mxfp4
from glassbox.formats.tensor_files import TensorFiles, write_tensors
from support.families import Case, all_cases
from support.parity import as_in_files, difference, ids_of, reference

CASES = all_cases()
BLOCK = (8, 16)  # which divides few of the tiny matrices: blocks at the edges are cut
FP8_CASES = (
    ("deepseek v3", BLOCK),
    ("deepseek v3", (128, 128)),
    ("deepseek v3", None),
    ("deepseek v32", BLOCK),
    ("qwen3", BLOCK),
    ("qwen3-next", BLOCK),  # rows of which are put together otherwise
)
OSS = CASES["gpt_oss"].words | {"hidden_size": 64, "intermediate_size": 32}


def quantize_fp8(weight: Tensor, block: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers, scales, and what they stand for, block by block."""
    high, wide = block
    rows, columns = weight.shape
    scales = torch.zeros(-(-rows // high), -(-columns // wide))
    numbers = torch.zeros(weight.shape).to(torch.float8_e4m3fn)
    meant = torch.zeros(weight.shape)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            part = (slice(i * high, (i + 1) * high), slice(j * wide, (j + 1) * wide))
            scales[i, j] = weight[part].abs().max() / 448
            numbers[part] = (weight[part] / scales[i, j]).to(torch.float8_e4m3fn)
            meant[part] = numbers[part].float() * scales[i, j]
    return numbers, scales, meant


def quantize_mxfp4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bytes and exponents of (E, C, R) laid out (E, R, ...), and what they stand for, number by number."""
    table = torch.tensor(FP4_VALUES)
    turned = weight.transpose(1, 2)
    experts, rows, columns = turned.shape
    blocks = torch.zeros(experts, rows, columns // 32, 16, dtype=torch.uint8)
    scales = torch.zeros(experts, rows, columns // 32, dtype=torch.uint8)
    groups = turned.reshape(-1, 32)
    power = (groups.abs().amax(1).log2().floor().int() - 2).clamp(-127, 127)
    nearest = (
        (groups / torch.exp2(power.float())[:, None]).unsqueeze(-1).sub(table).abs().argmin(-1)
    )
    meant = (table[nearest] * torch.exp2(power.float())[:, None]).view(turned.shape)
    for number, codes in enumerate(nearest.tolist()):
        place = blocks.view(-1, 16)[number]
        for i in range(16):
            place[i] = codes[2 * i] | codes[2 * i + 1] << 4
        scales.view(-1)[number] = int(power[number]) + 127
    return blocks, scales, meant.transpose(1, 2).contiguous()


def write_folder(
    folder: Path, case: Case, method: dict[str, Any], *, exponents: bool = False, **words: Any
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """A quantized folder of a random model; its stored tensors, some ids, and the logits it means."""
    theirs = reference(case)
    stored = {n: t.detach().clone() for n, t in as_in_files(theirs, theirs.state_dict()).items()}
    meant, files = dict(stored), dict(stored)
    for name, tensor in stored.items():
        if method["quant_method"] == "fp8" and tensor.dim() == 2 and "_proj" in name:
            block = tuple(method["weight_block_size"] or tensor.shape)
            files[name], scales, meant[name] = quantize_fp8(tensor, block)
            if exponents:
                scales = scales.log2().ceil()
                files[name] = (meant[name] / spread(scales.exp2(), block, tensor.shape)).to(
                    torch.float8_e4m3fn
                )
                meant[name] = files[name].float() * spread(scales.exp2(), block, tensor.shape)
                scales = (scales + 127).to(torch.uint8).view(torch.float8_e8m0fnu)
            files[f"{name}_scale_inv"] = scales
        if method["quant_method"] == "mxfp4" and name.endswith(("gate_up_proj", "down_proj")):
            blocks, scales, meant[name] = quantize_mxfp4(tensor)
            del files[name]
            files |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    folder.mkdir(exist_ok=True)
    write_tensors(folder / "model.safetensors", files)
    raw = {**theirs.config.to_dict(), "dtype": "float32", "quantization_config": method, **words}
    (folder / "config.json").write_text(json.dumps(raw))
    plain = folder / "plain"
    theirs.save_pretrained(plain)
    safetensors.torch.save_file(meant, plain / "model.safetensors", metadata={"format": "pt"})
    opened = type(theirs).from_pretrained(plain, attn_implementation="eager")
    ids = ids_of(case)
    with torch.no_grad():
        return files, ids, opened(ids).logits


def spread(scales: Tensor, block: tuple[int, int], shape: torch.Size) -> Tensor:
    each = scales.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return each[: shape[0], : shape[1]]


def fp8(block: tuple[int, int] | None) -> dict[str, Any]:
    words = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
    return {**words, "weight_block_size": None if block is None else list(block)}


@pytest.mark.parametrize(("name", "block"), FP8_CASES)
def test_fp8_has_the_logits_of_the_weights_it_stands_for(name, block, tmp_path):
    files, ids, logits = write_folder(tmp_path, CASES[name], fp8(block))
    assert sum(tensor.dtype == torch.float8_e4m3fn for tensor in files.values()) > 5
    model = load_pretrained(tmp_path)
    with torch.no_grad():
        assert difference(model(ids), logits) <= CASES[name].tolerance


def test_fp8_with_scales_that_are_powers_of_two(tmp_path):
    _, ids, logits = write_folder(tmp_path, CASES["deepseek v3"], fp8(BLOCK), exponents=True)
    with torch.no_grad():
        assert difference(load_pretrained(tmp_path)(ids), logits) <= 1e-5


def test_fp8_blocks_are_those_of_transformers(tmp_path):
    """To the bit, where the blocks divide the matrix, which is all that theirs takes."""
    weight = torch.randn(300 - 44, 384, generator=torch.Generator().manual_seed(0))
    numbers, scales, _ = quantize_fp8(weight, (128, 128))
    write_tensors(tmp_path / "model.safetensors", {"w": numbers, "w_scale_inv": scales})
    theirs = Fp8Dequantize(None)._dequantize_one(numbers, scales, torch.float32)
    with TensorFiles(tmp_path) as files:
        source = Fp8Files(files, (128, 128))
        assert source.names == ["w"]
        assert torch.equal(source.get("w"), theirs)
        out = torch.empty(256, 384, dtype=torch.bfloat16)
        source.copy_into("w", out)
    assert torch.equal(out, theirs.to(torch.bfloat16))


def test_mxfp4_is_that_of_transformers(tmp_path):
    """Every byte and nearly every exponent, to the bit; the rows of one matrix in several pieces."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (3, 40, 2, 16), generator=generator).to(torch.uint8)
    scales = torch.randint(2, 250, (3, 40, 2), generator=generator).to(torch.uint8)
    write_tensors(tmp_path / "model.safetensors", {"x_blocks": blocks, "x_scales": scales})
    theirs = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    with TensorFiles(tmp_path) as files:
        source = Mxfp4Files(files)
        assert (source.names, source.shape("x")) == (["x"], (3, 64, 40))
        for out in (torch.empty(3, 64, 40), torch.empty(3, 40, 64).transpose(1, 2)):
            source.copy_into("x", out)
            assert torch.equal(out, theirs)
        assert torch.equal(source.get("x"), theirs.to(torch.bfloat16))  # which holds them exactly
        assert torch.equal(source.get("x").float(), theirs)
    one = decode_mxfp4(torch.full((1, 16), 0x7F, dtype=torch.uint8), torch.tensor([[255 - 128]], dtype=torch.uint8))  # fmt: skip
    assert one[0, :2].tolist() == [-6.0, 6.0]


def test_mxfp4_experts_have_the_logits_of_the_weights_they_stand_for(tmp_path):
    case = replace(CASES["gpt_oss"], words=OSS)
    method = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    files, ids, logits = write_folder(tmp_path, case, method)
    assert sum(name.endswith("_blocks") for name in files) == 6
    model = load_pretrained(tmp_path)
    with torch.no_grad():
        assert difference(model(ids), logits) <= case.tolerance
    convert(tmp_path, tmp_path / "wide")  # and written, they are plain
    assert "quantization_config" not in json.loads((tmp_path / "wide/config.json").read_text())
    again = load_pretrained(tmp_path / "wide")
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))  # fmt: skip


# ---- what is refused -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> tuple[Path, dict[str, Tensor]]:
    path = tmp_path_factory.mktemp("narrow")
    return path, write_folder(path, CASES["qwen3"], fp8(BLOCK))[0]


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ({"quant_method": "gptq", "bits": 4}, r"'quant_method' = 'gptq'.*known: 'fp8'.*'mxfp4'"),
        ({"quant_method": "bitsandbytes"}, "'bitsandbytes' is not supported"),
        ({"bits": 4}, "'quant_method' = None"),
        (fp8(BLOCK) | {"fmt": "e5m2"}, "'fmt' = 'e5m2' is not supported"),
        (fp8(BLOCK) | {"activation_scheme": "static"}, "'activation_scheme' = 'static'"),
        (fp8(BLOCK) | {"weight_block_size": [128]}, r"'weight_block_size' = \[128\] is no pair"),
        (fp8(BLOCK) | {"weight_block_size": ["a", 1]}, r"'weight_block_size\[0\]' = 'a' is no int"),
        ("fp8", "'quantization_config' = 'fp8' is no mapping"),
    ],
)
def test_methods_that_are_not_read(method, says, folder, tmp_path):
    raw = json.loads((folder[0] / "config.json").read_text()) | {"quantization_config": method}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    for read in (load_config, load_pretrained):  # told before weights are looked for
        with pytest.raises(UserError, match=says) as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value)


NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({f"{NAME}_scale_inv": None}, f"lacks tensor '{NAME}_scale_inv', the scales of '{NAME}'"),
        (
            {f"{NAME}_scale_inv": torch.ones(2, 2)},
            rf"'{NAME}_scale_inv' has the wrong shape: expected \(\d, \d\) for .*, found \(2, 2\)",
        ),
        ({f"{NAME}_scale_inv": "int64"}, "wrong dtype: expected F32 or .*, found I64"),
        ({NAME: None}, f"'{NAME}'"),
        ({NAME: torch.ones(3, 3).to(torch.float8_e4m3fn)}, "has the wrong shape"),
        ({"model.norm.weight": torch.ones(24).to(torch.float8_e4m3fn)}, "expected a matrix"),
    ],
)
def test_scales_that_do_not_belong(change, says, folder, tmp_path):
    files = dict(folder[1])
    for name, tensor in change.items():
        if tensor is None:
            del files[name]
        else:
            files[name] = files[name].long() if isinstance(tensor, str) else tensor
    write_tensors(tmp_path / "model.safetensors", files)
    (tmp_path / "config.json").write_bytes((folder[0] / "config.json").read_bytes())
    with pytest.raises(UserError, match=says) as caught:
        load_pretrained(tmp_path)
    assert "model.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_narrow_weights_that_no_config_speaks_of(folder, tmp_path):
    raw = json.loads((folder[0] / "config.json").read_text()) | {"quantization_config": None}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    write_tensors(tmp_path / "model.safetensors", folder[1])
    with pytest.raises(UserError, match="_scale_inv"):
        load_pretrained(tmp_path)
