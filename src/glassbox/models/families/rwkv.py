"""RWKV-4: recurrent time mixing and channel mixing, both with a token shift, LayerNorm throughout.

Source: Peng et al., arXiv:2305.13048. Tested against: transformers RwkvForCausalLM, logits and
gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from glassbox.layers.norms import LayerNorm
from glassbox.layers.rwkv import RwkvChannel, RwkvTime
from glassbox.models.config import BlockSpec, Initialization, ModelConfig, Repeat
from glassbox.models.family import Family, HfConfig, WeightRule, uniform_block

FINAL_NORM = LayerNorm(eps=1e-5)
"""The last norm of transformers' takes no epsilon from the config."""


@dataclass(frozen=True)
class VectorRule(WeightRule):
    """A vector of ours that is (1, 1, D) there."""

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """The checkpoint's tensors, from ours, as views."""
        return {self.theirs[0]: tensor.view(1, 1, -1)}

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Our tensors, from the checkpoint's."""
        return parts[0].reshape(-1)


def write_hf_config(config: ModelConfig) -> dict[str, Any] | None:
    """RwkvConfig's keys.

    `rescale_every` halves the residual stream every so many layers when transformers runs a model,
    against overflow in float16; before a LayerNorm that changes nothing but the weight of its
    epsilon. Ours has no such thing, so 0 there is the same function.
    """
    block = uniform_block(config)
    if block is None or not isinstance(block.mixer, RwkvTime):
        return None
    if not isinstance(block.ffn, RwkvChannel) or not isinstance(block.norm, LayerNorm):
        return None
    return {
        "vocab_size": config.vocab_size,
        "context_length": config.context_length,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "attention_hidden_size": config.hidden_size,
        "intermediate_size": block.ffn.size,
        "layer_norm_epsilon": block.norm.eps,
        "rescale_every": 0,
        "tie_word_embeddings": config.tie_embeddings,
    }


def read(raw: HfConfig) -> ModelConfig:
    """ModelConfig from RwkvConfig's keys; `rescale_every` is for float16 alone and has no counterpart.

    Raises UserError for an attention of another width, which transformers cannot run with its state.
    """
    hidden_size = raw.get("hidden_size", int)
    raw.refuse_unless("attention_hidden_size", (hidden_size,))
    norm = LayerNorm(eps=raw.get("layer_norm_epsilon", float, 1e-5))
    block = BlockSpec(
        mixer=RwkvTime(size=hidden_size),
        ffn=RwkvChannel(size=raw.get("intermediate_size", int, 4 * hidden_size)),
        norm=norm,
    )
    return _model(
        block,
        vocab_size=raw.get("vocab_size", int),
        hidden_size=hidden_size,
        num_layers=raw.get("num_hidden_layers", int),
        context_length=raw.get("context_length", int, 1024),
        tie_embeddings=raw.get("tie_word_embeddings", bool, False),
    )


def _model(
    block: BlockSpec,
    *,
    vocab_size: int,
    hidden_size: int,
    num_layers: int,
    context_length: int = 1024,
    tie_embeddings: bool = False,
) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        context_length=context_length,
        blocks=(Repeat(block=block, times=num_layers),),
        final_norm=FINAL_NORM,
        embedding_norm=block.norm,
        tie_embeddings=tie_embeddings,
        init=Initialization(scale_residual=False),
    )


def rules(config: ModelConfig) -> list[WeightRule]:
    """One to one; the norm of the embedding is their first block's."""

    def both(ours: str, theirs: str) -> list[WeightRule]:
        return [WeightRule(f"{ours}.{kind}", (f"{theirs}.{kind}",)) for kind in ("weight", "bias")]

    found = [
        WeightRule("embedding.weight", ("rwkv.embeddings.weight",)),
        *both("embedding_norm", "rwkv.blocks.0.pre_ln"),
        *both("final_norm", "rwkv.ln_out"),
    ]
    for index in range(config.num_layers):
        ours, theirs = f"blocks.{index}.", f"rwkv.blocks.{index}."
        found += both(f"{ours}mixer_norm", f"{theirs}ln1") + both(f"{ours}ffn_norm", f"{theirs}ln2")
        for branch, there, matrices in (
            ("mixer", "attention", ("key", "value", "receptance", "output")),
            ("ffn", "feed_forward", ("key", "value", "receptance")),
        ):
            shares = ("key", "value", "receptance") if branch == "mixer" else ("key", "receptance")
            found += [
                WeightRule(f"{ours}{branch}.{name}.weight", (f"{theirs}{there}.{name}.weight",))
                for name in matrices
            ]
            found += [
                VectorRule(f"{ours}{branch}.mix_{name}", (f"{theirs}{there}.time_mix_{name}",))
                for name in shares
            ]
        found += [
            WeightRule(f"{ours}mixer.decay", (f"{theirs}attention.time_decay",)),
            WeightRule(f"{ours}mixer.bonus", (f"{theirs}attention.time_first",)),
        ]
    if not config.tie_embeddings:
        found.append(WeightRule("head.weight", ("head.weight",)))
    return found


def _published(hidden_size: int, num_layers: int, vocab_size: int = 50277) -> ModelConfig:
    block = BlockSpec(mixer=RwkvTime(), ffn=RwkvChannel(size=4 * hidden_size), norm=FINAL_NORM)
    return _model(block, vocab_size=vocab_size, hidden_size=hidden_size, num_layers=num_layers)


RWKV = Family(
    model_type="rwkv",
    architecture="RwkvForCausalLM",
    prefix="rwkv.",
    ignored=r"head\.weight",  # the embedding's copy, where they are tied
    presets={
        "rwkv-tiny": _published(64, 2, 512),
        "rwkv-4-169m": _published(768, 12),
        "rwkv-4-430m": _published(1024, 24),
        "rwkv-4-1b5": _published(2048, 24),
        "rwkv-4-3b": _published(2560, 32),
        "rwkv-4-7b": _published(4096, 32),
        "rwkv-4-14b": _published(5120, 40),
    },
    write_hf_config=write_hf_config,
    read=read,
    rules=rules,
)
