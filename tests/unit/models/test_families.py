"""Families: what their readers refuse, and words of older files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from glassbox.core.errors import UserError
from glassbox.formats.huggingface import load_pretrained, save_pretrained
from glassbox.models.causal_lm import CausalLM
from glassbox.models.families import from_hf_config, presets
from glassbox.models.family import canonical

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
BLOOM = {"n_layer": 2, "n_head": 4}


def read(model_type: str, **words: Any):
    return from_hf_config({**SIZES, "model_type": model_type, **words})


@pytest.mark.parametrize(
    ("model_type", "words", "message"),
    [
        ("llama", {"rope_parameters": {"rope_type": "axial"}}, "'rope_type' = 'axial'"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "'rope_scaling' lacks 'factor'"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 0.5}}, r"factor = 0\.5"),
        ("llama", {"rope_scaling": [2.0]}, r"'rope_scaling' = \[2\.0\] is no mapping"),
        ("llama", {"partial_rotary_factor": 0.5}, r"'partial_rotary_factor' = 0\.5"),
        ("mistral", {"head_dim": 7}, "'head_dim' = 7"),
        ("mistral", {"sliding_window": 0}, "window = 0"),
        ("gemma2", {"layer_types": ["full_attention"]}, "has 1 entries for 2 layers"),
        ("gemma2", {"layer_types": ["full_attention", "chunked"]}, r"'layer_types\[1\]' = 'chunked'"),
        ("gemma2", {"layer_types": "full"}, "'layer_types' = 'full' is no list"),
        ("gemma2", {"layer_types": ["full_attention", 3]}, r"'layer_types\[1\]' = 3 is no str"),
        ("gemma2", {"sliding_window": None}, "where 'sliding_window' is given"),
        ("gemma2", {"hidden_activation": "relu"}, "'hidden_activation' = 'relu'"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "has a 0"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "known: null"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "'use_bidirectional_attention' = True"),
        ("smollm3", {"no_rope_layers": [1]}, "'no_rope_layers' has 1 entries for 2 layers"),
        ("phi3", {"rope_scaling": {"type": "su"}}, "short_factor"),
        ("phi3", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "'type' = 'yarn'"),
        ("phi3", {"hidden_size": 24, "partial_rotary_factor": 0.5}, r"a share of 0\.5 makes 3"),
        ("gpt_neox", {"hidden_size": 24, "rotary_pct": 0.5}, r"a share of 0\.5 makes 3"),
        ("gpt_neox", {"hidden_act": "relu"}, "'hidden_act' = 'relu'"),
        ("bloom", {**BLOOM, "apply_residual_connection_post_layernorm": True}, "post_layernorm"),
        ("bloom", {"n_head": 4, "num_hidden_layers": None}, "lacks 'n_layer'"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_named(model_type, words, message):
    with pytest.raises(UserError, match=message):
        read(model_type, **words)


@pytest.mark.parametrize(
    ("model_type", "older", "newer"),
    [
        (
            "llama",
            {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}},
        ),
        (
            "gpt_neox",
            {"rotary_pct": 1.0, "rotary_emb_base": 500},
            {
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 500,
                    "partial_rotary_factor": 1.0,
                }
            },
        ),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
            {
                "use_sliding_window": True,
                "sliding_window": 4,
                "layer_types": ["full_attention", "sliding_attention"],
            },
        ),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 4, "max_window_layers": 1}, {}),
        (
            "gemma2",
            {"sliding_window": 4},
            {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
        ),
        (
            "gemma3_text",
            {
                "rope_theta": 500.0,
                "rope_local_base_freq": 50.0,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                "sliding_window_pattern": 2,
            },
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
                },
                "layer_types": ["sliding_attention", "full_attention"],
            },
        ),
        (
            "phi3",
            {
                "rope_scaling": {
                    "type": "su",
                    "short_factor": [1, 1, 1, 1],
                    "long_factor": [1, 2, 3, 4],
                }
            },
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "short_factor": [1.0] * 4,
                    "long_factor": [1.0, 2.0, 3.0, 4.0],
                }
            },
        ),
        ("smollm3", {"no_rope_layer_interval": 2}, {"no_rope_layers": [1, 0]}),
    ],
)
def test_words_of_older_files_say_the_same_as_the_newer_ones(model_type, older, newer):
    assert read(model_type, **older) == read(model_type, **newer)
    assert read(model_type, **older) != read(model_type) or not newer


def test_bloom_under_both_names_of_its_sizes():
    hub = {"vocab_size": 61, "n_embed": 24, "n_layer": 2, "num_attention_heads": 4}
    ours = {"vocab_size": 61, "hidden_size": 24, "n_layer": 2, "n_head": 4, "seq_length": 2048}
    assert from_hf_config({"model_type": "bloom", **hub}) == from_hf_config(
        {"model_type": "bloom", **ours}
    )


def test_windows_and_positions_stand_in_the_published_layers():
    gemma2 = presets()["gemma-2-2b"].layers()
    assert [layer.mixer.window for layer in gemma2[:4]] == [4096, None, 4096, None]
    gemma3 = presets()["gemma-3-1b"].layers()
    assert [index for index, layer in enumerate(gemma3) if layer.mixer.window is None] == [5, 11, 17, 23]  # fmt: skip
    assert {layer.mixer.positions.base for layer in gemma3 if layer.mixer.window} == {10_000.0}
    assert {layer.mixer.positions.base for layer in gemma3 if not layer.mixer.window} == {1e6}
    smollm3 = presets()["smollm3-3b"].layers()
    assert sum(layer.mixer.positions is None for layer in smollm3) == 9
    assert smollm3[3].mixer.positions is None
    assert canonical(presets()["smollm3-3b"]).num_layers == 36


def test_files_under_another_name_are_the_same_family(tmp_path: Path) -> None:
    """Kimi K2 is DeepSeek-V3 with other sizes under a name of its own; Moonlight bears DeepSeek-V3's."""
    model = CausalLM(presets()["deepseek-v3-tiny"])
    save_pretrained(model, tmp_path)
    file = tmp_path / "config.json"
    raw = json.loads(file.read_text())
    assert raw["model_type"] == "deepseek_v3"
    raw = {key: value for key, value in raw.items() if not key.startswith("glassbox")}
    file.write_text(json.dumps({**raw, "model_type": "kimi_k2"}))
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(load_pretrained(tmp_path).eval()(ids), model.eval()(ids))
