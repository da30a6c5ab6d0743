"""MiniMax-Text-01: seven layers of Lightning Attention to one of softmax attention, and experts.

Source: MiniMax, arXiv:2501.08313; sizes as in the model's config.json on the Hub. Tested against:
transformers MiniMaxForCausalLM, logits and gradients.

The published model turns half of each head's channels by their positions. transformers 5.23 reads no
`partial_rotary_factor` for this family and turns all; we follow the config.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glassbox.core.errors import UserError
from glassbox.layers.attention import GroupedQuery
from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.lightning import Lightning
from glassbox.layers.norms import RmsNorm
from glassbox.layers.rotary import Rotary
from glassbox.models.config import BlockSpec, ModelConfig
from glassbox.models.families._experts import experts_rules
from glassbox.models.families._rope import read_rotary, rotary_keys
from glassbox.models.families._shared import (
    FULL,
    attention_keys,
    attention_rules,
    model_words,
    outer_rules,
    read_attention,
    read_model,
)
from glassbox.models.family import Family, HfConfig, WeightRule

LINEAR = "linear_attention"
BRANCHES = ("full_attn", "linear_attn", "mlp")
"""What their factors of the residual connections are named after; ours are the same for all."""
LIGHTNING_EPS = 1e-6
"""Of the norm inside Lightning Attention, whatever the config says of the others."""


def rate_scale(layer: int, num_layers: int) -> float:
    """How fast a layer forgets, of its number: the first fully, the last hardly at all."""
    return 1 - layer / (num_layers - 1 + 1e-5) + 1e-5


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """MiniMaxConfig's keys. It has no words for a model without a layer of softmax attention."""
    layers = config.layers()
    full = [layer.mixer for layer in layers if isinstance(layer.mixer, GroupedQuery)]
    linear = [layer for layer in layers if isinstance(layer.mixer, Lightning)]
    first = layers[0]
    if not full or len(full) + len(linear) < len(layers):
        return None
    if not isinstance(first.ffn, MixtureOfExperts) or not isinstance(first.norm, RmsNorm):
        return None
    rotary = full[0].positions
    if not isinstance(rotary, Rotary):
        return None
    return {
        **model_words(config),
        **attention_keys(config, full[0]),
        **rotary_keys(rotary, partial=rotary.fraction != 1.0),
        "hidden_act": "silu",
        "rms_norm_eps": first.norm.eps,
        "sliding_window": full[0].window,
        "layer_types": [FULL if isinstance(x.mixer, GroupedQuery) else LINEAR for x in layers],
        "intermediate_size": first.ffn.expert.size,
        "num_local_experts": first.ffn.num_experts,
        "num_experts_per_tok": first.ffn.top_k,
        "router_aux_loss_coef": first.ffn.balance_loss,
        **{f"{branch}_alpha_factor": first.skip_scale for branch in BRANCHES},
        **{f"{branch}_beta_factor": first.residual_scale for branch in BRANCHES},
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from MiniMaxConfig's keys; `block_size` changes no output and is not kept.

    Raises UserError for other types of layer, and for factors that differ between branches.
    """
    raw.refuse_unless("hidden_act", ("silu",))
    num_layers = raw.get("num_hidden_layers", int)
    norm = RmsNorm(eps=raw.get("rms_norm_eps", float, 1e-5))
    heads = raw.get("num_attention_heads", int)
    head_dim = raw.get("head_dim", int, raw.get("hidden_size", int) // heads)
    turned = raw.get("rotary_dim", int, head_dim)  # the published config's word for the share
    attention = read_attention(
        raw,
        positions=read_rotary(raw, base=1e6, partial=turned / head_dim),
        window=raw.find("sliding_window", int),
    )
    experts = MixtureOfExperts(
        num_experts=raw.get("num_local_experts", int, 8),
        top_k=raw.get("num_experts_per_tok", int, 2),
        expert=SwiGlu(size=raw.get("intermediate_size", int)),
        balance_loss=raw.get("router_aux_loss_coef", float, 0.001),
    )
    layers = [
        BlockSpec(
            mixer=attention
            if kind == FULL
            else Lightning(
                num_heads=attention.num_heads,
                head_dim=attention.head_dim,
                rate_scale=rate_scale(number, num_layers),
                norm_eps=LIGHTNING_EPS,
            ),
            ffn=experts,
            norm=norm,
            residual="normed",
            skip_scale=_factor(raw, "alpha"),
            residual_scale=_factor(raw, "beta"),
        )
        for number, kind in enumerate(_layer_types(raw, num_layers))
    ]
    return read_model(raw, layers, norm, context_length=131072)


def _factor(raw: HfConfig, name: str) -> float:
    found = {
        f"{branch}_{name}_factor": raw.get(f"{branch}_{name}_factor", float, 1.0)
        for branch in BRANCHES
    }
    if len(set(found.values())) > 1:
        raise UserError(f"{raw.where}: {found} is not supported; the factors must be equal")
    return found["mlp_" + name + "_factor"]


def _layer_types(raw: HfConfig, num_layers: int) -> Sequence[str]:
    """FULL or LINEAR a layer; the usual is one of each in turn."""
    usual = [LINEAR if number % 2 else FULL for number in range(num_layers)]
    types = raw.find_list("layer_types", str) or usual
    if len(types) != num_layers or not {FULL, LINEAR}.issuperset(types):
        raise UserError(
            f"{raw.where}: 'layer_types' = {types} is not supported; it wants '{FULL}' or "
            f"'{LINEAR}' for each of {num_layers} layers"
        )
    return types


def rules(config: ModelConfig) -> list[WeightRule]:
    """Lightning Attention's q, k and v stand head by head here as there."""
    found = outer_rules(config)
    linear = {
        "qkv": "qkv_proj",
        "gate": "output_gate",
        "norm": "norm",
        "output": "out_proj",
    }
    norms = {"mixer_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    for index, layer in enumerate(config.layers()):
        ours, theirs = f"blocks.{index}.", f"model.layers.{index}."
        names = {f"{ours}{here}": f"{theirs}{there}" for here, there in norms.items()}
        mixer = f"{theirs}self_attn."
        if isinstance(layer.mixer, GroupedQuery):
            found += attention_rules(f"{ours}mixer.", mixer, layer.mixer, config.hidden_size)
        else:
            names |= {f"{ours}mixer.{here}": f"{mixer}{there}" for here, there in linear.items()}
        found += [WeightRule(f"{a}.weight", (f"{b}.weight",)) for a, b in names.items()]
        assert isinstance(layer.ffn, MixtureOfExperts)
        moe = f"{theirs}block_sparse_moe."
        found += experts_rules(f"{ours}ffn.", moe, layer.ffn, parts=("w1", "w3", "w2"))
    return found


def _published(num_layers: int = 80, every: int = 8, **words: Any) -> ModelConfig:
    alpha = 3.5565588200778455
    common = {
        "vocab_size": 200064,
        "hidden_size": 6144,
        "intermediate_size": 9216,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 10240000,
        "num_local_experts": 32,
        "rope_theta": 1e7,
        "partial_rotary_factor": 0.5,
        "layer_types": [LINEAR if (number + 1) % every else FULL for number in range(num_layers)],
        **{f"{branch}_alpha_factor": alpha for branch in BRANCHES},
    }
    return read(HfConfig(common | words))


MINIMAX = Family(
    model_type="minimax",
    architecture="MiniMaxForCausalLM",
    prefix="model.",
    # theirs keep tables of decays among the weights
    ignored=r".*\.(slope_rate|query_decay|key_decay|diagonal_decay)|.*rotary_emb\.inv_freq",
    presets={
        "minimax-tiny": _published(
            4,
            4,
            vocab_size=512,
            hidden_size=64,
            intermediate_size=48,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=256,
            num_local_experts=4,
        ),
        "minimax-text-01": _published(),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=rules,
)
