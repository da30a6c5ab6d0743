"""Activation checkpointing: what a block keeps for the backward pass, and what it computes again."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

KEPT = (
    "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_scaled_mm",
    "aten::_scaled_dot_product_flash_attention", "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention", "aten::_scaled_dot_product_attention_math",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "_c10d_functional::reduce_scatter_tensor", "_c10d_functional::all_reduce",
)  # fmt: skip
"""Operations whose outputs `selective` keeps: matrix products, attention and sums over ranks."""


def recompute_blocks(
    blocks: Iterable[nn.Module], kind: Literal["none", "full", "selective"]
) -> None:
    """Let each of a model's blocks keep less for the backward pass, and compute the rest again there.

    full: a block keeps its input alone. selective: also the outputs of `KEPT`, the costly part of what
    would be computed again. Weights, names and the numbers of a step stay the same, to the bit; random
    numbers are drawn again from the same state. What a layer counts in its forward pass, such as the
    load of its experts, is counted once.
    Source: Chen et al., arXiv:1604.06174; selective: Korthikanti et al., arXiv:2205.05198, section 5.
    Tested against: the same steps without it.
    """
    if kind == "none":
        return
    for block in blocks:
        block.forward = _Recomputed(block, block.forward, kind)


class _Recomputed:
    """A block's forward pass, checkpointed while a graph is made."""

    def __init__(self, block: nn.Module, forward: Any, kind: str) -> None:
        self.block = block
        self.forward = forward
        self.kind = kind

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled() or not self.block.training:
            return self.forward(*inputs, **options)
        return checkpoint(
            self.forward, *inputs, use_reentrant=False, context_fn=self._contexts, **options
        )

    def _contexts(self) -> tuple[Any, Any]:
        if self.kind == "full":
            return contextlib.nullcontext(), self._once()
        first, second = create_selective_checkpoint_contexts(_policy)
        return first, self._once(second)

    @contextlib.contextmanager
    def _once(self, inside: Any = None) -> Iterator[None]:
        """Attributes that modules set in their forward pass are afterwards what they were before."""
        before = [(module, dict(vars(module))) for module in self.block.modules()]
        try:
            with inside or contextlib.nullcontext():
                yield
        finally:
            for module, attributes in before:
                for name, value in attributes.items():
                    if vars(module).get(name) is not value:
                        vars(module)[name] = value


@functools.lru_cache(maxsize=1)
def _kept() -> frozenset[Any]:
    found = set()
    for name in KEPT:
        space, _, operation = name.partition("::")
        packet = getattr(getattr(torch.ops, space), operation, None)
        if packet is not None:
            overloads = [getattr(packet, overload) for overload in packet.overloads()]
            # what writes into a given tensor must be done again
            found |= {one for one in overloads if not one._schema.is_mutable}
    return frozenset(found)


def _policy(_: Any, operation: Any, *inputs: Any, **options: Any) -> CheckpointPolicy:
    keep = operation in _kept()
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE
