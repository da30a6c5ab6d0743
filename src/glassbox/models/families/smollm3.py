"""SmolLM3: Llama whose every fourth layer has no positions.

Source: Bakouch et al. 2025, "SmolLM3: smol, multilingual, long-context reasoner" (huggingface.co
blog); layers without positions: arXiv:2501.18795; sizes as in the model's config.json on the Hub.
Tested against: transformers SmolLM3ForCausalLM, logits and gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.core.errors import UserError
from glassbox.layers.norms import RmsNorm
from glassbox.models.config import BlockSpec, ModelConfig
from glassbox.models.families._rope import read_rotary
from glassbox.models.families._shared import (
    SLIDING,
    llama_keys,
    llama_parts,
    llama_rules,
    mixers,
    read_attention,
    read_model,
    read_swiglu,
    read_windows,
    window_keys,
)
from glassbox.models.family import Family, HfConfig


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """SmolLM3Config's keys; in `no_rope_layers` a 1 marks a layer that does have positions."""
    parts = llama_parts(config)
    if parts is None:
        return None
    windows = window_keys(config)
    return {
        **llama_keys(config, parts),
        **windows,
        "use_sliding_window": SLIDING in windows["layer_types"],
        "no_rope_layers": [int(mixer.positions is not None) for mixer in mixers(config)],
        "attention_bias": parts.mixer.qkv_bias,
        "mlp_bias": parts.ffn.bias,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from SmolLM3Config's keys.

    Raises UserError where `no_rope_layers` has not one entry a layer.
    """
    num_layers = raw.get("num_hidden_layers", int)
    interval = raw.get("no_rope_layer_interval", int, 4)
    turned = raw.find_list("no_rope_layers", int)
    if turned is None:
        turned = [int((number + 1) % interval != 0) for number in range(num_layers)]
    if len(turned) != num_layers:
        raise UserError(
            f"{raw.where}: 'no_rope_layers' has {len(turned)} entries for {num_layers} layers"
        )
    used = raw.get("use_sliding_window", bool, False)
    window = raw.find("sliding_window", int) if used else None
    windows = read_windows(raw, window, [window is not None and not turns for turns in turned])
    norm = RmsNorm(eps=raw.get("rms_norm_eps", float, 1e-6))
    bias = raw.get("attention_bias", bool, False)
    rotary = read_rotary(raw, base=2e6)
    ffn = read_swiglu(raw, bias=raw.get("mlp_bias", bool, False))
    layers = [
        BlockSpec(
            mixer=read_attention(
                raw,
                positions=rotary if turns else None,
                window=width,
                qkv_bias=bias,
                output_bias=bias,
            ),
            ffn=ffn,
            norm=norm,
        )
        for turns, width in zip(turned, windows, strict=True)
    ]
    return read_model(raw, layers, norm, context_length=32768, tie_embeddings=True)


SMOLLM3 = Family(
    model_type="smollm3",
    architecture="SmolLM3ForCausalLM",
    prefix="model.",
    ignored=r".*rotary_emb\.inv_freq",
    presets={
        "smollm3-tiny": read(
            HfConfig(
                {
                    "vocab_size": 512,
                    "hidden_size": 64,
                    "intermediate_size": 192,
                    "num_hidden_layers": 4,
                    "num_attention_heads": 4,
                    "num_key_value_heads": 2,
                    "max_position_embeddings": 256,
                }
            )
        ),
        "smollm3-3b": read(
            HfConfig(
                {
                    "vocab_size": 128256,
                    "hidden_size": 2048,
                    "intermediate_size": 11008,
                    "num_hidden_layers": 36,
                    "num_attention_heads": 16,
                    "num_key_value_heads": 4,
                    "max_position_embeddings": 65536,
                    "rope_theta": 5e6,
                }
            )
        ),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=llama_rules,
)
