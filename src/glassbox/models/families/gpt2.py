"""GPT-2: LayerNorm before each branch, multi-head attention with biases, learned positions, GELU.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners". Tested against:
transformers GPT2LMHeadModel, logits and gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.layers.attention import GroupedQuery
from glassbox.layers.feedforward import Gelu
from glassbox.layers.norms import LayerNorm
from glassbox.models.config import BlockSpec, Initialization, ModelConfig, Repeat
from glassbox.models.family import Family, HfConfig, WeightRule, uniform_block
from glassbox.models.shapes import GPT2Shape

ACTIVATIONS = {"gelu_new": True, "gelu_pytorch_tanh": True, "gelu": False}
"""Their names of GELU, and whether each is the tanh approximation."""


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """Convert a ModelConfig to the keys of GPT2Config."""
    block = uniform_block(config)
    if block is None or not isinstance(block.mixer, GroupedQuery):
        return None
    ffn, norm = block.ffn, block.norm
    if not isinstance(ffn, Gelu) or not isinstance(norm, LayerNorm):
        return None
    if config.hidden_size % block.mixer.num_heads:
        return None
    return {
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_ctx": config.context_length,
        "n_embd": config.hidden_size,
        "n_layer": config.num_layers,
        "n_head": block.mixer.num_heads,
        "n_inner": ffn.size,
        "activation_function": "gelu_new" if ffn.tanh else "gelu",
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": 0.0,
        "layer_norm_epsilon": norm.eps,
        "initializer_range": config.init.std,
        "tie_word_embeddings": config.tie_embeddings,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from GPT2Config's keys.

    Dropout is `resid_pdrop`; theirs on attention weights has no counterpart and matters to training
    alone. Raises UserError for other activations and other scales of the attention scores.
    """
    raw.refuse_unless("activation_function", tuple(ACTIVATIONS))
    raw.refuse_unless("scale_attn_weights", (True,))
    raw.refuse_unless("scale_attn_by_inverse_layer_idx", (False,))
    raw.refuse_unless("add_cross_attention", (False,))
    hidden_size = raw.get("n_embd", int)
    norm = LayerNorm(eps=raw.get("layer_norm_epsilon", float, 1e-5))
    block = BlockSpec(
        mixer=GroupedQuery(num_heads=raw.get("n_head", int), qkv_bias=True, output_bias=True),
        ffn=Gelu(
            size=raw.get("n_inner", int, 4 * hidden_size),
            tanh=ACTIVATIONS[raw.get("activation_function", str, "gelu_new")],
        ),
        norm=norm,
    )
    return ModelConfig(
        vocab_size=raw.get("vocab_size", int),
        hidden_size=hidden_size,
        context_length=raw.get("n_positions", int, 1024),
        blocks=(Repeat(block=block, times=raw.get("n_layer", int)),),
        learned_positions=True,
        final_norm=norm,
        tie_embeddings=raw.get("tie_word_embeddings", bool, True),
        dropout=raw.get("resid_pdrop", float, 0.1),
        init=Initialization(std=raw.get("initializer_range", float, 0.02)),
    )


def rules(config: ModelConfig) -> list[WeightRule]:
    """Their matrices are `Conv1D`s, (in, out): ours transposed. Their q, k, v are one as well."""
    found = [
        WeightRule("embedding.weight", ("transformer.wte.weight",)),
        WeightRule("position_embedding.weight", ("transformer.wpe.weight",)),
    ]
    names = {
        "mixer_norm": "ln_1",
        "mixer.qkv": "attn.c_attn",
        "mixer.output": "attn.c_proj",
        "ffn_norm": "ln_2",
        "ffn.up": "mlp.c_fc",
        "ffn.down": "mlp.c_proj",
    }
    for index in range(config.num_layers):
        for ours, theirs in names.items():
            here, there = f"blocks.{index}.{ours}", f"transformer.h.{index}.{theirs}"
            matrix = not ours.endswith("norm")
            found += [
                WeightRule(f"{here}.weight", (f"{there}.weight",), transpose=matrix),
                WeightRule(f"{here}.bias", (f"{there}.bias",)),
            ]
    found += [
        WeightRule(f"final_norm.{kind}", (f"transformer.ln_f.{kind}",))
        for kind in ("weight", "bias")
    ]
    if not config.tie_embeddings:
        found.append(WeightRule("head.weight", ("lm_head.weight",)))
    return found


def _published(hidden_size: int, num_layers: int, num_heads: int) -> ModelConfig:
    return GPT2Shape(
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        context_length=1024,
        dropout=0.1,
    ).config(50257)


GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    prefix="transformer.",
    ignored=r".*\.attn\.(bias|masked_bias)",
    presets={
        "gpt2-tiny": GPT2Shape(
            hidden_size=64, num_layers=2, num_heads=4, context_length=256
        ).config(512),
        "gpt2": _published(768, 12, 12),
        "gpt2-medium": _published(1024, 24, 16),
        "gpt2-large": _published(1280, 36, 20),
        "gpt2-xl": _published(1600, 48, 25),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=rules,
)
