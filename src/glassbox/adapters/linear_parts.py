"""A model's linear layers under Hugging Face names and splits, and target selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from glassbox.adapters.layers import AdaptedLinear, Base
from glassbox.core.errors import UserError
from glassbox.models.causal_lm import CausalLM
from glassbox.models.family import WeightRule


@dataclass(frozen=True)
class Part:
    """A linear layer of the Hugging Face model: a range of rows of one of our layers.

    order: for each row of the Hugging Face layer, the index of the row of ours. transposed: its
        weight is (in, out).
    """

    ours: str
    theirs: str
    order: Tensor
    transposed: bool = False

    @property
    def rows(self) -> tuple[int, int]:
        """The range of rows in our layer."""
        return int(self.order.min()), int(self.order.max()) + 1


def linear_parts(model: CausalLM) -> list[list[Part]]:
    """Every linear layer within the blocks, once for each family that can represent the model.

    The family of its files comes first: a Phi-3 model may also be a Llama, but its adapters use
    Phi-3's names. Layers that no family has are parts under our names.
    """
    from glassbox.models.families import FAMILIES  # thirty files that a recipe can be read without

    linears = {
        path: module.base if isinstance(module, AdaptedLinear) else module
        for path, module in model.named_modules()
        if path.startswith("blocks.") and isinstance(module, Base | AdaptedLinear)
    }
    linears = {path: m for path, m in linears.items() if not path.endswith(".base")}
    linears = {path: m for path, m in linears.items() if ".updates." not in path}
    families = [family for family in FAMILIES if family.to_hf_config(model.config) is not None]
    return [_parts_of(linears, family.rules(model.config)) for family in families] or [
        _parts_of(linears, [])
    ]


def _parts_of(linears: Mapping[str, Any], all_rules: Sequence[WeightRule]) -> list[Part]:
    rules = {rule.ours: rule for rule in all_rules}
    found = []
    for path, linear in linears.items():
        numbers = torch.arange(linear.out_features)
        rule = rules.get(f"{path}.weight")
        if rule is None:
            found.append(Part(path, path, numbers))
            continue
        pieces = {name: p.reshape(-1) for name, p in rule.split(numbers.unsqueeze(1)).items()}
        if any(int(p.max()) - int(p.min()) != len(p) - 1 for p in pieces.values()):
            found.append(Part(path, path, numbers))  # cut otherwise than in ranges of rows
            continue
        found += [
            Part(path, theirs.removesuffix(".weight"), order, rule.transpose)
            for theirs, order in pieces.items()
        ]
    return found


def select_parts(dialects: Sequence[Sequence[Part]], targets: Sequence[str]) -> list[Part]:
    """Select the layers that targets name. Raises UserError for a target that matches none."""
    chosen: dict[tuple[str, str], Part] = {}
    for target in targets:
        named = next(
            (named for parts in dialects if (named := [p for p in parts if _names(target, p)])), []
        )
        if not named:
            parts = dialects[0]
            known = sorted({p.theirs.rpartition(".")[2] for p in parts} | {
                p.ours.rpartition(".")[2] for p in parts})  # fmt: skip
            raise UserError(
                f"adapter target '{target}' names no linear layer of the blocks; "
                f"there are: all-linear, {', '.join(known)}"
            )
        chosen |= {(part.ours, part.theirs): part for part in named}
    return list(chosen.values())


def _names(target: str, part: Part) -> bool:
    if target == "all-linear":
        return not is_router(part.ours)
    return any(
        name == target
        or name.endswith(f".{target}")
        or (any(sign in target for sign in "*?[") and fnmatchcase(name, target))
        for name in (part.ours, part.theirs)
    )


def is_router(path: str) -> bool:
    """Whether a linear layer chooses experts: it is not adapted unless named."""
    return path.endswith(".router")
