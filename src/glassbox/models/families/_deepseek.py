"""What the DeepSeek families share: latent attention, some dense layers first, experts after them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.latent import Latent
from glassbox.layers.norms import RmsNorm
from glassbox.models.config import BlockSpec, ModelConfig
from glassbox.models.families._experts import experts_rules
from glassbox.models.families._rope import rotary_keys
from glassbox.models.families._shared import (
    gated_rules,
    model_words,
    norm_rules,
    outer_rules,
    read_model,
    read_swiglu,
)
from glassbox.models.family import HfConfig, WeightRule

LATENT_NORM = RmsNorm(eps=1e-6)
"""The norm of the latents, whatever `rms_norm_eps` says of the others."""

IGNORED = r".*rotary_emb\.inv_freq"
SECOND_TOKEN = r"model\.layers\.61\..*"
"""Layer 61 of the published V3 and its successors, beside layers 0 to 60: it predicts a second token.

`models/mtp.py` has the same module, but in these files it brings copies of embedding and head, which
no rule here can write back, and transformers does not read it either.
"""


@dataclass(frozen=True)
class DeepseekParts:
    """The parts of a model: `num_dense` layers with a dense feed-forward, then experts."""

    mixer: Latent
    norm: RmsNorm
    dense: SwiGlu | None
    experts: MixtureOfExperts | None
    num_dense: int


def deepseek_parts(config: ModelConfig) -> DeepseekParts | None:
    """A model's parts, or None where one is of another kind or stands elsewhere."""
    layers = config.layers()
    mixer, norm = layers[0].mixer, layers[0].norm
    if not isinstance(mixer, Latent) or not isinstance(norm, RmsNorm):
        return None
    ffns = [layer.ffn for layer in layers]
    num_dense = sum(isinstance(ffn, SwiGlu) for ffn in ffns)
    dense = ffns[0] if num_dense else None
    experts = ffns[-1] if num_dense < len(ffns) else None
    if not isinstance(dense, SwiGlu | None) or not isinstance(experts, MixtureOfExperts | None):
        return None
    if ffns != [dense] * num_dense + [experts] * (len(ffns) - num_dense):
        return None
    return DeepseekParts(mixer, norm, dense, experts, num_dense)


def deepseek_keys(config: ModelConfig, parts: DeepseekParts) -> dict[str, Any]:
    """The words that all three families have; a model without experts says so by its dense layers."""
    mixer, dense, experts = parts.mixer, parts.dense, parts.experts
    words: dict[str, Any] = {
        **model_words(config),
        **rotary_keys(mixer.positions),
        "num_attention_heads": mixer.num_heads,
        "num_key_value_heads": mixer.num_heads,
        "q_lora_rank": mixer.q_rank,
        "kv_lora_rank": mixer.kv_rank,
        "qk_nope_head_dim": mixer.nope_dim,
        "qk_rope_head_dim": mixer.rope_dim,
        "v_head_dim": mixer.value_dim,
        "attention_bias": mixer.output_bias,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "rms_norm_eps": parts.norm.eps,
        "first_k_dense_replace": parts.num_dense,
        "moe_layer_freq": 1,
    }
    if dense is not None:
        words["intermediate_size"] = dense.size
    if experts is not None:
        words |= {
            "n_routed_experts": experts.num_experts,
            "num_experts_per_tok": experts.top_k,
            "moe_intermediate_size": experts.expert.size,
            "n_shared_experts": (experts.shared or 0) // experts.expert.size,
            "routed_scaling_factor": experts.routed_scale,
            "norm_topk_prob": experts.normalize_top_k,
        }
    return words


def read_latent(raw: HfConfig, **more: Any) -> Latent:
    """Latent attention; `more` are further fields of the spec.

    Raises UserError where keys and values have another number of heads than queries.
    """
    num_heads = raw.get("num_attention_heads", int)
    raw.refuse_unless("num_key_value_heads", (num_heads,))
    bias = raw.get("attention_bias", bool, False)
    fields = {
        "num_heads": num_heads,
        "q_rank": raw.find("q_lora_rank", int, 1536),
        "kv_rank": raw.get("kv_lora_rank", int, 512),
        "nope_dim": raw.get("qk_nope_head_dim", int, 128),
        "rope_dim": raw.get("qk_rope_head_dim", int, 64),
        "value_dim": raw.get("v_head_dim", int, 128),
        "norm": LATENT_NORM,
        "latent_bias": bias,
        "output_bias": bias,
        **more,
    }
    return Latent(**fields)


def read_experts(raw: HfConfig, **more: Any) -> MixtureOfExperts:
    """Routed and shared experts; `more` are further fields of the spec."""
    size = raw.get("moe_intermediate_size", int)
    number = raw.get("n_shared_experts", int)
    fields = {
        "num_experts": raw.get("n_routed_experts", int),
        "top_k": raw.get("num_experts_per_tok", int),
        "expert": SwiGlu(size=size),
        "shared": number * size if number else None,
        "routed_scale": raw.get("routed_scaling_factor", float, 1.0),
        **more,
    }
    return MixtureOfExperts(**fields)


def read_deepseek(
    raw: HfConfig, mixer: Latent, experts: dict[str, Any], *, num_dense: int, context_length: int
) -> ModelConfig:
    """ModelConfig of this attention; `experts` are what the family adds to `read_experts`.

    The last two are what missing keys mean to the family.
    Raises UserError for biases in feed-forwards and for dense layers between those of experts.
    """
    raw.refuse_unless("moe_layer_freq", (1,))
    raw.refuse_unless("mlp_bias", (False,))
    num_layers = raw.get("num_hidden_layers", int)
    num_dense = min(raw.get("first_k_dense_replace", int, num_dense), num_layers)
    norm = RmsNorm(eps=raw.get("rms_norm_eps", float, 1e-6))
    raw.refuse_unless("hidden_act", ("silu",))
    layers: list[BlockSpec] = []
    if num_dense:
        layers += [BlockSpec(mixer=mixer, ffn=read_swiglu(raw), norm=norm)] * num_dense
    if num_dense < num_layers:
        block = BlockSpec(mixer=mixer, ffn=read_experts(raw, **experts), norm=norm)
        layers += [block] * (num_layers - num_dense)
    return read_model(raw, layers, norm, context_length=context_length)


def deepseek_rules(config: ModelConfig) -> list[WeightRule]:
    """The weights' map of all three families."""
    found = outer_rules(config)
    for index, layer in enumerate(config.layers()):
        ours, theirs = f"blocks.{index}.", f"model.layers.{index}."
        assert isinstance(layer.mixer, Latent)
        found += norm_rules(ours, theirs, layer)
        found += _latent_rules(f"{ours}mixer.", f"{theirs}self_attn.", layer.mixer)
        if isinstance(layer.ffn, SwiGlu):
            found += gated_rules(f"{ours}ffn.", f"{theirs}mlp.", layer.ffn)
        else:
            assert isinstance(layer.ffn, MixtureOfExperts)
            found += experts_rules(
                f"{ours}ffn.", f"{theirs}mlp.", layer.ffn, shared="shared_experts"
            )
    return found


def _latent_rules(ours: str, theirs: str, mixer: Latent) -> list[WeightRule]:
    names = {
        "kv_down.weight": "kv_a_proj_with_mqa.weight",
        "kv_norm.weight": "kv_a_layernorm.weight",
        "kv_up.weight": "kv_b_proj.weight",
        "output.weight": "o_proj.weight",
    }
    if mixer.q_rank is None:
        names["q_up.weight"] = "q_proj.weight"
    else:
        names |= {
            "q_down.weight": "q_a_proj.weight",
            "q_norm.weight": "q_a_layernorm.weight",
            "q_up.weight": "q_b_proj.weight",
        }
    if mixer.latent_bias:
        names["kv_down.bias"] = "kv_a_proj_with_mqa.bias"
        if mixer.q_rank is not None:
            names["q_down.bias"] = "q_a_proj.bias"
    if mixer.output_bias:
        names["output.bias"] = "o_proj.bias"
    if mixer.indexer is not None:
        names |= {
            "indexer.q.weight": "indexer.wq_b.weight",
            "indexer.k.weight": "indexer.wk.weight",
            "indexer.k_norm.weight": "indexer.k_norm.weight",
            "indexer.k_norm.bias": "indexer.k_norm.bias",
            "indexer.head_weights.weight": "indexer.weights_proj.weight",
        }
    return [WeightRule(f"{ours}{here}", (f"{theirs}{there}",)) for here, there in names.items()]
