"""Experts in Hugging Face's words: a matrix each in files, one stack here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glassbox.layers.attention import GroupedQuery
from glassbox.layers.experts import MixtureOfExperts
from glassbox.layers.feedforward import SwiGlu
from glassbox.layers.norms import RmsNorm
from glassbox.layers.rotary import Rotary
from glassbox.models.config import ModelConfig
from glassbox.models.families._rope import rotary_keys
from glassbox.models.families._shared import (
    attention_keys,
    attention_rules,
    gated_rules,
    model_words,
    norm_rules,
    outer_rules,
)
from glassbox.models.family import HfConfig, WeightRule


@dataclass(frozen=True)
class StackedRule(WeightRule):
    """Experts' matrices, stacked here along a first axis and stored apart there.

    Ours is (E, rows, columns); each expert's rows are cut into `sizes`. `theirs` are the parts of
    expert 0, then those of expert 1, and so on.
    """

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """The checkpoint's tensors, from ours, as views."""
        parts = [
            part
            for expert in tensor.unbind(0)
            for part in (expert.split(self.sizes) if self.sizes else (expert,))
        ]
        return dict(zip(self.theirs, parts, strict=True))

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Our tensors, from the checkpoint's."""
        each = len(self.sizes) or 1
        starts = range(0, len(parts), each)
        return torch.stack([torch.cat(list(parts[start : start + each])) for start in starts])


@dataclass(frozen=True)
class ExpertParts:
    """The kinds of part of a Llama-like model with experts, each as the first layer has it."""

    mixer: GroupedQuery
    norm: RmsNorm
    rotary: Rotary
    experts: MixtureOfExperts
    dense: SwiGlu | None


def expert_parts(config: ModelConfig) -> ExpertParts | None:
    """A model's parts, or None where one is of another kind or no layer has experts.

    What differs from layer to layer is the family's to write, as with `llama_parts`.
    """
    layers = config.layers()
    mixer, norm = layers[0].mixer, layers[0].norm
    if not isinstance(mixer, GroupedQuery) or not isinstance(norm, RmsNorm):
        return None
    if not isinstance(mixer.positions, Rotary) or mixer.resolved_head_dim(config.hidden_size) % 2:
        return None
    for layer in layers:
        if not isinstance(layer.mixer, GroupedQuery) or layer.residual != "pre":
            return None
        if not isinstance(layer.ffn, MixtureOfExperts | SwiGlu):
            return None
    experts = [layer.ffn for layer in layers if isinstance(layer.ffn, MixtureOfExperts)]
    dense = [layer.ffn for layer in layers if isinstance(layer.ffn, SwiGlu)]
    if not experts:
        return None
    return ExpertParts(mixer, norm, mixer.positions, experts[0], dense[0] if dense else None)


def expert_keys(config: ModelConfig, parts: ExpertParts) -> dict[str, Any]:
    """The words that every Llama-like family with experts has, but for widths and for how many."""
    return {
        **model_words(config),
        **attention_keys(config, parts.mixer),
        **rotary_keys(parts.rotary),
        "hidden_act": "silu",
        "rms_norm_eps": parts.norm.eps,
        "num_experts_per_tok": parts.experts.top_k,
        "router_aux_loss_coef": parts.experts.balance_loss,
    }


def read_num_experts(raw: HfConfig) -> int:
    """E, under the name in published files or the one that transformers 5 writes."""
    key = "num_experts" if raw.raw.get("num_experts") is not None else "num_local_experts"
    return raw.get(key, int)


def expert_model_rules(
    config: ModelConfig, theirs_ffn: str = "mlp.", **names: Any
) -> list[WeightRule]:
    """All of a Llama-like model whose layers have experts or a gated perceptron."""
    found = outer_rules(config)
    for index, layer in enumerate(config.layers()):
        ours, theirs = f"blocks.{index}.", f"model.layers.{index}."
        mixer, ffn = layer.mixer, layer.ffn
        assert isinstance(mixer, GroupedQuery)
        found += norm_rules(ours, theirs, layer)
        found += attention_rules(f"{ours}mixer.", f"{theirs}self_attn.", mixer, config.hidden_size)
        if isinstance(ffn, SwiGlu):
            found += gated_rules(f"{ours}ffn.", f"{theirs}{theirs_ffn}", ffn)
        else:
            assert isinstance(ffn, MixtureOfExperts)
            found += experts_rules(f"{ours}ffn.", f"{theirs}{theirs_ffn}", ffn, **names)
    return found


def experts_rules(
    ours: str,
    theirs: str,
    ffn: MixtureOfExperts,
    *,
    router: str = "gate.weight",
    parts: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    shared: str = "shared_expert",
    shared_gate: str = "shared_expert_gate.weight",
    balance_bias: str = "gate.e_score_correction_bias",
) -> list[WeightRule]:
    """The names that DeepSeek and Qwen have; `parts` are gate, up and down of an expert.

    `ours` is the feed-forward's name with its dot, as in "blocks.3.ffn.", `theirs` likewise.
    """
    gate, up, down = parts
    size, number = ffn.expert.size, range(ffn.num_experts)
    first = tuple(f"{theirs}experts.{e}.{part}.weight" for e in number for part in (gate, up))
    last = tuple(f"{theirs}experts.{e}.{down}.weight" for e in number)
    found = [
        WeightRule(f"{ours}router.weight", (f"{theirs}{router}",)),
        StackedRule(f"{ours}gate_up", first, (size, size)),
        StackedRule(f"{ours}down", last),
    ]
    if ffn.shared is not None:
        both = tuple(f"{theirs}{shared}.{part}.weight" for part in (gate, up))
        sizes = (ffn.shared, ffn.shared)
        found += [
            WeightRule(f"{ours}shared.gate_up.weight", both, sizes),
            WeightRule(f"{ours}shared.down.weight", (f"{theirs}{shared}.{down}.weight",)),
        ]
    if ffn.shared_gate:
        found.append(WeightRule(f"{ours}shared_gate.weight", (f"{theirs}{shared_gate}",)))
    if ffn.balance_bias:
        found.append(WeightRule(f"{ours}balance_bias", (f"{theirs}{balance_bias}",)))
    return found
