"""Llama: RMSNorm before each branch, grouped-query attention with rotary positions, SwiGLU.

Source: Touvron et al., arXiv:2302.13971 and arXiv:2307.09288. Tested against: transformers
LlamaForCausalLM, logits and gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.core.errors import UserError
from glassbox.layers.attention import GroupedQuery, Rotary
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.norms import RmsNorm
from glassbox.models.config import BlockSpec, Initialization, ModelConfig, Repeat
from glassbox.models.family import Family, HfConfig, WeightRule, uniform_block
from glassbox.models.shapes import LlamaShape


def draft(config: ModelConfig) -> dict[str, Any] | None:
    """LlamaConfig's keys. transformers insists on whole hidden_size / num_heads and on even heads."""
    block = uniform_block(config)
    if block is None or not isinstance(block.mixer, GroupedQuery):
        return None
    mixer, ffn, norm = block.mixer, block.ffn, block.norm
    if not isinstance(ffn, SwiGlu) or not isinstance(norm, RmsNorm) or mixer.positions is None:
        return None
    head_dim = mixer.resolved_head_dim(config.hidden_size)
    if head_dim % 2 or config.hidden_size % mixer.num_heads:
        return None
    base = mixer.positions.base
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": ffn.size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": mixer.num_heads,
        "num_key_value_heads": mixer.kv_heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "initializer_range": config.init.std,
        "rms_norm_eps": norm.eps,
        "tie_word_embeddings": config.tie_embeddings,
        "rope_theta": base,  # read by transformers 4, the next line by 5
        "rope_parameters": {"rope_type": "default", "rope_theta": base},
        "attention_bias": mixer.qkv_bias,
        "attention_dropout": 0.0,
        "mlp_bias": ffn.bias,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from LlamaConfig's keys, of transformers 4 and 5.

    Raises UserError for rescaled rotary positions and for other activations.
    """
    raw.refuse_unless("hidden_act", ("silu",))
    norm = RmsNorm(eps=raw.get("rms_norm_eps", float, 1e-6))
    bias = raw.get("attention_bias", bool, False)
    hidden_size, num_heads = raw.get("hidden_size", int), raw.get("num_attention_heads", int)
    block = BlockSpec(
        mixer=GroupedQuery(
            num_heads=num_heads,
            num_kv_heads=raw.get("num_key_value_heads", int, num_heads),
            head_dim=raw.get("head_dim", int, hidden_size // num_heads),
            positions=Rotary(base=rope_base(raw)),
            qkv_bias=bias,
            output_bias=bias,
        ),
        ffn=SwiGlu(size=raw.get("intermediate_size", int), bias=raw.get("mlp_bias", bool, False)),
        norm=norm,
    )
    return ModelConfig(
        vocab_size=raw.get("vocab_size", int),
        hidden_size=hidden_size,
        context_length=raw.get("max_position_embeddings", int, 2048),
        blocks=(Repeat(block=block, times=raw.get("num_hidden_layers", int)),),
        final_norm=norm,
        tie_embeddings=raw.get("tie_word_embeddings", bool, False),
        init=Initialization(std=raw.get("initializer_range", float, 0.02), scale_residual=False),
    )


def rope_base(raw: HfConfig) -> float:
    """theta, under the key of transformers 5 (`rope_parameters`) or of 4 (`rope_theta`)."""
    for key in ("rope_parameters", "rope_scaling"):
        nested = raw.raw.get(key)
        if nested is None:
            continue
        if not isinstance(nested, dict):
            raise UserError(f"{raw.where}: '{key}' = {nested!r} is no mapping")
        inner = HfConfig(nested, f"{raw.where}, '{key}'")
        inner.refuse_unless("rope_type", ("default",))
        inner.refuse_unless("type", ("default",))
        inner.refuse_unless("partial_rotary_factor", (1, 1.0))
        if nested.get("rope_theta") is not None:
            return inner.get("rope_theta", float)
    return raw.get("rope_theta", float, 10000.0)


def rules(config: ModelConfig) -> list[WeightRule]:
    """q, k and v, and gate and up, are one matrix each here and apart there."""
    found = [WeightRule("embedding.weight", ("model.embed_tokens.weight",))]
    for index, spec in enumerate(config.layers()):
        ours, theirs = f"blocks.{index}.", f"model.layers.{index}."
        mixer, ffn = spec.mixer, spec.ffn
        assert isinstance(ffn, SwiGlu)
        head_dim = mixer.resolved_head_dim(config.hidden_size)
        keys = mixer.kv_heads * head_dim
        qkv_sizes = (mixer.num_heads * head_dim, keys, keys)
        qkv = tuple(f"{theirs}self_attn.{part}_proj" for part in "qkv")
        gate_up = (f"{theirs}mlp.gate_proj", f"{theirs}mlp.up_proj")
        found += [
            WeightRule(f"{ours}mixer_norm.weight", (f"{theirs}input_layernorm.weight",)),
            WeightRule(f"{ours}ffn_norm.weight", (f"{theirs}post_attention_layernorm.weight",)),
        ]
        for kind, mixer_bias, output_bias, ffn_bias in (
            ("weight", True, True, True),
            ("bias", mixer.qkv_bias, mixer.output_bias, ffn.bias),
        ):
            wanted = [
                (mixer_bias, "mixer.qkv", qkv, qkv_sizes),
                (output_bias, "mixer.output", (f"{theirs}self_attn.o_proj",), ()),
                (ffn_bias, "ffn.gate_up", gate_up, (ffn.size, ffn.size)),
                (ffn_bias, "ffn.down", (f"{theirs}mlp.down_proj",), ()),
            ]
            found += [
                WeightRule(f"{ours}{name}.{kind}", tuple(f"{t}.{kind}" for t in parts), sizes)
                for present, name, parts, sizes in wanted
                if present
            ]
    found.append(WeightRule("final_norm.weight", ("model.norm.weight",)))
    if not config.tie_embeddings:
        found.append(WeightRule("head.weight", ("lm_head.weight",)))
    return found


LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    prefix="model.",
    ignored=r".*rotary_emb\.inv_freq",
    presets={
        "llama-tiny": LlamaShape(
            hidden_size=64,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            ffn_size=192,
            context_length=256,
        ).config(512),
        "llama-1.5m": LlamaShape(
            hidden_size=128,
            num_layers=6,
            num_heads=4,
            num_kv_heads=2,
            ffn_size=384,
            context_length=256,
        ).config(2048),
        "smollm2-135m": LlamaShape(
            hidden_size=576,
            num_layers=30,
            num_heads=9,
            num_kv_heads=3,
            ffn_size=1536,
            context_length=8192,
            rope_base=100000.0,
        ).config(49152),
        "llama-2-7b": LlamaShape(
            hidden_size=4096,
            num_layers=32,
            num_heads=32,
            ffn_size=11008,
            context_length=4096,
            tie_embeddings=False,
        ).config(32000),
    },
    draft=draft,
    read=read,
    rules=rules,
)
