"""Experts in Hugging Face's words: a matrix each in files, one stack here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from glassbox.layers.experts import MixtureOfExperts
from glassbox.models.family import WeightRule


@dataclass(frozen=True)
class StackedRule(WeightRule):
    """Experts' matrices, stacked here along a first axis and stored apart there.

    Ours is (E, rows, columns); each expert's rows are cut into `sizes`. `theirs` are the parts of
    expert 0, then those of expert 1, and so on.
    """

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """Theirs from ours, as views."""
        parts = [
            part
            for expert in tensor.unbind(0)
            for part in (expert.split(self.sizes) if self.sizes else (expert,))
        ]
        return dict(zip(self.theirs, parts, strict=True))

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Ours from theirs."""
        each = len(self.sizes) or 1
        starts = range(0, len(parts), each)
        return torch.stack([torch.cat(list(parts[start : start + each])) for start in starts])


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
