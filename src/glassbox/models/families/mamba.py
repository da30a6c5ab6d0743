"""Mamba: blocks of one mixer, a selective state space, and no feed-forward.

Source: Gu and Dao, arXiv:2312.00752. Tested against: transformers MambaForCausalLM, logits and
gradients.
"""

from __future__ import annotations

from typing import Any

from glassbox.layers.mamba import Mamba
from glassbox.layers.norms import RmsNorm
from glassbox.models.config import BlockSpec, Initialization, ModelConfig, Repeat
from glassbox.models.family import Family, HfConfig, WeightRule, uniform_block

CONTEXT_KEY = "max_position_embeddings"
"""No word of theirs says how long the sequences were; this one, of other families, keeps it."""


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """MambaConfig's keys. transformers insists on an inner size that is a multiple of hidden_size."""
    block = uniform_block(config)
    if block is None or not isinstance(block.mixer, Mamba) or not isinstance(block.norm, RmsNorm):
        return None
    mixer = block.mixer
    inner_size, step_rank = mixer.sizes(config.hidden_size)
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        CONTEXT_KEY: config.context_length,
        "state_size": mixer.state_size,
        "expand": inner_size // config.hidden_size,
        "intermediate_size": inner_size,
        "time_step_rank": step_rank,
        "conv_kernel": mixer.conv_taps,
        "use_conv_bias": mixer.conv_bias,
        "use_bias": mixer.bias,
        "hidden_act": "silu",
        "layer_norm_epsilon": block.norm.eps,
        "initializer_range": config.init.std,
        "residual_in_fp32": block.float32_residual,
        "tie_word_embeddings": config.tie_embeddings,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from MambaConfig's keys. Raises UserError for other activations."""
    raw.refuse_unless("hidden_act", ("silu",))
    hidden_size = raw.get("hidden_size", int)
    rank = None if raw.raw.get("time_step_rank") == "auto" else raw.find("time_step_rank", int)
    norm = RmsNorm(eps=raw.get("layer_norm_epsilon", float, 1e-5))
    mixer = Mamba(
        inner_size=raw.get("expand", int, 2) * hidden_size,
        state_size=raw.get("state_size", int, 16),
        step_rank=rank,
        conv_taps=raw.get("conv_kernel", int, 4),
        conv_bias=raw.get("use_conv_bias", bool, True),
        bias=raw.get("use_bias", bool, False),
    )
    return blocks_without_ffn(raw, mixer, norm, tie_embeddings=True)


def blocks_without_ffn(
    raw: HfConfig, mixer: Any, norm: RmsNorm, *, tie_embeddings: bool
) -> ModelConfig:
    """The model of equal blocks that are a mixer alone, from the words that Mamba and Mamba-2 share."""
    block = BlockSpec(
        mixer=mixer,
        ffn=None,
        norm=norm,
        float32_residual=raw.get("residual_in_fp32", bool, True),
    )
    return ModelConfig(
        vocab_size=raw.get("vocab_size", int),
        hidden_size=raw.get("hidden_size", int),
        context_length=raw.get(CONTEXT_KEY, int, 2048),
        blocks=(Repeat(block=block, times=raw.get("num_hidden_layers", int)),),
        final_norm=norm,
        tie_embeddings=raw.get("tie_word_embeddings", bool, tie_embeddings),
        init=Initialization(std=raw.get("initializer_range", float, 0.1), scale_residual=False),
    )


def mixer_rules(ours: str, theirs: str, mixer: Mamba) -> list[WeightRule]:
    """The weights of one mixer, under Mamba's names and Jamba's."""
    names = {
        "rate": "A_log",
        "skip": "D",
        "input.weight": "in_proj.weight",
        "conv.weight": "conv1d.weight",
        "select.weight": "x_proj.weight",
        "step_weight": "dt_proj.weight",
        "step_bias": "dt_proj.bias",
        "output.weight": "out_proj.weight",
    }
    if mixer.conv_bias:
        names["conv.bias"] = "conv1d.bias"
    if mixer.bias:
        names |= {"input.bias": "in_proj.bias", "output.bias": "out_proj.bias"}
    return [WeightRule(ours + here, (theirs + there,)) for here, there in names.items()]


def rules(config: ModelConfig) -> list[WeightRule]:
    """One to one."""
    found = [WeightRule("embedding.weight", ("backbone.embeddings.weight",))]
    for index, spec in enumerate(config.layers()):
        assert isinstance(spec.mixer, Mamba)
        ours, theirs = f"blocks.{index}.", f"backbone.layers.{index}."
        found.append(WeightRule(f"{ours}mixer_norm.weight", (f"{theirs}norm.weight",)))
        found += mixer_rules(f"{ours}mixer.", f"{theirs}mixer.", spec.mixer)
    found.append(WeightRule("final_norm.weight", ("backbone.norm_f.weight",)))
    if not config.tie_embeddings:
        found.append(WeightRule("head.weight", ("lm_head.weight",)))
    return found


def published(
    mixer: Any, hidden_size: int, num_layers: int, vocab_size: int, *, tie_embeddings: bool = True
) -> ModelConfig:
    """A model of Mamba's or Mamba-2's authors."""
    block = BlockSpec(mixer=mixer, ffn=None, float32_residual=True)
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        context_length=2048,
        blocks=(Repeat(block=block, times=num_layers),),
        tie_embeddings=tie_embeddings,
    )


MAMBA = Family(
    model_type="mamba",
    architecture="MambaForCausalLM",
    prefix="backbone.",
    ignored=r"(?!)",  # none
    presets={
        "mamba-tiny": published(Mamba(), 64, 2, 512),
        "mamba-130m": published(Mamba(), 768, 24, 50280),
        "mamba-370m": published(Mamba(), 1024, 48, 50280),
        "mamba-790m": published(Mamba(), 1536, 48, 50280),
        "mamba-1.4b": published(Mamba(), 2048, 48, 50280),
        "mamba-2.8b": published(Mamba(), 2560, 64, 50280),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=rules,
)
