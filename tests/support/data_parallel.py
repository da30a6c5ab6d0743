"""DataParallel against torch's DDP and against one process with the whole batch: two ranks of torchrun."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from glassbox.core.data_parallel import DataParallel
from glassbox.core.distributed import Group, process_group


class Tied(nn.Module):
    """Two uses of one matrix, a frozen layer, one that a rank may leave out, one that all leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.sometimes = nn.Linear(8, 8)
        self.never = nn.Linear(8, 8)
        self.last = nn.Linear(8, 6, bias=False)
        self.last.weight = nn.Parameter(self.first.weight.detach().t().clone())
        self.first_again = self.first

    def forward(self, x: Tensor, use: bool) -> Tensor:
        hidden = torch.tanh(self.frozen(torch.tanh(self.first(x))))
        if use:
            hidden = hidden + self.sometimes(hidden)
        return self.last(hidden) + self.first_again(x)[..., :6]


def model(seed: int) -> Tied:
    torch.manual_seed(seed)
    return Tied().double()


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def equal(ours: dict[str, Tensor], other: dict[str, Tensor], *, but: Sequence[str] = ()) -> None:
    other = {name: grad for name, grad in other.items() if not name.startswith(tuple(but))}
    assert ours.keys() == other.keys(), (sorted(ours), sorted(other))
    for name, grad in ours.items():
        assert torch.equal(grad, other[name]), name


def against_torch(group: Group, bucket_bytes: int, micro_batches: int) -> None:
    """To the bit: with two ranks both add the same two numbers, each halved before."""
    ours = DataParallel(model(group.rank), group, bucket_bytes=bucket_bytes)
    torchs = DistributedDataParallel(
        model(group.rank), find_unused_parameters=True, bucket_cap_mb=1e-4
    )
    assert ours.num_buckets > 1 or bucket_bytes > 1000
    for step in range(3):
        torch.manual_seed(100 * step + group.rank)
        xs = torch.randn(micro_batches, 4, 6, dtype=torch.float64)
        use = step == 1 or (step == 2 and group.rank == 1)
        for wrapper in (ours, torchs):
            wrapper.zero_grad()
            with wrapper.no_sync():
                for x in xs[:-1]:
                    wrapper(x, use).pow(2).mean().backward()
            wrapper(xs[-1], use).pow(2).mean().backward()
        ours.finish()
        # torch gives zeros to what no rank touched; ours leaves it without a gradient
        untouched = ("never",) if step else ("never", "sometimes")
        equal(gradients(ours.module), gradients(torchs.module), but=untouched)
        with torch.no_grad():
            for wrapper in (ours, torchs):
                for parameter in wrapper.module.parameters():
                    if parameter.grad is not None:
                        parameter.sub_(0.1 * parameter.grad)
    for one, two in zip(ours.module.parameters(), torchs.module.parameters(), strict=True):
        assert torch.equal(one, two)


def sums_of_unequal_shares(group: Group) -> None:
    """`reduce="sum"`: ranks with 1 and 3 rows give the whole batch's sum, but for rounding in float64."""
    torch.manual_seed(7)
    x = torch.randn(4, 6, dtype=torch.float64)
    rows = slice(0, 1) if group.rank == 0 else slice(1, 4)
    ours = DataParallel(model(group.rank), group, bucket_bytes=64, reduce="sum")
    ours(x[rows], True).pow(2).sum().backward()
    ours.finish()
    whole = model(0)
    whole(x, True).pow(2).sum().backward()
    expected = gradients(whole)
    for name, grad in gradients(ours.module).items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-12, atol=1e-12)


def sums_begin_during_backward(group: Group) -> None:
    """When the first layer's gradient arrives, the others' sums are under way."""
    torch.manual_seed(0)
    stack = nn.Sequential(*(nn.Linear(8, 8) for _ in range(5)))
    ours = DataParallel(stack, group, bucket_bytes=1)
    started: list[int] = []
    stack[0].weight.register_hook(lambda grad: started.append(ours.sums_started))
    ours(torch.randn(2, 8)).sum().backward()
    assert started[0] >= 8, started  # both parameters of the four later layers
    ours.finish()
    assert ours.sums_started == 0


def one_rank_touches_nothing(group: Group) -> None:
    ours = DataParallel(model(0), group)
    if group.rank == 0:
        ours(torch.ones(2, 6, dtype=torch.float64), False).sum().backward()
    ours.finish()
    mine = gradients(ours.module)
    assert "first.weight" in mine
    assert "never.weight" not in mine
    total = torch.stack([grad.sum() for grad in mine.values()])
    assert torch.equal(group.sum_(total.clone()), 2 * total)


def misuse_is_said(group: Group) -> None:
    ours = DataParallel(model(0), group)
    x = torch.ones(2, 6, dtype=torch.float64)

    def complaint(call: object) -> str:
        try:
            call()  # type: ignore[operator]
        except RuntimeError as error:
            return str(error)
        return ""

    losses = [ours(x, True).sum() for _ in range(2)]
    losses[0].backward()
    assert "no_sync" in complaint(losses[1].backward)
    assert "call finish()" in complaint(lambda: ours(x, True))
    with torch.no_grad():
        ours(x, True)
    ours.finish()
    ours(x, True)


def main() -> None:
    """Every check; an AssertionError on any rank ends all."""
    torch.set_num_threads(1)
    with process_group("cpu") as group:
        assert group.world_size == 2
        against_torch(group, 64, 1)
        against_torch(group, 25 << 20, 3)
        sums_of_unequal_shares(group)
        sums_begin_during_backward(group)
        one_rank_touches_nothing(group)
        misuse_is_said(group)


if __name__ == "__main__":
    sys.exit(main())
