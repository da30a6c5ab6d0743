"""Quantized models in files: the same bits back, never wide, and one clear line for what is damaged."""

from __future__ import annotations

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from glassbox.compression import compress, draw_windows, plan_for, quantize
from glassbox.compression.swap import coded_layers, plan_of
from glassbox.core.errors import UserError
from glassbox.formats.convert import convert, load_model
from glassbox.formats.gguf.model import load_gguf, save_gguf
from glassbox.formats.huggingface import load_pretrained, save_pretrained
from support.small_models import small_model, some_ids

NAMES = ("int8", "int4", "int4-g32-sym", "nf4", "fp8", "mxfp4", "q4_1")


def same_bits(first, second):
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        assert torch.equal(tensor.view(torch.uint8), second[key].view(torch.uint8)), key


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_quantized_model_comes_back_bit_for_bit(tmp_path, name, tied):
    model = quantize(small_model(tied=tied, bias=True), name)
    with torch.inference_mode():
        expected = model(some_ids())
    save_pretrained(model, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert sum(t.numel() * t.itemsize for t in stored.values()) < 0.45 * 4 * model.num_parameters
    found = load_pretrained(tmp_path)
    assert dict(plan_of(found).layers) == dict(plan_of(model).layers)
    same_bits(dict(found.state_dict()), dict(model.state_dict()))
    with torch.inference_mode():
        assert torch.equal(found(some_ids()), expected)


def test_input_scales_and_what_it_was_made_of_are_kept(tmp_path):
    ids = [row.tolist() for row in some_ids(4, 60)]
    text = draw_windows(ids, count=4, length=20, seed=1, source="story")
    model = small_model()
    compress(model, plan_for(model, "int4-row"), "awq", calibration=text)
    assert plan_of(model).scaled_inputs
    save_pretrained(model, tmp_path)
    found = load_pretrained(tmp_path)
    with torch.inference_mode():
        assert torch.equal(found(some_ids()), model(some_ids()))
    made = json.loads((tmp_path / "config.json").read_text())["quantization_config"]["made"]
    assert made["method"] == "awq"
    assert made["calibration"]["sha256"] == text.sha256
    assert plan_of(found).made == made


@pytest.mark.parametrize("name", ["int4", "q8_0", "nf4"])
def test_rounding_as_a_file_is_read_is_rounding_the_model(tmp_path, name):
    save_pretrained(small_model(bias=True), tmp_path)
    model = quantize(small_model(bias=True), name)
    same_bits(dict(load_pretrained(tmp_path, quantize=name).state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize("name", ["q8_0", "q4_0", "q4_1"])
def test_gguf_codes_are_kept_as_the_file_has_them(tmp_path, name):
    path = tmp_path / "model.gguf"
    save_gguf(path, small_model(), dtype=name)
    wide, _ = load_gguf(path)
    narrow, _ = load_gguf(path, quantize="file")
    coded = dict(coded_layers(narrow))
    assert str(coded["blocks.0.mixer.qkv"].format) == name
    assert str(coded["embedding"].format) == "q8_0"
    plain = dict(wide.named_modules())
    for layer_path, layer in coded.items():
        assert torch.equal(layer.dense(), plain[layer_path].weight), layer_path
    # and a folder of ours holds them too
    save_pretrained(narrow, tmp_path / "folder")
    same_bits(dict(load_pretrained(tmp_path / "folder").state_dict()), dict(narrow.state_dict()))
    save_gguf(tmp_path / "plain.gguf", small_model())
    with pytest.raises(UserError, match="no matrix in codes that layers run from"):
        load_gguf(tmp_path / "plain.gguf", quantize="file")


def test_convert_widens_where_the_target_asks_for_it(tmp_path):
    save_pretrained(quantize(small_model(), "int8"), tmp_path / "small")
    convert(tmp_path / "small", tmp_path / "wide", dtype="f32")
    wide, small = load_model(tmp_path / "wide").model, load_model(tmp_path / "small").model
    assert not list(coded_layers(wide))
    assert torch.equal(wide.output_weight, small.output_weight)
    convert(tmp_path / "small", tmp_path / "wide.gguf")
    assert torch.equal(load_model(tmp_path / "wide.gguf").model.output_weight, wide.output_weight)
    with pytest.raises(UserError, match="is quantized already"):
        load_model(tmp_path / "small", quantize="int4")


def _change(folder, **words):
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"].update(words)
    (folder / "config.json").write_text(json.dumps(config))


def _tensors(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


QKV = "blocks.0.mixer.qkv"
DAMAGES = {
    "codes that are none": (
        lambda f: _change(f, codes=[{"kind": "int3"}]),
        r"config\.json', 'quantization_config': 'codes\.0\.kind' = 'int3' is unknown",
    ),
    "a layer of no codes": (
        lambda f: _change(f, layers={QKV: 7}),
        r"layer 'blocks\.0\.mixer\.qkv' is said to be in codes",
    ),
    "a layer that is none": (
        lambda f: _change(f, layers={"blocks.9.mixer.qkv": 0}),
        r"'blocks\.9\.mixer\.qkv' is no layer",
    ),
    "scales of no layer": (lambda f: _change(f, scaled_inputs=["x"]), r"'scaled_inputs' names 'x'"),
    "an unknown key": (lambda f: _change(f, bits=4), r"unknown key 'bits'"),
    "codes without scales": (
        lambda f: _tensors(f, lambda t: t.pop(f"{QKV}.scales")),
        r"lacks tensor 'blocks\.0\.mixer\.qkv\.scales'",
    ),
    "codes of another shape": (
        lambda f: _tensors(
            f, lambda t: t.update({f"{QKV}.codes": t[f"{QKV}.codes"][:, :8].clone()})
        ),
        r"tensor 'blocks\.0\.mixer\.qkv\.codes' has the wrong shape",
    ),
    "scales of another dtype": (
        lambda f: _tensors(f, lambda t: t.update({f"{QKV}.scales": t[f"{QKV}.scales"].float()})),
        r"tensor 'blocks\.0\.mixer\.qkv\.scales' has the wrong dtype: expected BF16, found F32",
    ),
    "a file that is cut off": (
        lambda f: (f / "model.safetensors").write_bytes(
            (f / "model.safetensors").read_bytes()[:-100]
        ),
        r"no whole safetensors file",
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_file_is_one_clear_line(tmp_path, what):
    save_pretrained(quantize(small_model(), "int4"), tmp_path)
    damage, message = DAMAGES[what]
    damage(tmp_path)
    with pytest.raises(UserError) as error:
        load_pretrained(tmp_path)
    assert re.search(message, str(error.value)), error.value
    assert "\n" not in str(error.value)
