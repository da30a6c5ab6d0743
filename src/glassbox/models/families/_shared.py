"""What families built like Llama share: words of a config and names of weights.

Each function does one part, so that a family which differs in one part says that part alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glassbox.core.errors import UserError
from glassbox.layers.attention import GroupedQuery
from glassbox.layers.feedforward import GeGlu, SwiGlu
from glassbox.layers.norms import LayerNorm, RmsNorm
from glassbox.layers.rotary import LongRope, Rotary
from glassbox.models.config import BlockSpec, Initialization, ModelConfig
from glassbox.models.families._rope import read_rotary, refuse_odd, rotary_keys
from glassbox.models.family import HfConfig, WeightRule, repeats

Gated = SwiGlu | GeGlu
FULL, SLIDING = "full_attention", "sliding_attention"
"""Their types of layer: one that sees all before it, and one that sees a window."""


@dataclass(frozen=True)
class LlamaParts:
    """The specs of the parts of a Llama-like model's first layer, which all its layers share.

    rotary: the rotary positions of the first layer that has them.
    """

    mixer: GroupedQuery
    ffn: Gated
    norm: RmsNorm
    rotary: Rotary


def llama_parts(config: ModelConfig, *, longrope: bool = False) -> LlamaParts | None:
    """A model's parts, or None where one is of another kind.

    LongRoPE is written by the family that has it alone: transformers would take it from any, other
    programs would not. What differs from layer to layer within a kind is the family's to write;
    what it cannot write is found by `Family.to_hf_config`, which reads the words back.
    """
    layers = config.layers()
    for layer in layers:
        mixer, ffn, norm = layer.mixer, layer.ffn, layer.norm
        if not isinstance(mixer, GroupedQuery) or mixer.resolved_head_dim(config.hidden_size) % 2:
            return None
        if not isinstance(ffn, Gated) or not isinstance(norm, RmsNorm):
            return None
    first = layers[0]
    assert isinstance(first.mixer, GroupedQuery)
    assert isinstance(first.ffn, Gated)
    assert isinstance(first.norm, RmsNorm)
    turned = [m.positions for m in mixers(config) if isinstance(m.positions, Rotary)]
    if not turned or (isinstance(turned[0].scaling, LongRope) and not longrope):
        return None
    return LlamaParts(first.mixer, first.ffn, first.norm, turned[0])


def mixers(config: ModelConfig) -> list[GroupedQuery]:
    """The attention of each layer, of a model that has no other mixer."""
    found = [spec.mixer for spec in config.layers() if isinstance(spec.mixer, GroupedQuery)]
    assert len(found) == config.num_layers
    return found


def model_words(config: ModelConfig) -> dict[str, Any]:
    """The words for what stands around the blocks."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "max_position_embeddings": config.context_length,
        "initializer_range": config.init.std,
        "tie_word_embeddings": config.tie_embeddings,
    }


def attention_keys(config: ModelConfig, mixer: GroupedQuery) -> dict[str, Any]:
    """The words for heads. Rotary positions have their own: `rotary_keys`."""
    return {
        "num_attention_heads": mixer.num_heads,
        "num_key_value_heads": mixer.kv_heads,
        "head_dim": mixer.resolved_head_dim(config.hidden_size),
        "attention_dropout": 0.0,
    }


def llama_keys(config: ModelConfig, parts: LlamaParts) -> dict[str, Any]:
    """The words that every Llama-like family has."""
    return {
        **model_words(config),
        **attention_keys(config, parts.mixer),
        **rotary_keys(parts.rotary),
        **gated_keys(parts.ffn),
        "rms_norm_eps": parts.norm.eps,
    }


def gated_keys(ffn: Gated) -> dict[str, Any]:
    """The gated perceptron; Gemma's activation stands under a key of its own."""
    if isinstance(ffn, SwiGlu):
        return {"intermediate_size": ffn.size, "hidden_act": "silu"}
    name = "gelu_pytorch_tanh" if ffn.tanh else "gelu"
    return {"intermediate_size": ffn.size, "hidden_activation": name}


def window_keys(config: ModelConfig) -> dict[str, Any]:
    """Which layers see all and which a window; there is one width for all."""
    windows = [mixer.window for mixer in mixers(config)]
    return {
        "sliding_window": next((window for window in windows if window is not None), None),
        "layer_types": [FULL if window is None else SLIDING for window in windows],
    }


def read_attention(raw: HfConfig, **more: Any) -> GroupedQuery:
    """Heads and rotary positions as most write them; `more` are further fields of the spec."""
    hidden_size, num_heads = raw.get("hidden_size", int), raw.get("num_attention_heads", int)
    fields = {
        "num_heads": num_heads,
        "num_kv_heads": raw.get("num_key_value_heads", int, num_heads),
        "head_dim": raw.get("head_dim", int, hidden_size // num_heads),
        **({} if "positions" in more else {"positions": read_rotary(raw)}),
        **more,
    }
    if isinstance(fields["positions"], Rotary):
        refuse_odd(raw, fields["positions"], fields["head_dim"])
    return GroupedQuery(**fields)


def read_swiglu(raw: HfConfig, *, bias: bool = False) -> SwiGlu:
    """The gated perceptron. Raises UserError for another activation than SiLU."""
    raw.refuse_unless("hidden_act", ("silu", "swish"))
    return SwiGlu(size=raw.get("intermediate_size", int), bias=bias)


def read_windows(raw: HfConfig, window: int | None, usual: Sequence[bool]) -> list[int | None]:
    """Each layer's window, as `layer_types` says; without it, those have one that `usual` marks.

    Raises UserError for other types of layer, and where their number is not the layers'.
    """
    types = raw.find_list("layer_types", str)
    if types is None:
        types = [SLIDING if has_window else FULL for has_window in usual]
    if len(types) != len(usual):
        raise UserError(
            f"{raw.where}: 'layer_types' has {len(types)} entries for {len(usual)} layers"
        )
    for number, name in enumerate(types):
        if name not in (FULL, SLIDING) or (name == SLIDING and window is None):
            raise UserError(
                f"{raw.where}: 'layer_types[{number}]' = '{name}' is not supported; known: "
                f"'{FULL}', and '{SLIDING}' where 'sliding_window' is given"
            )
    return [window if name == SLIDING else None for name in types]


def read_model(
    raw: HfConfig,
    layers: Sequence[BlockSpec],
    final_norm: RmsNorm | LayerNorm,
    *,
    context_length: int = 2048,
    tie_embeddings: bool = False,
    **more: Any,
) -> ModelConfig:
    """ModelConfig of these layers; the keywords are what missing keys mean to the family."""
    return ModelConfig(
        vocab_size=raw.get("vocab_size", int),
        hidden_size=raw.get("hidden_size", int),
        context_length=raw.get("max_position_embeddings", int, context_length),
        blocks=repeats(layers),
        final_norm=final_norm,
        tie_embeddings=raw.get("tie_word_embeddings", bool, tie_embeddings),
        init=Initialization(std=raw.get("initializer_range", float, 0.02), scale_residual=False),
        **more,
    )


NORMS: dict[str, dict[str, str]] = {
    "pre": {"mixer_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"},
    "post": {
        "mixer_out_norm": "post_attention_layernorm",
        "ffn_out_norm": "post_feedforward_layernorm",
    },
    "sandwich": {
        "mixer_norm": "input_layernorm",
        "mixer_out_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "ffn_out_norm": "post_feedforward_layernorm",
    },
}
"""Residual layout -> our names of a block's norms and theirs."""


def norm_parameters(norm: RmsNorm | LayerNorm | None) -> tuple[str, ...]:
    """The names of a norm's parameters."""
    if norm is None:
        return ()
    return ("weight", "bias") if isinstance(norm, LayerNorm) and norm.bias else ("weight",)


def norm_rules(ours: str, theirs: str, layer: BlockSpec) -> list[WeightRule]:
    """The RMSNorms of one block."""
    return [
        WeightRule(f"{ours}{here}.weight", (f"{theirs}{there}.weight",))
        for here, there in NORMS[layer.residual].items()
    ]


def attention_rules(
    ours: str, theirs: str, mixer: GroupedQuery, hidden_size: int, *, fused: bool = False
) -> list[WeightRule]:
    """Of one attention layer: q, k and v are one matrix here and apart there, unless `fused`."""
    head_dim = mixer.resolved_head_dim(hidden_size)
    keys = mixer.kv_heads * head_dim
    parts = ("qkv",) if fused else ("q", "k", "v")
    sizes = () if fused else (mixer.num_heads * head_dim, keys, keys)
    found = [
        WeightRule(f"{ours}{part}_norm.{kind}", (f"{theirs}{part}_norm.{kind}",))
        for part in "qk"
        for kind in norm_parameters(mixer.qk_norm)
    ]
    if mixer.sinks:
        found.append(WeightRule(f"{ours}sinks", (f"{theirs}sinks",)))
    for kind, has_qkv, has_output in (
        ("weight", True, True),
        ("bias", mixer.qkv_bias, mixer.output_bias),
    ):
        if has_qkv:
            names = tuple(f"{theirs}{part}_proj.{kind}" for part in parts)
            found.append(WeightRule(f"{ours}qkv.{kind}", names, sizes))
        if has_output:
            found.append(WeightRule(f"{ours}output.{kind}", (f"{theirs}o_proj.{kind}",)))
    return found


def gated_rules(ours: str, theirs: str, ffn: Gated, *, fused: bool = False) -> list[WeightRule]:
    """Of one gated perceptron: gate and up are one matrix here and apart there, unless `fused`."""
    parts = ("gate_up",) if fused else ("gate", "up")
    sizes = () if fused else (ffn.size, ffn.size)
    found = []
    for kind in ("weight", "bias") if ffn.bias else ("weight",):
        names = tuple(f"{theirs}{part}_proj.{kind}" for part in parts)
        found += [
            WeightRule(f"{ours}gate_up.{kind}", names, sizes),
            WeightRule(f"{ours}down.{kind}", (f"{theirs}down_proj.{kind}",)),
        ]
    return found


def outer_rules(config: ModelConfig) -> list[WeightRule]:
    """Embedding, final norm and head."""
    found = [
        WeightRule("embedding.weight", ("model.embed_tokens.weight",)),
        WeightRule("final_norm.weight", ("model.norm.weight",)),
    ]
    if not config.tie_embeddings:
        found.append(WeightRule("head.weight", ("lm_head.weight",)))
    return found


def llama_rules(config: ModelConfig, *, fused: bool = False) -> list[WeightRule]:
    """All of a Llama-like model; `fused`: q, k, v and gate, up are one matrix there as well."""
    found = outer_rules(config)
    for index, layer in enumerate(config.layers()):
        ours, theirs = f"blocks.{index}.", f"model.layers.{index}."
        mixer, ffn = layer.mixer, layer.ffn
        assert isinstance(mixer, GroupedQuery)
        assert isinstance(ffn, Gated)
        found += norm_rules(ours, theirs, layer)
        found += attention_rules(
            f"{ours}mixer.", f"{theirs}self_attn.", mixer, config.hidden_size, fused=fused
        )
        found += gated_rules(f"{ours}ffn.", f"{theirs}mlp.", ffn, fused=fused)
    return found
