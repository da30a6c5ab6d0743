"""Qwen2 and Qwen2.5: Llama with biases on q, k and v, and a window in the upper layers if any.

Source: Yang et al., arXiv:2407.10671 and arXiv:2412.15115; sizes as in the models' config.json on
the Hub. Tested against: transformers Qwen2ForCausalLM, logits and gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.layers.norms import RmsNorm
from glassbox.models.config import BlockSpec, ModelConfig
from glassbox.models.families._shared import (
    SLIDING,
    llama_keys,
    llama_parts,
    llama_rules,
    read_attention,
    read_model,
    read_swiglu,
    read_windows,
    window_keys,
)
from glassbox.models.family import Family, HfConfig


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """Qwen2Config's keys."""
    parts = llama_parts(config)
    if parts is None:
        return None
    return {**llama_keys(config, parts), **qwen_window_keys(config)}


def qwen_window_keys(config: ModelConfig) -> dict[str, Any]:
    """Windows as Qwen2 and Qwen3 write them; transformers 4 takes the first layer with one."""
    words = window_keys(config)
    types = words["layer_types"]
    return {
        **words,
        "use_sliding_window": SLIDING in types,
        "max_window_layers": types.index(SLIDING) if SLIDING in types else len(types),
    }


def read_qwen_windows(raw: HfConfig) -> list[int | None]:
    """Each layer's window: none unless `use_sliding_window`, and then from `max_window_layers` on."""
    used = raw.get("use_sliding_window", bool, False)
    window = raw.find("sliding_window", int, 4096) if used else None
    first = raw.get("max_window_layers", int, 28)
    num_layers = raw.get("num_hidden_layers", int)
    usual = [window is not None and number >= first for number in range(num_layers)]
    return read_windows(raw, window, usual)


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from Qwen2Config's keys."""
    norm = RmsNorm(eps=raw.get("rms_norm_eps", float, 1e-6))
    ffn = read_swiglu(raw)
    layers = [
        BlockSpec(mixer=read_attention(raw, qkv_bias=True, window=window), ffn=ffn, norm=norm)
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
        "max_position_embeddings": 32768,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
    }
    return read(HfConfig(common | words))


QWEN2 = Family(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    prefix="model.",
    ignored=r".*rotary_emb\.inv_freq",
    presets={
        "qwen2-tiny": _published(64, 2, 4, 2, 192, vocab_size=512, max_position_embeddings=256),
        "qwen2.5-0.5b": _published(896, 24, 14, 2, 4864),
        "qwen2.5-1.5b": _published(1536, 28, 12, 2, 8960, max_position_embeddings=131072),
        "qwen2.5-3b": _published(2048, 36, 16, 2, 11008),
        "qwen2.5-7b": _published(
            3584,
            28,
            28,
            4,
            18944,
            vocab_size=152064,
            max_position_embeddings=131072,
            tie_word_embeddings=False,
        ),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=llama_rules,
)
