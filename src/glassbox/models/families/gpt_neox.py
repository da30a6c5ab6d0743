"""GPT-NeoX and Pythia: attention and feed-forward side by side, rotary positions on a part of each head.

Source: Black et al., arXiv:2204.06745; Pythia, Biderman et al., arXiv:2304.01373, table 1, sizes as
in the models' config.json on the Hub. Tested against: transformers GPTNeoXForCausalLM, logits and
gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import Gelu
from glassbox.layers.norms import LayerNorm
from glassbox.models.config import BlockSpec, ModelConfig
from glassbox.models.families._interleaved import InterleavedHeads
from glassbox.models.families._rope import read_rotary, refuse_odd, rotary_keys
from glassbox.models.families._shared import model_words, read_model
from glassbox.models.family import Family, HfConfig, WeightRule, uniform_block

ACTIVATIONS = {"gelu": False, "gelu_fast": True, "gelu_new": True, "gelu_pytorch_tanh": True}
"""Their names of GELU, and whether each is the tanh approximation."""


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """GPTNeoXConfig's keys."""
    block = uniform_block(config)
    if block is None or not isinstance(block.mixer, GroupedQuery):
        return None
    mixer, ffn, norm = block.mixer, block.ffn, block.norm
    if not isinstance(ffn, Gelu) or not isinstance(norm, LayerNorm):
        return None
    if config.hidden_size % mixer.num_heads or not isinstance(mixer.positions, Rotary):
        return None
    if int(mixer.resolved_head_dim(config.hidden_size) * mixer.positions.fraction) % 2:
        return None
    return {
        **model_words(config),
        **rotary_keys(mixer.positions, partial=True),
        "rotary_pct": mixer.positions.fraction,  # the names in transformers 4
        "rotary_emb_base": mixer.positions.base,
        "num_attention_heads": mixer.num_heads,
        "intermediate_size": ffn.size,
        "hidden_act": "gelu_fast" if ffn.tanh else "gelu",
        "hidden_dropout": config.dropout,
        "attention_dropout": 0.0,
        "layer_norm_eps": norm.eps,
        "attention_bias": mixer.qkv_bias,
        "use_parallel_residual": block.residual == "parallel",
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from GPTNeoXConfig's keys, of transformers 4 and 5.

    Raises UserError for other activations, and where rotary positions turn half a pair of channels.
    """
    raw.refuse_unless("hidden_act", tuple(ACTIVATIONS))
    hidden_size, num_heads = raw.get("hidden_size", int), raw.get("num_attention_heads", int)
    rotary = read_rotary(
        raw,
        base=raw.get("rotary_emb_base", float, 10000.0),
        partial=raw.get("rotary_pct", float, 0.25),
    )
    refuse_odd(raw, rotary, hidden_size // num_heads)
    norm = LayerNorm(eps=raw.get("layer_norm_eps", float, 1e-5))
    bias = raw.get("attention_bias", bool, True)
    block = BlockSpec(
        mixer=GroupedQuery(num_heads=num_heads, positions=rotary, qkv_bias=bias, output_bias=bias),
        ffn=Gelu(
            size=raw.get("intermediate_size", int),
            tanh=ACTIVATIONS[raw.get("hidden_act", str, "gelu")],
        ),
        norm=norm,
        residual="parallel" if raw.get("use_parallel_residual", bool, True) else "pre",
    )
    layers = [block] * raw.get("num_hidden_layers", int)
    return read_model(raw, layers, norm, dropout=raw.get("hidden_dropout", float, 0.0))


def rules(config: ModelConfig) -> list[WeightRule]:
    """Their files call the head `embed_out`."""
    found = [
        WeightRule("embedding.weight", ("gpt_neox.embed_in.weight",)),
        WeightRule("final_norm.weight", ("gpt_neox.final_layer_norm.weight",)),
        WeightRule("final_norm.bias", ("gpt_neox.final_layer_norm.bias",)),
    ]
    if not config.tie_embeddings:
        found.append(WeightRule("head.weight", ("embed_out.weight",)))
    names = {
        "mixer_norm": "input_layernorm",
        "mixer.output": "attention.dense",
        "ffn_norm": "post_attention_layernorm",
        "ffn.up": "mlp.dense_h_to_4h",
        "ffn.down": "mlp.dense_4h_to_h",
    }
    for index, layer in enumerate(config.layers()):
        mixer = layer.mixer
        assert isinstance(mixer, GroupedQuery)
        ours, theirs = f"blocks.{index}.", f"gpt_neox.layers.{index}."
        for kind in ("weight", "bias"):
            for here, there in names.items():
                if kind == "weight" or here != "mixer.output" or mixer.output_bias:
                    found.append(WeightRule(f"{ours}{here}.{kind}", (f"{theirs}{there}.{kind}",)))
            if kind == "weight" or mixer.qkv_bias:
                name = f"{theirs}attention.query_key_value.{kind}"
                found.append(
                    InterleavedHeads(f"{ours}mixer.qkv.{kind}", (name,), num_heads=mixer.num_heads)
                )
    return found


def _pythia(
    hidden_size: int, num_layers: int, num_heads: int, vocab_size: int = 50304, **words: Any
) -> ModelConfig:
    published = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "intermediate_size": 4 * hidden_size,
        "max_position_embeddings": 2048,
        "rotary_pct": 0.25,
    }
    return read(HfConfig(published | words))


GPT_NEOX = Family(
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    prefix="gpt_neox.",
    ignored=r".*\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",
    presets={
        "gpt-neox-tiny": _pythia(64, 2, 4, 512, max_position_embeddings=256),
        "pythia-14m": _pythia(128, 6, 4),
        "pythia-70m": _pythia(512, 6, 8),
        "pythia-160m": _pythia(768, 12, 12),
        "pythia-410m": _pythia(1024, 24, 16),
        "pythia-1b": _pythia(2048, 16, 8),
        "pythia-1.4b": _pythia(2048, 24, 16),
        "pythia-2.8b": _pythia(2560, 32, 32),
        "pythia-6.9b": _pythia(4096, 32, 32, 50432),
        "pythia-12b": _pythia(5120, 36, 40, 50688),
        "gpt-neox-20b": _pythia(6144, 44, 64, 50432, hidden_act="gelu_fast"),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=rules,
)
