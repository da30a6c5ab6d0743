"""GGUF against the gguf package, and against transformers' own reader of GGUF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from transformers import AutoModelForCausalLM

from glassbox.formats.gguf import GGUFFile, load_gguf, save_gguf
from glassbox.formats.gguf.architectures import ARCHITECTURES, KEYS
from glassbox.formats.gguf.blocks import FORMATS, quantize_q8_0
from glassbox.formats.huggingface import export_state
from glassbox.models.causal_lm import CausalLM
from glassbox.models.families import from_hf_config, to_hf_weights
from glassbox.tokenizers import train_bpe

WORDS: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
# Widths of heads are those that transformers takes for granted where it reads GGUF.
CASES: dict[str, dict[str, Any]] = {
    "llama": WORDS | {"model_type": "llama"},
    "qwen2": WORDS | {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": WORDS | {"model_type": "qwen3", "num_attention_heads": 2, "head_dim": 128},
    "gemma2": WORDS
    | {
        "model_type": "gemma2",
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
}


def make(words: dict[str, Any]) -> CausalLM:
    torch.manual_seed(0)
    model = CausalLM(from_hf_config(words)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


# ---- formats: to the last bit, as both do the same float32 operations ------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_decoding_equals_the_package(name: str) -> None:
    ours, theirs = FORMATS[name], GGMLQuantizationType[name]
    assert (ours.code, *gguf.GGML_QUANT_SIZES[theirs]) == (
        theirs.value,
        ours.block_size,
        ours.block_bytes,
    )
    generator = np.random.default_rng(0)
    raw = generator.integers(0, 256, (257, ours.block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):  # random scales are sometimes infinite
        expected = gguf.quants.dequantize(raw, theirs).reshape(257, -1)
    np.testing.assert_array_equal(ours.decode(torch.from_numpy(raw)).numpy(), expected)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_q8_0_equals_the_package(scale: float) -> None:
    generator = np.random.default_rng(0)
    weights = (generator.standard_normal((65, 96)) * scale).astype(np.float32)
    weights[3] = 0.0
    weights[4] = np.linspace(-63.5, 63.5, 96)  # halves, which round away from zero
    expected = gguf.quants.quantize(weights, GGMLQuantizationType.Q8_0).reshape(-1, 34)
    np.testing.assert_array_equal(quantize_q8_0(torch.from_numpy(weights)).numpy(), expected)


# ---- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tensor_names_equal_the_package(name: str) -> None:
    """Each tensor of a model is called what the package would call it."""
    arch = ARCHITECTURES[name]
    theirs = gguf.get_tensor_name_map(gguf.MODEL_ARCH[name.upper()], 2)
    model = make(CASES[name])
    for hf_name in to_hf_weights(model.config, export_state(model)):
        stem, _, kind = hf_name.rpartition(".")
        assert arch.gguf_name(hf_name) == f"{theirs.get_name(stem)}.{kind}"


def test_keys_equal_the_package() -> None:
    words = gguf.Keys
    known = {
        value.replace("{arch}.", "")
        for group in (words.LLM, words.Attention, words.Rope)
        for value in vars(group).values()
        if isinstance(value, str)
    }
    used = {*KEYS, *(key for arch in ARCHITECTURES.values() for key in arch.keys)}
    used |= {"vocab_size", "attention.value_length", "rope.dimension_count"}
    used |= {"rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length"}
    assert used <= known


# ---- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0"])
def test_our_file_opens_there(dtype: str, tmp_path: Path) -> None:
    """Every key, every tensor's name, shape, type and bytes."""
    tokenizer = train_bpe(["to be or not to be\n"] * 3, 270)
    save_gguf(tmp_path / "m.gguf", make(CASES["llama"]), tokenizer=tokenizer, dtype=dtype)
    reader = GGUFReader(tmp_path / "m.gguf")
    with GGUFFile(tmp_path / "m.gguf") as file:
        fields = {
            key: field.contents()
            for key, field in reader.fields.items()
            if not key.startswith("GGUF.")
        }
        assert fields == file.metadata
        assert sorted(tensor.name for tensor in reader.tensors) == file.names
        for tensor in reader.tensors:
            assert tuple(tensor.shape[::-1].tolist()) == file.shape(tensor.name)
            assert tensor.tensor_type.name == file.tensors[tensor.name].type_name
            expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            np.testing.assert_array_equal(file.get(tensor.name).float().numpy(), expected)
    assert (
        fields["general.file_type"]
        == {
            "f32": gguf.LlamaFileType.ALL_F32,
            "f16": gguf.LlamaFileType.MOSTLY_F16,
            "bf16": gguf.LlamaFileType.MOSTLY_BF16,
            "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
        }[dtype]
    )
    assert reader.fields["tokenizer.ggml.token_type"].types[-1] == gguf.GGUFValueType.INT32


def test_their_file_opens_here(tmp_path: Path) -> None:
    """Keys of every type, and tensors of every format that the package can write."""
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_uint8("a.u8", 200)
    writer.add_int8("a.i8", -5)
    writer.add_uint16("a.u16", 60000)
    writer.add_int16("a.i16", -3)
    writer.add_uint32("a.u32", 2**32 - 1)
    writer.add_int32("a.i32", -7)
    writer.add_uint64("a.u64", 2**63)
    writer.add_int64("a.i64", -(2**62))
    writer.add_float32("a.f32", 0.5)
    writer.add_float64("a.f64", 1e-300)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "é中")
    writer.add_array("a.texts", ["x", "", "yz"])
    writer.add_array("a.numbers", [1, -2, 3])
    generator = np.random.default_rng(0)
    expected = {}
    for name in ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"):
        kind = GGMLQuantizationType[name]
        weights = generator.standard_normal((7, 64)).astype(np.float32)
        raw = gguf.quants.quantize(weights, kind)
        expected[name] = gguf.quants.dequantize(raw, kind).reshape(7, 64)
        writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GGUFFile(tmp_path / "m.gguf") as file:
        assert file.metadata == {
            "general.architecture": "llama",
            "a.u8": 200,
            "a.i8": -5,
            "a.u16": 60000,
            "a.i16": -3,
            "a.u32": 2**32 - 1,
            "a.i32": -7,
            "a.u64": 2**63,
            "a.i64": -(2**62),
            "a.f32": 0.5,
            "a.f64": 1e-300,
            "a.bool": True,
            "a.text": "é中",
            "a.texts": ["x", "", "yz"],
            "a.numbers": [1, -2, 3],
        }
        for name, weights in expected.items():
            np.testing.assert_array_equal(file.get(name).float().numpy(), weights)


@pytest.mark.parametrize("name", CASES)
def test_transformers_reads_our_file(name: str, tmp_path: Path) -> None:
    """Its own names, order of q's and k's rows, and norm factors: the same logits.

    Tolerance as for families in float32; Gemma's 1 + w has rounded besides.
    """
    model = make(CASES[name])
    tokenizer = train_bpe(["to be or not to be\n"] * 3, 270)
    save_gguf(tmp_path / "m.gguf", model, tokenizer=tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32
    ).eval()
    ids = torch.randint(0, 300, (2, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(ids).logits
        torch.testing.assert_close(model(ids), expected, rtol=1e-5, atol=1e-5)
        again, _ = load_gguf(tmp_path / "m.gguf")
        torch.testing.assert_close(again(ids), expected, rtol=1e-5, atol=1e-5)
