"""Qwen3-Next: three layers of gated DeltaNet to one of gated attention, and experts.

Source: Qwen team 2025, "Qwen3-Next: Towards Ultimate Training & Inference Efficiency"; its linear
layers arXiv:2412.06464; sizes as in the model's config.json on the Hub. The module that predicts
several tokens (`mtp.` in the published files) is left out, as transformers does; `glassbox convert`
says so. Tested against: transformers Qwen3NextForCausalLM, logits and gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.core.errors import UserError
from glassbox.layers.attention import GroupedQuery
from glassbox.layers.delta_net import GatedDelta
from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.norms import RmsNorm
from glassbox.layers.rotary import Rotary
from glassbox.models.config import BlockSpec, ModelConfig
from glassbox.models.families._experts import experts_rules
from glassbox.models.families._grouped_rows import GatedQueries, GroupedRows
from glassbox.models.families._rope import read_rotary, rotary_keys
from glassbox.models.families._shared import (
    FULL,
    attention_keys,
    gated_rules,
    model_words,
    norm_rules,
    outer_rules,
    read_attention,
    read_model,
    read_swiglu,
)
from glassbox.models.family import Family, HfConfig, WeightRule

LINEAR = "linear_attention"


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """Qwen3NextConfig's keys. It has no words for a model that lacks one of the two mixers."""
    layers = config.layers()
    full = [layer.mixer for layer in layers if isinstance(layer.mixer, GroupedQuery)]
    linear = [layer.mixer for layer in layers if isinstance(layer.mixer, GatedDelta)]
    experts = [layer.ffn for layer in layers if isinstance(layer.ffn, MixtureOfExperts)]
    dense = [layer.ffn for layer in layers if isinstance(layer.ffn, SwiGlu)]
    if not full or not linear or len(full + linear) < len(layers):
        return None
    if not experts or len(experts) + len(dense) < len(layers):
        return None
    delta, ffn, rotary = linear[0].resolve(config.hidden_size), experts[0], full[0].positions
    if not isinstance(rotary, Rotary) or not isinstance(layers[0].norm, RmsNorm):
        return None
    return {
        **model_words(config),
        **attention_keys(config, full[0]),
        **rotary_keys(rotary, partial=True),
        "attention_bias": full[0].qkv_bias,
        "hidden_act": "silu",
        "rms_norm_eps": layers[0].norm.eps,
        "layer_types": [FULL if isinstance(x.mixer, GroupedQuery) else LINEAR for x in layers],
        "linear_num_key_heads": delta.key_heads,
        "linear_num_value_heads": delta.num_heads,
        "linear_key_head_dim": delta.key_dim,
        "linear_value_head_dim": delta.value_dim,
        "linear_conv_kernel_dim": delta.conv_taps,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [i for i, x in enumerate(layers) if isinstance(x.ffn, SwiGlu)],
        "intermediate_size": dense[0].size if dense else ffn.expert.size,
        "moe_intermediate_size": ffn.expert.size,
        "shared_expert_intermediate_size": ffn.shared,
        "num_experts": ffn.num_experts,
        "num_experts_per_tok": ffn.top_k,
        "norm_topk_prob": ffn.normalize_top_k,
        "router_aux_loss_coef": ffn.balance_loss,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from Qwen3NextConfig's keys. Raises UserError for other types of layer."""
    raw.refuse_unless("hidden_act", ("silu",))
    eps = raw.get("rms_norm_eps", float, 1e-6)
    norm = RmsNorm(eps=eps, offset=True)
    bias = raw.get("attention_bias", bool, False)
    attention = read_attention(
        raw,
        head_dim=raw.get("head_dim", int, 256),
        positions=read_rotary(raw, partial=0.25),
        qk_norm=norm,
        qkv_bias=bias,
        output_bias=bias,
        output_gate=True,
    )
    delta = GatedDelta(
        num_heads=raw.get("linear_num_value_heads", int, 32),
        num_key_heads=raw.get("linear_num_key_heads", int, 16),
        key_dim=raw.get("linear_key_head_dim", int, 128),
        value_dim=raw.get("linear_value_head_dim", int, 128),
        conv_taps=raw.get("linear_conv_kernel_dim", int, 4),
        norm_eps=eps,
    )
    experts = MixtureOfExperts(
        num_experts=raw.get("num_experts", int, 512),
        top_k=raw.get("num_experts_per_tok", int, 10),
        expert=SwiGlu(size=raw.get("moe_intermediate_size", int, 512)),
        normalize_top_k=raw.get("norm_topk_prob", bool, True),
        shared=raw.get("shared_expert_intermediate_size", int, 512),
        shared_gate=True,
        balance_loss=raw.get("router_aux_loss_coef", float, 0.001),
    )
    dense = raw.find_list("mlp_only_layers", int) or []
    step = raw.get("decoder_sparse_step", int, 1)
    layers = [
        BlockSpec(
            mixer=attention if kind == FULL else delta,
            ffn=read_swiglu(raw) if number in dense or (number + 1) % step else experts,
            norm=norm,
        )
        for number, kind in enumerate(_layer_types(raw))
    ]
    return read_model(raw, layers, norm, context_length=32768)


def _layer_types(raw: HfConfig) -> list[str]:
    """FULL or LINEAR a layer; the usual is every fourth of full attention."""
    num_layers, every = (
        raw.get("num_hidden_layers", int),
        raw.get("full_attention_interval", int, 4),
    )
    usual = [FULL if (number + 1) % every == 0 else LINEAR for number in range(num_layers)]
    types = raw.find_list("layer_types", str) or usual
    if len(types) != num_layers or not {FULL, LINEAR}.issuperset(types):
        raise UserError(
            f"{raw.where}: 'layer_types' = {types} is not supported; it wants '{FULL}' or "
            f"'{LINEAR}' for each of {num_layers} layers"
        )
    return types


def rules(config: ModelConfig) -> list[WeightRule]:
    """Heads side by side there where kinds of rows are here: q with the gate, and all of the delta's."""
    found = outer_rules(config)
    for index, layer in enumerate(config.layers()):
        ours, theirs = f"blocks.{index}.", f"model.layers.{index}."
        found += norm_rules(ours, theirs, layer)
        if isinstance(layer.mixer, GroupedQuery):
            found += _attention_rules(
                f"{ours}mixer.", f"{theirs}self_attn.", layer.mixer, config.hidden_size
            )
        else:
            assert isinstance(layer.mixer, GatedDelta)
            found += _delta_rules(
                f"{ours}mixer.", f"{theirs}linear_attn.", layer.mixer.resolve(config.hidden_size)
            )
        if isinstance(layer.ffn, MixtureOfExperts):
            found += experts_rules(f"{ours}ffn.", f"{theirs}mlp.", layer.ffn)
        else:
            assert isinstance(layer.ffn, SwiGlu)
            found += gated_rules(f"{ours}ffn.", f"{theirs}mlp.", layer.ffn)
    return found


def _attention_rules(
    ours: str, theirs: str, mixer: GroupedQuery, hidden_size: int
) -> list[WeightRule]:
    head_dim = mixer.resolved_head_dim(hidden_size)
    queries, keys = mixer.num_heads * head_dim, mixer.kv_heads * head_dim
    sizes = (queries, keys, keys, queries)
    found = [
        WeightRule(f"{ours}{part}_norm.weight", (f"{theirs}{part}_norm.weight",)) for part in "qk"
    ]
    for kind in ("weight", "bias") if mixer.qkv_bias else ("weight",):
        names = tuple(f"{theirs}{part}_proj.{kind}" for part in "qkv")
        found += [
            GatedQueries(f"{ours}qkv.{kind}", names, sizes, num_heads=mixer.num_heads),
            WeightRule(f"{ours}output.{kind}", (f"{theirs}o_proj.{kind}",)),
        ]
    return found


def _delta_rules(ours: str, theirs: str, mixer: GatedDelta) -> list[WeightRule]:
    groups = mixer.num_heads // mixer.key_heads
    assert mixer.key_dim is not None
    assert mixer.value_dim is not None
    values = groups * mixer.value_dim
    sizes = (mixer.key_dim, mixer.key_dim, values, values)
    plain = {
        "conv.weight": "conv1d.weight",
        "forgetting.log_rate": "A_log",
        "forgetting.time_bias": "dt_bias",
        "norm.weight": "norm.weight",
        "output.weight": "out_proj.weight",
    }
    return [
        GroupedRows(
            f"{ours}inputs.weight", (f"{theirs}in_proj_qkvz.weight",), sizes,
            num_groups=mixer.key_heads,
        ),
        GroupedRows(
            f"{ours}rates.weight", (f"{theirs}in_proj_ba.weight",), (groups, groups),
            num_groups=mixer.key_heads,
        ),
        *(WeightRule(f"{ours}{here}", (f"{theirs}{there}",)) for here, there in plain.items()),
    ]  # fmt: skip


def _published(**words: Any) -> ModelConfig:
    common = {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "max_position_embeddings": 262144,
        "rope_theta": 1e7,
    }
    return read(HfConfig(common | words))


QWEN3_NEXT = Family(
    model_type="qwen3_next",
    architecture="Qwen3NextForCausalLM",
    prefix="model.",
    ignored=r".*rotary_emb\.inv_freq",
    left_out=r"mtp\..*",
    presets={
        "qwen3-next-tiny": _published(
            vocab_size=512,
            hidden_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            head_dim=32,
            max_position_embeddings=256,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=16,
            linear_value_head_dim=16,
            moe_intermediate_size=48,
            shared_expert_intermediate_size=48,
            num_experts=8,
            num_experts_per_tok=2,
        ),
        "qwen3-next-80b-a3b": _published(),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=rules,
)
