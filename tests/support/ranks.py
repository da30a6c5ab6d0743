"""What a process group must do, checked on every rank: started by torchrun with two ranks."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from glassbox.core.distributed import Group, process_group
from glassbox.data.loader import TokenBatch
from glassbox.models.causal_lm import CausalLM
from glassbox.optim.adamw import AdamW
from glassbox.optim.groups import decay_groups
from glassbox.training.next_token import NextToken
from glassbox.training.protocols import ObjectiveOutput
from support.tiny_run import TinyRun, tiny_model, tiny_rows, tiny_trainer


def main(folder: Path) -> None:
    """Every check; an AssertionError on any rank ends all."""
    torch.set_num_threads(1)
    with process_group("cpu") as group:
        rank, size = group.rank, group.world_size
        assert size == 2
        assert torch.equal(
            group.sum_(torch.tensor([1.0, rank])), torch.tensor([size, sum(range(size))])
        )
        assert group.any(rank == size - 1)
        assert not group.any(False)
        tensors = [torch.full((3, 2), float(rank)), torch.tensor([float(rank)]), torch.ones(5)]
        for bucket_bytes in (1, 8, 1 << 20):
            copies = [tensor.clone() for tensor in tensors]
            group.sum_gradients_(copies, bucket_bytes=bucket_bytes)
            for copy, tensor in zip(copies, tensors, strict=True):
                expected = sum(range(size)) if tensor.numel() != 5 else size
                assert torch.equal(copy, torch.full_like(copy, float(expected))), bucket_bytes
        own = torch.full((4,), float(rank + 1))
        group.broadcast_([own])
        assert torch.equal(own, torch.ones(4))
        group.barrier()
        only_one_rank_touches_a_parameter(folder, group)


def only_one_rank_touches_a_parameter(folder: Path, group: Group) -> None:
    """Its gradient reaches the other ranks, and a parameter that none touches is left alone."""

    class Extra(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Parameter(torch.ones(2))
            self.unused = nn.Parameter(torch.ones(2))

    extra = Extra()

    class Objective:
        def __call__(self, model: CausalLM, batch: TokenBatch) -> ObjectiveOutput:
            output = NextToken()(model, batch)
            if group.rank == 1:
                output.loss_sum = output.loss_sum + 100 * extra.used.sum()
            return output

    if group.is_main:
        tiny_rows(folder)
    group.barrier()
    model = tiny_model()
    named = [*model.named_parameters(), *extra.named_parameters()]
    optimizer = AdamW(decay_groups(named, 0.1))
    trainer = tiny_trainer(
        folder,
        TinyRun(steps=2, dropout=0.0),
        group=group,
        model=model,
        optimizer=optimizer,
        objective=Objective(),
    )
    trainer.run()
    both: Tensor = torch.stack([extra.used.detach().sum(), extra.unused.detach().sum()])
    assert both[0] < 2.0
    assert both[1] == 2.0
    assert torch.equal(group.sum_(both.clone()), group.world_size * both)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
