"""BLOOM: a LayerNorm on the embedding, biases everywhere, and ALiBi in place of positions.

Source: BigScience, arXiv:2211.05100, table 3, and the models' config.json on the Hub. Tested
against: transformers BloomForCausalLM, logits and gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.layers.attention import GroupedQuery
from glassbox.layers.feedforward import Gelu
from glassbox.layers.norms import LayerNorm
from glassbox.layers.rotary import Alibi
from glassbox.models.config import BlockSpec, Initialization, ModelConfig, Repeat
from glassbox.models.families._interleaved import InterleavedHeads
from glassbox.models.family import Family, HfConfig, WeightRule, uniform_block


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """BloomConfig's keys; transformers does not read `seq_length`, the published files hold it."""
    block = uniform_block(config)
    if block is None or not isinstance(block.mixer, GroupedQuery):
        return None
    if not isinstance(block.ffn, Gelu) or not isinstance(block.norm, LayerNorm):
        return None
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "n_layer": config.num_layers,
        "n_head": block.mixer.num_heads,
        "seq_length": config.context_length,
        "layer_norm_epsilon": block.norm.eps,
        "initializer_range": config.init.std,
        "hidden_dropout": config.dropout,
        "attention_dropout": 0.0,
        "apply_residual_connection_post_layernorm": False,
        "tie_word_embeddings": config.tie_embeddings,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from BloomConfig's keys; the feed-forward is four times as wide as the model.

    Raises UserError for residual connections after the norm.
    """
    raw.refuse_unless("apply_residual_connection_post_layernorm", (False,))
    hidden_size = raw.get("hidden_size", int, raw.find("n_embed", int))
    norm = LayerNorm(eps=raw.get("layer_norm_epsilon", float, 1e-5))
    num_layers = raw.get("n_layer", int, raw.find("num_hidden_layers", int))
    num_heads = raw.get("n_head", int, raw.find("num_attention_heads", int))
    block = BlockSpec(
        mixer=GroupedQuery(num_heads=num_heads, positions=Alibi(), qkv_bias=True, output_bias=True),
        ffn=Gelu(size=4 * hidden_size),
        norm=norm,
    )
    return ModelConfig(
        vocab_size=raw.get("vocab_size", int),
        hidden_size=hidden_size,
        context_length=raw.get("seq_length", int, 2048),
        blocks=(Repeat(block=block, times=num_layers),),
        final_norm=norm,
        embedding_norm=norm,
        tie_embeddings=raw.get("tie_word_embeddings", bool, True),
        dropout=raw.get("hidden_dropout", float, 0.0),
        init=Initialization(std=raw.get("initializer_range", float, 0.02), scale_residual=False),
    )


def rules(config: ModelConfig) -> list[WeightRule]:
    """Everything has a bias but the embedding and the head."""
    outer = {
        "embedding_norm": "word_embeddings_layernorm",
        "final_norm": "ln_f",
    }
    inner = {
        "mixer_norm": "input_layernorm",
        "mixer.qkv": "self_attention.query_key_value",
        "mixer.output": "self_attention.dense",
        "ffn_norm": "post_attention_layernorm",
        "ffn.up": "mlp.dense_h_to_4h",
        "ffn.down": "mlp.dense_4h_to_h",
    }
    names = dict(outer)
    for index in range(config.num_layers):
        names |= {f"blocks.{index}.{ours}": f"h.{index}.{theirs}" for ours, theirs in inner.items()}
    heads = config.layers()[0].mixer
    assert isinstance(heads, GroupedQuery)
    found = [WeightRule("embedding.weight", ("transformer.word_embeddings.weight",))]
    for ours, theirs in names.items():
        for kind in ("weight", "bias"):
            here, there = f"{ours}.{kind}", (f"transformer.{theirs}.{kind}",)
            found.append(
                InterleavedHeads(here, there, num_heads=heads.num_heads)
                if ours.endswith("qkv")
                else WeightRule(here, there)
            )
    if not config.tie_embeddings:
        found.append(WeightRule("head.weight", ("lm_head.weight",)))
    return found


def _published(
    hidden_size: int, num_layers: int, num_heads: int, vocab_size: int = 250880, length: int = 2048
) -> ModelConfig:
    words = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "n_layer": num_layers,
        "n_head": num_heads,
        "seq_length": length,
    }
    return read(HfConfig(words))


BLOOM = Family(
    model_type="bloom",
    architecture="BloomForCausalLM",
    prefix="transformer.",
    ignored=r"",
    presets={
        "bloom-tiny": _published(64, 2, 4, 512, 256),
        "bloom-560m": _published(1024, 24, 16),
        "bloom-1b1": _published(1536, 24, 16),
        "bloom-1b7": _published(2048, 24, 16),
        "bloom-3b": _published(2560, 30, 32),
        "bloom-7b1": _published(4096, 30, 32),
        "bloom": _published(14336, 70, 112),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=rules,
)
