"""Qwen3: Llama with an RMSNorm on each head's query and key, and no biases.

Source: Yang et al., arXiv:2505.09388; sizes as in the models' config.json on the Hub. Tested
against: transformers Qwen3ForCausalLM, logits and gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.layers.norms import RmsNorm
from glassbox.models.config import BlockSpec, ModelConfig
from glassbox.models.families._shared import (
    llama_keys,
    llama_parts,
    llama_rules,
    read_attention,
    read_model,
    read_swiglu,
)
from glassbox.models.families.qwen2 import qwen_window_keys, read_qwen_windows
from glassbox.models.family import Family, HfConfig


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """Qwen3Config's keys."""
    parts = llama_parts(config)
    if parts is None:
        return None
    return {
        **llama_keys(config, parts),
        **qwen_window_keys(config),
        "attention_bias": parts.mixer.qkv_bias,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from Qwen3Config's keys; heads have 128 channels unless it says otherwise."""
    norm = RmsNorm(eps=raw.get("rms_norm_eps", float, 1e-6))
    bias = raw.get("attention_bias", bool, False)
    attention = {
        "head_dim": raw.get("head_dim", int, 128),
        "qk_norm": norm,
        "qkv_bias": bias,
        "output_bias": bias,
    }
    ffn = read_swiglu(raw)
    layers = [
        BlockSpec(mixer=read_attention(raw, window=window, **attention), ffn=ffn, norm=norm)
        for window in read_qwen_windows(raw)
    ]
    return read_model(raw, layers, norm, context_length=32768)


def _published(
    hidden_size: int, num_layers: int, num_heads: int, num_kv_heads: int, size: int, **words: Any
) -> ModelConfig:
    common = {
        "vocab_size": 151936,
        "hidden_size": hidden_size,
        "intermediate_size": size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "rope_theta": 1e6,
        "tie_word_embeddings": hidden_size < 4096,
    }
    return read(HfConfig(common | words))


QWEN3 = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    prefix="model.",
    ignored=r".*rotary_emb\.inv_freq",
    presets={
        "qwen3-tiny": _published(
            64, 2, 4, 2, 192, vocab_size=512, head_dim=32, max_position_embeddings=256
        ),
        "qwen3-0.6b": _published(1024, 28, 16, 8, 3072),
        "qwen3-1.7b": _published(2048, 28, 16, 8, 6144),
        "qwen3-4b": _published(2560, 36, 32, 8, 9728),
        "qwen3-8b": _published(4096, 36, 32, 8, 12288),
        "qwen3-14b": _published(5120, 40, 40, 8, 17408),
        "qwen3-32b": _published(5120, 64, 64, 8, 25600),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=llama_rules,
)
