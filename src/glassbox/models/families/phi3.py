"""Phi-3 and Phi-4: Llama whose files keep q, k, v in one matrix and gate, up in another, as here.

Source: Abdin et al., arXiv:2404.14219 and arXiv:2412.08905; sizes as in the models' config.json on
the Hub. Those of 128k tokens turn by LongRoPE's long factors whatever the sequence's length, where
transformers takes the short ones for a sequence of up to 4096. Tested against: transformers
Phi3ForCausalLM, logits and gradients.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from glassbox.layers.norms import RmsNorm
from glassbox.layers.rotary import LongRope
from glassbox.models.config import BlockSpec, ModelConfig
from glassbox.models.families._rope import read_rotary, rotary_keys
from glassbox.models.families._shared import (
    llama_keys,
    llama_parts,
    llama_rules,
    read_attention,
    read_model,
    read_swiglu,
)
from glassbox.models.family import Family, HfConfig


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """Phi3Config's keys. transformers divides hidden_size among the heads."""
    parts = llama_parts(config, longrope=True)
    if parts is None:
        return None
    scaling = parts.rotary.scaling
    if scaling is not None and not isinstance(scaling, LongRope):
        return None
    words = rotary_keys(parts.rotary, partial=True)
    if scaling is not None:  # transformers 4 wants these three and no more
        three = {"short_factor": scaling.short_factor, "long_factor": scaling.long_factor}
        words["rope_scaling"] = {"type": "longrope", **{k: list(v) for k, v in three.items()}}
    head_dim = parts.mixer.resolved_head_dim(config.hidden_size)
    if head_dim * parts.mixer.num_heads != config.hidden_size:
        return None
    if int(head_dim * parts.rotary.fraction) % 2:
        return None
    return {
        **llama_keys(config, parts),
        **words,
        "original_max_position_embeddings": scaling.original_length
        if scaling is not None
        else config.context_length,
        "sliding_window": parts.mixer.window,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from Phi3Config's keys.

    Raises UserError for other stretched positions than LongRoPE's, once called "su".
    """
    nested = raw.inner("rope_scaling") or raw.inner("rope_parameters") or HfConfig({}, raw.where)
    if nested.raw.get("rope_type", nested.raw.get("type")) == "su":
        nested = HfConfig({**nested.raw, "rope_type": "longrope", "type": "longrope"}, nested.where)
    nested.refuse_unless("rope_type", ("default", "longrope"))
    nested.refuse_unless("type", ("default", "longrope"))
    rotary = read_rotary(raw, partial=1.0, nested=nested)
    mixer = read_attention(raw, positions=rotary, window=raw.find("sliding_window", int))
    norm = RmsNorm(eps=raw.get("rms_norm_eps", float, 1e-5))
    block = BlockSpec(mixer=mixer, ffn=read_swiglu(raw), norm=norm)
    return read_model(
        raw,
        [block] * raw.get("num_hidden_layers", int),
        norm,
        context_length=4096,
        dropout=raw.get("resid_pdrop", float, 0.0),
    )


def _published(
    hidden_size: int, num_layers: int, num_heads: int, num_kv_heads: int, size: int, **words: Any
) -> ModelConfig:
    common = {
        "vocab_size": 32064,
        "hidden_size": hidden_size,
        "intermediate_size": size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "max_position_embeddings": 4096,
        "sliding_window": 2047,
    }
    return read(HfConfig(common | words))


PHI3 = Family(
    model_type="phi3",
    architecture="Phi3ForCausalLM",
    prefix="model.",
    ignored=r".*rotary_emb\.inv_freq",
    presets={
        "phi3-tiny": _published(
            64, 2, 4, 2, 192, vocab_size=512, max_position_embeddings=256, sliding_window=63
        ),
        "phi-3-mini-4k": _published(3072, 32, 32, 32, 8192),
        "phi-3-medium-4k": _published(5120, 40, 40, 10, 17920),
        "phi-4": _published(
            5120,
            40,
            40,
            10,
            17920,
            vocab_size=100352,
            max_position_embeddings=16384,
            rope_theta=250000.0,
            sliding_window=None,
        ),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=partial(llama_rules, fused=True),
)
