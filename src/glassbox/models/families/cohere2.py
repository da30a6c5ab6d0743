"""Cohere's Command R7B and Command A: attention and feed-forward side by side behind one norm, a window
and rotary positions in three layers of four, all of the text and no positions in the fourth.

Source: Cohere, arXiv:2504.00698; sizes as in the models' config.json on the Hub. Tested against:
transformers Cohere2ForCausalLM, logits and gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.layers.attention import GroupedQuery
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.norms import LayerNorm
from glassbox.layers.rotary import Rotary
from glassbox.models.config import BlockSpec, ModelConfig
from glassbox.models.families._rope import read_rotary, rotary_keys
from glassbox.models.families._shared import (
    attention_keys,
    attention_rules,
    gated_keys,
    gated_rules,
    mixers,
    model_words,
    outer_rules,
    read_attention,
    read_model,
    read_swiglu,
    read_windows,
    window_keys,
)
from glassbox.models.family import Family, HfConfig, WeightRule


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """Cohere2Config's keys; it has no word for the width of a head."""
    layers = config.layers()
    first = layers[0]
    if not isinstance(first.ffn, SwiGlu) or not isinstance(first.norm, LayerNorm):
        return None
    if not all(isinstance(layer.mixer, GroupedQuery) for layer in layers):
        return None
    attention = mixers(config)
    head_dim = attention[0].resolved_head_dim(config.hidden_size)
    if head_dim * attention[0].num_heads != config.hidden_size or head_dim % 2:
        return None
    turned = [mixer.positions for mixer in attention if isinstance(mixer.positions, Rotary)]
    rotary = turned[0] if turned else Rotary(layout="interleaved")
    words = {
        **model_words(config),
        **attention_keys(config, attention[0]),
        **rotary_keys(rotary),
        **gated_keys(first.ffn),
        **window_keys(config),
        "layer_norm_eps": first.norm.eps,
        "attention_bias": attention[0].qkv_bias,
        "logit_scale": config.logit_scale,
    }
    del words["head_dim"]
    return words


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from Cohere2Config's keys; without `layer_types` every fourth layer sees all.

    Raises UserError for heads of another width than hidden_size / num_attention_heads.
    """
    num_layers = raw.get("num_hidden_layers", int)
    hidden_size, num_heads = raw.get("hidden_size", int), raw.get("num_attention_heads", int)
    raw.refuse_unless("head_dim", (hidden_size // num_heads,))
    raw.refuse_unless("use_qk_norm", (False,))
    raw.refuse_unless("use_parallel_block", (True,))
    every = raw.get("sliding_window_pattern", int, 4)
    usual = [(number + 1) % every != 0 for number in range(num_layers)]
    rotary = read_rotary(raw).model_copy(update={"layout": "interleaved"})
    bias = raw.get("attention_bias", bool, False)
    norm = LayerNorm(eps=raw.get("layer_norm_eps", float, 1e-5), bias=False)
    ffn = read_swiglu(raw)
    layers = [
        BlockSpec(
            mixer=read_attention(
                raw,
                positions=None if width is None else rotary,
                window=width,
                qkv_bias=bias,
                output_bias=bias,
            ),
            ffn=ffn,
            norm=norm,
            residual="parallel",
            shared_norm=True,
        )
        for width in read_windows(raw, raw.find("sliding_window", int, 4096), usual)
    ]
    return read_model(
        raw,
        layers,
        norm,
        context_length=8192,
        tie_embeddings=True,
        logit_scale=raw.get("logit_scale", float, 0.0625),
    )


def rules(config: ModelConfig) -> list[WeightRule]:
    """As Llama's, with one norm a layer."""
    found = outer_rules(config)
    for index, layer in enumerate(config.layers()):
        ours, theirs = f"blocks.{index}.", f"model.layers.{index}."
        mixer, ffn = layer.mixer, layer.ffn
        assert isinstance(mixer, GroupedQuery)
        assert isinstance(ffn, SwiGlu)
        found.append(WeightRule(f"{ours}mixer_norm.weight", (f"{theirs}input_layernorm.weight",)))
        found += attention_rules(f"{ours}mixer.", f"{theirs}self_attn.", mixer, config.hidden_size)
        found += gated_rules(f"{ours}ffn.", f"{theirs}mlp.", ffn)
    return found


def _published(
    hidden_size: int, num_layers: int, num_heads: int, num_kv_heads: int, size: int, **words: Any
) -> ModelConfig:
    common = {
        "vocab_size": 256000,
        "hidden_size": hidden_size,
        "intermediate_size": size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "max_position_embeddings": 132096,
        "sliding_window": 4096,
        "rope_theta": 50000.0,
        "logit_scale": 0.25,
    }
    return read(HfConfig(common | words))


COHERE2 = Family(
    model_type="cohere2",
    architecture="Cohere2ForCausalLM",
    prefix="model.",
    ignored=r".*rotary_emb\.inv_freq",
    presets={
        "cohere2-tiny": _published(
            64, 4, 4, 2, 192, vocab_size=512, max_position_embeddings=256, sliding_window=32
        ),
        "command-r7b": _published(4096, 32, 32, 8, 14336),
        "command-a": _published(12288, 64, 96, 8, 33792, max_position_embeddings=131072),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=rules,
)
