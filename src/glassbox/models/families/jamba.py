"""Jamba: mostly Mamba, now and then attention without positions, every other feed-forward of experts.

Source: Lieber et al., arXiv:2403.19887; Jamba Team, arXiv:2408.12570. Tested against: transformers JambaForCausalLM, logits and gradients; the sizes of
the presets against the number of parameters in their names alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glassbox.layers.attention import GroupedQuery
from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.mamba import Mamba
from glassbox.layers.norms import RmsNorm
from glassbox.models.config import BlockSpec, ModelConfig
from glassbox.models.families._experts import experts_rules
from glassbox.models.families._shared import (
    attention_keys,
    attention_rules,
    gated_rules,
    model_words,
    read_attention,
    read_model,
    read_swiglu,
)
from glassbox.models.families.mamba import mixer_rules
from glassbox.models.family import Family, HfConfig, WeightRule


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """JambaConfig's keys, of a model with at least one layer of each mixer."""
    layers = config.layers()
    if not all(isinstance(layer.mixer, GroupedQuery | Mamba) for layer in layers):
        return None
    if not all(isinstance(layer.ffn, SwiGlu | MixtureOfExperts) for layer in layers):
        return None
    attention = [layer.mixer for layer in layers if isinstance(layer.mixer, GroupedQuery)]
    mamba = [layer.mixer for layer in layers if isinstance(layer.mixer, Mamba)]
    experts = [layer.ffn for layer in layers if isinstance(layer.ffn, MixtureOfExperts)]
    dense = [layer.ffn for layer in layers if isinstance(layer.ffn, SwiGlu)]
    norm = layers[0].norm
    if not attention or not mamba or not isinstance(norm, RmsNorm):
        return None
    attention_places = _period([isinstance(layer.mixer, GroupedQuery) for layer in layers])
    expert_places = _period([isinstance(layer.ffn, MixtureOfExperts) for layer in layers])
    if attention_places is None or expert_places is None:
        return None
    inner_size, step_rank = mamba[0].sizes(config.hidden_size)
    ffn = dense[0] if dense else experts[0].expert
    return {
        **model_words(config),
        **attention_keys(config, attention[0]),
        "attn_layer_period": attention_places[0],
        "attn_layer_offset": attention_places[1],
        "hidden_act": "silu",
        "intermediate_size": ffn.size,
        "num_experts": experts[0].num_experts if experts else 1,
        "num_experts_per_tok": experts[0].top_k if experts else 1,
        "expert_layer_period": expert_places[0],
        "expert_layer_offset": expert_places[1],
        "router_aux_loss_coef": experts[0].balance_loss if experts else 0.0,
        "mamba_d_state": mamba[0].state_size,
        "mamba_d_conv": mamba[0].conv_taps,
        "mamba_expand": inner_size // config.hidden_size,
        "mamba_dt_rank": step_rank,
        "mamba_conv_bias": mamba[0].conv_bias,
        "mamba_proj_bias": mamba[0].bias,
        "rms_norm_eps": norm.eps,
    }


def _period(marked: Sequence[bool]) -> tuple[int, int] | None:
    """The shortest period, and the offset in it, at which marks stand; None where they are irregular.

    >>> _period([False, True, False, False, True]), _period([True, True, False])
    ((3, 1), None)
    """
    if not any(marked):
        return len(marked) + 1, len(marked)
    offset = marked.index(True)
    for period in range(offset + 1, len(marked) + 1):
        if all(mark == (i % period == offset) for i, mark in enumerate(marked)):
            return period, offset
    return None


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from JambaConfig's keys. Raises UserError for other activations."""
    hidden_size, number = raw.get("hidden_size", int), raw.get("num_hidden_layers", int)
    norm = RmsNorm(eps=raw.get("rms_norm_eps", float, 1e-6))
    rank = raw.raw.get("mamba_dt_rank", "auto")
    mamba = Mamba(
        inner_size=raw.get("mamba_expand", int, 2) * hidden_size,
        state_size=raw.get("mamba_d_state", int, 16),
        step_rank=None if rank == "auto" else raw.get("mamba_dt_rank", int),
        conv_taps=raw.get("mamba_d_conv", int, 4),
        conv_bias=raw.get("mamba_conv_bias", bool, True),
        bias=raw.get("mamba_proj_bias", bool, False),
        norm=norm,
    )
    attention = read_attention(raw, positions=None)
    dense = read_swiglu(raw)
    num_experts = raw.get("num_experts", int, 16)
    experts = MixtureOfExperts(
        num_experts=num_experts,
        top_k=raw.get("num_experts_per_tok", int, 2) if num_experts > 1 else 1,
        expert=dense,
        normalize_top_k=False,
        balance_loss=raw.get("router_aux_loss_coef", float, 0.001),
    )

    def at(index: int, what: str, period: int, offset: int) -> bool:
        period = raw.get(f"{what}_layer_period", int, period)
        return index % period == raw.get(f"{what}_layer_offset", int, offset)

    layers = [
        BlockSpec(
            mixer=attention if at(index, "attn", 8, 4) else mamba,
            ffn=experts if num_experts > 1 and at(index, "expert", 2, 1) else dense,
            norm=norm,
        )
        for index in range(number)
    ]
    return read_model(raw, layers, norm, context_length=262144)


def rules(config: ModelConfig) -> list[WeightRule]:
    """The files' names, in which every expert stands alone."""
    found = [
        WeightRule("embedding.weight", ("model.embed_tokens.weight",)),
        WeightRule("final_norm.weight", ("model.final_layernorm.weight",)),
    ]
    if not config.tie_embeddings:
        found.append(WeightRule("head.weight", ("lm_head.weight",)))
    for index, layer in enumerate(config.layers()):
        ours, theirs = f"blocks.{index}.", f"model.layers.{index}."
        found += [
            WeightRule(f"{ours}mixer_norm.weight", (f"{theirs}input_layernorm.weight",)),
            WeightRule(f"{ours}ffn_norm.weight", (f"{theirs}pre_ff_layernorm.weight",)),
        ]
        mixer, ffn = layer.mixer, layer.ffn
        if isinstance(mixer, GroupedQuery):
            there = f"{theirs}self_attn."
            found += attention_rules(f"{ours}mixer.", there, mixer, config.hidden_size)
        else:
            assert isinstance(mixer, Mamba)
            found += mixer_rules(f"{ours}mixer.", f"{theirs}mamba.", mixer)
            found += [
                WeightRule(f"{ours}mixer.norms.{place}.weight", (f"{theirs}mamba.{name}.weight",))
                for place, name in enumerate(("dt_layernorm", "b_layernorm", "c_layernorm"))
            ]
        here, there = f"{ours}ffn.", f"{theirs}feed_forward."
        if isinstance(ffn, MixtureOfExperts):
            found += experts_rules(here, there, ffn, router="router.weight")
        else:
            assert isinstance(ffn, SwiGlu)
            found += gated_rules(here, there, ffn)
    return found


def _published(**words: Any) -> ModelConfig:
    first = {
        "vocab_size": 65536,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    }
    return read(HfConfig(first | words))


JAMBA = Family(
    model_type="jamba",
    architecture="JambaForCausalLM",
    prefix="model.",
    ignored=r"(?!)",  # none
    presets={
        "jamba-tiny": _published(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_experts=4,
            attn_layer_period=4,
            attn_layer_offset=2,
            max_position_embeddings=256,
        ),
        "jamba-v0.1": _published(),
        "jamba-1.5-large": _published(
            hidden_size=8192,
            intermediate_size=24576,
            num_hidden_layers=72,
            num_attention_heads=64,
        ),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=rules,
)
