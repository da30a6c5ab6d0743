"""Activation checkpointing: the same numbers to the bit, fewer tensors kept, counts once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glassbox.core.distributed import Group
from glassbox.data.loader import TokenBatch
from glassbox.models.causal_lm import CausalLM
from glassbox.training.next_token import NextToken
from glassbox.training.parallel.recompute import recompute_blocks
from support.parallel_runs import config
from support.tiny_run import tiny_rows


def gradients(model: CausalLM, batch: TokenBatch) -> tuple[list[torch.Tensor], int]:
    """Gradients of one pass with dropout, and the bytes that were kept for it."""
    torch.manual_seed(1)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = NextToken()(model, batch)
    output.loss_sum.backward()
    return [p.grad for p in model.parameters() if p.grad is not None], sum(kept.values())


@pytest.mark.parametrize("experts", [False, True])
def test_gradients_are_the_same_to_the_bit_and_less_is_kept(tmp_path: Any, experts: bool) -> None:
    shape = config(experts=experts).model_copy(update={"dropout": 0.1})
    batch = tiny_rows(tmp_path).batch(range(4))
    found, sizes = {}, {}
    for kind in ("none", "selective", "full"):
        torch.manual_seed(0)
        model = CausalLM(shape).train()
        recompute_blocks(model.blocks, kind)  # type: ignore[arg-type]
        found[kind], sizes[kind] = gradients(model, batch)
        for layer in model.modules():
            if hasattr(layer, "after_step"):  # loads are not counted twice
                assert int(layer._pending_load.sum()) == 2 * batch.ids.numel()
                layer.after_step(Group(), taken=True)
    for kind in ("selective", "full"):
        assert len(found[kind]) == len(found["none"])
        assert all(map(torch.equal, found[kind], found["none"]))
    assert sizes["full"] < 0.5 * sizes["none"]


def test_evaluation_and_names_are_untouched(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = CausalLM(config())
    names = [name for name, _ in model.named_parameters()]
    batch = tiny_rows(tmp_path).batch(range(2))
    with torch.no_grad():
        before = model(batch.ids)
    recompute_blocks(model.blocks, "full")
    assert [name for name, _ in model.named_parameters()] == names
    with torch.no_grad():
        assert torch.equal(model.eval()(batch.ids), before)
