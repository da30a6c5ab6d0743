"""gpt-oss: experts with biases and a clamped SwiGLU, a window in every other layer, attention sinks, YaRN.

Source: OpenAI, gpt-oss model card, arXiv:2508.10925; sizes as in the models' config.json on the Hub.
The published files hold the experts in MXFP4 (`narrow_files`). Tested against: transformers
GptOssForCausalLM, logits and gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from glassbox.layers.attention import GroupedQuery
from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import ClampedSwiGlu
from glassbox.layers.norms import RmsNorm
from glassbox.models.config import BlockSpec, ModelConfig
from glassbox.models.families._experts import expert_keys, expert_parts
from glassbox.models.families._rope import read_rotary
from glassbox.models.families._shared import (
    attention_rules,
    norm_rules,
    outer_rules,
    read_attention,
    read_model,
    read_windows,
    window_keys,
)
from glassbox.models.family import Family, HfConfig, WeightRule

YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
"""What transformers takes where a config says nothing of rotary positions."""


@dataclass(frozen=True)
class InterleavedStack(WeightRule):
    """Gate above up in each expert here, (E, 2F) or (E, 2F, D); there by turns along the last axis."""

    views: ClassVar[bool] = False

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """Theirs, (E, 2F) or (E, D, 2F)."""
        halves = tensor.unflatten(1, (2, -1))  # (E, 2, F, ...)
        turned = halves.permute(0, *range(3, halves.dim()), 2, 1)  # (E, ..., F, 2)
        return {self.theirs[0]: turned.flatten(-2)}

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Ours."""
        pairs = parts[0].unflatten(-1, (-1, 2))  # (E, ..., F, 2)
        last = pairs.dim() - 1
        return pairs.permute(0, last, last - 1, *range(1, last - 1)).flatten(1, 2)


@dataclass(frozen=True)
class TransposedStack(WeightRule):
    """Each expert's matrix transposed."""

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """Theirs, as a view."""
        return {self.theirs[0]: tensor.transpose(1, 2)}

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Ours."""
        return parts[0].transpose(1, 2)


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """GptOssConfig's keys."""
    parts = expert_parts(config)
    if parts is None or not isinstance(parts.experts.expert, ClampedSwiGlu):
        return None
    expert = parts.experts.expert
    windows = window_keys(config)
    return {
        **expert_keys(config, parts),
        **windows,
        # transformers asks for a width even where no layer has a window
        "sliding_window": windows["sliding_window"] or 128,
        "intermediate_size": expert.size,
        "num_local_experts": parts.experts.num_experts,
        "swiglu_alpha": expert.alpha,
        "swiglu_limit": expert.limit,
        "attention_bias": parts.mixer.qkv_bias,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from GptOssConfig's keys."""
    raw.refuse_unless("hidden_act", ("silu",))
    norm = RmsNorm(eps=raw.get("rms_norm_eps", float, 1e-5))
    experts = MixtureOfExperts(
        num_experts=raw.get("num_local_experts", int),
        top_k=raw.get("num_experts_per_tok", int, 4),
        expert=ClampedSwiGlu(
            size=raw.get("intermediate_size", int),
            alpha=raw.get("swiglu_alpha", float, 1.702),
            limit=raw.get("swiglu_limit", float, 7.0),
            bias=True,
        ),
        router_bias=True,
        balance_loss=raw.get("router_aux_loss_coef", float, 0.001),
    )
    says_nothing = raw.inner("rope_scaling") is None and raw.inner("rope_parameters") is None
    positions = read_rotary(
        raw, base=150000.0, nested=HfConfig(YARN, raw.where) if says_nothing else None
    )
    bias = raw.get("attention_bias", bool, True)
    number = raw.get("num_hidden_layers", int)
    windows = read_windows(
        raw, raw.find("sliding_window", int, 128), [n % 2 == 0 for n in range(number)]
    )
    attention = {
        "head_dim": raw.get("head_dim", int, 64),
        "positions": positions,
        "qkv_bias": bias,
        "output_bias": bias,
        "sinks": True,
    }
    layers = [
        BlockSpec(mixer=read_attention(raw, window=window, **attention), ffn=experts, norm=norm)
        for window in windows
    ]
    return read_model(raw, layers, norm, context_length=131072)


def rules(config: ModelConfig) -> list[WeightRule]:
    """Stacked experts there as well, each matrix transposed, gate and up by turns."""
    found = outer_rules(config)
    for index, layer in enumerate(config.layers()):
        ours, theirs = f"blocks.{index}.", f"model.layers.{index}."
        assert isinstance(layer.mixer, GroupedQuery)
        experts = f"{theirs}mlp.experts."
        found += norm_rules(ours, theirs, layer)
        found += attention_rules(
            f"{ours}mixer.", f"{theirs}self_attn.", layer.mixer, config.hidden_size
        )
        found += [
            WeightRule(f"{ours}ffn.router.weight", (f"{theirs}mlp.router.weight",)),
            WeightRule(f"{ours}ffn.router.bias", (f"{theirs}mlp.router.bias",)),
            InterleavedStack(f"{ours}ffn.gate_up", (f"{experts}gate_up_proj",)),
            InterleavedStack(f"{ours}ffn.gate_up_bias", (f"{experts}gate_up_proj_bias",)),
            TransposedStack(f"{ours}ffn.down", (f"{experts}down_proj",)),
            WeightRule(f"{ours}ffn.down_bias", (f"{experts}down_proj_bias",)),
        ]
    return found


def _published(**words: Any) -> ModelConfig:
    twenty_billion = {
        "vocab_size": 201088,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_hidden_layers": 24,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "num_local_experts": 32,
        "max_position_embeddings": 131072,
        "router_aux_loss_coef": 0.9,
    }
    return read(HfConfig(twenty_billion | words))


GPT_OSS = Family(
    model_type="gpt_oss",
    architecture="GptOssForCausalLM",
    prefix="model.",
    ignored=r".*rotary_emb\.inv_freq",
    presets={
        "gpt-oss-tiny": _published(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            num_local_experts=8,
            max_position_embeddings=256,
            sliding_window=32,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            router_aux_loss_coef=0.01,
        ),
        "gpt-oss-20b": _published(),
        "gpt-oss-120b": _published(num_hidden_layers=36, num_local_experts=128),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=rules,
)
