"""Mamba-2: blocks of one mixer, a state space with one decay a head, and no feed-forward.

Source: Dao and Gu, arXiv:2405.21060. Tested against: transformers Mamba2ForCausalLM, logits and
gradients.
"""

from __future__ import annotations

import math
from typing import Any

from glassbox.core.errors import UserError
from glassbox.layers.mamba2 import Mamba2
from glassbox.layers.norms import RmsNorm
from glassbox.models.config import ModelConfig
from glassbox.models.families.mamba import CONTEXT_KEY, blocks_without_ffn, published
from glassbox.models.family import Family, HfConfig, WeightRule, uniform_block

LIMIT_KEY = "time_step_limit"


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """Mamba2Config's keys. transformers insists on an inner size that is a multiple of hidden_size.

    A lower limit of the step size without an upper one would need an infinity, which JSON lacks.
    """
    block = uniform_block(config)
    if block is None or not isinstance(block.mixer, Mamba2) or not isinstance(block.norm, RmsNorm):
        return None
    mixer = block.mixer
    head_dim = mixer.resolved_head_dim(config.hidden_size)
    limit = {} if mixer.max_step is None else {LIMIT_KEY: [mixer.min_step, mixer.max_step]}
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        CONTEXT_KEY: config.context_length,
        "num_heads": mixer.num_heads,
        "head_dim": head_dim,
        "state_size": mixer.state_size,
        "n_groups": mixer.num_groups,
        "expand": mixer.num_heads * head_dim // config.hidden_size,
        "conv_kernel": mixer.conv_taps,
        "use_conv_bias": mixer.conv_bias,
        "use_bias": mixer.bias,
        **limit,
        "hidden_act": "silu",
        "layer_norm_epsilon": block.norm.eps,
        "initializer_range": config.init.std,
        "residual_in_fp32": block.float32_residual,
        "tie_word_embeddings": config.tie_embeddings,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from Mamba2Config's keys.

    Raises UserError for other activations and for heads that do not fill the inner size.
    """
    raw.refuse_unless("hidden_act", ("silu",))
    hidden_size, expand = raw.get("hidden_size", int), raw.get("expand", int, 2)
    num_heads, head_dim = raw.get("num_heads", int, 128), raw.get("head_dim", int, 64)
    if num_heads * head_dim != expand * hidden_size:
        raise UserError(
            f"{raw.where}: 'num_heads' * 'head_dim' = {num_heads * head_dim} is not "
            f"'expand' * 'hidden_size' = {expand * hidden_size}"
        )
    eps = raw.get("layer_norm_epsilon", float, 1e-5)
    low, high = _limits(raw)
    mixer = Mamba2(
        num_heads=num_heads,
        head_dim=head_dim,
        state_size=raw.get("state_size", int, 128),
        num_groups=raw.get("n_groups", int, 8),
        conv_taps=raw.get("conv_kernel", int, 4),
        conv_bias=raw.get("use_conv_bias", bool, True),
        bias=raw.get("use_bias", bool, False),
        min_step=low,
        max_step=high,
        norm_eps=eps,
    )
    return blocks_without_ffn(raw, mixer, RmsNorm(eps=eps), tie_embeddings=False)


def _limits(raw: HfConfig) -> tuple[float, float | None]:
    """The smallest and the largest step size; None where that is infinite."""
    found = raw.raw.get(LIMIT_KEY)
    if found is None:
        return 0.0, None
    fault = UserError(f"{raw.where}: '{LIMIT_KEY}' = {found!r} is no pair of numbers")
    if not isinstance(found, list | tuple) or len(found) != 2:
        raise fault
    # some files hold an infinity as the mapping {"__float__": "Infinity"}
    low, high = (float("inf") if v == {"__float__": "Infinity"} else v for v in found)
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in (low, high)):
        raise fault
    return float(low), None if math.isinf(high) else float(high)


def rules(config: ModelConfig) -> list[WeightRule]:
    """One to one."""
    found = [WeightRule("embedding.weight", ("backbone.embeddings.weight",))]
    for index, spec in enumerate(config.layers()):
        assert isinstance(spec.mixer, Mamba2)
        ours, theirs = f"blocks.{index}.", f"backbone.layers.{index}."
        names = {
            "mixer_norm.weight": "norm.weight",
            "mixer.rate": "mixer.A_log",
            "mixer.skip": "mixer.D",
            "mixer.step_bias": "mixer.dt_bias",
            "mixer.input.weight": "mixer.in_proj.weight",
            "mixer.conv.weight": "mixer.conv1d.weight",
            "mixer.norm_weight": "mixer.norm.weight",
            "mixer.output.weight": "mixer.out_proj.weight",
        }
        if spec.mixer.conv_bias:
            names["mixer.conv.bias"] = "mixer.conv1d.bias"
        if spec.mixer.bias:
            names["mixer.input.bias"] = "mixer.in_proj.bias"
            names["mixer.output.bias"] = "mixer.out_proj.bias"
        found += [WeightRule(ours + here, (theirs + there,)) for here, there in names.items()]
    found.append(WeightRule("final_norm.weight", ("backbone.norm_f.weight",)))
    if not config.tie_embeddings:
        found.append(WeightRule("head.weight", ("lm_head.weight",)))
    return found


def _sized(hidden_size: int) -> Mamba2:
    return Mamba2(num_heads=hidden_size // 32, head_dim=64)


MAMBA2 = Family(
    model_type="mamba2",
    architecture="Mamba2ForCausalLM",
    prefix="backbone.",
    ignored=r"(?!)",  # none
    presets={
        "mamba2-tiny": published(Mamba2(num_heads=4, state_size=16), 64, 2, 512),
        "mamba2-130m": published(_sized(768), 768, 24, 50288),
        "mamba2-370m": published(_sized(1024), 1024, 48, 50288),
        "mamba2-780m": published(_sized(1536), 1536, 48, 50288),
        "mamba2-1.3b": published(_sized(2048), 2048, 48, 50288),
        "mamba2-2.7b": published(_sized(2560), 2560, 64, 50288),
        "mamba-codestral-7b": published(
            Mamba2(num_heads=128, head_dim=64, num_groups=8), 4096, 64, 32768, tie_embeddings=False
        ),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=rules,
)
