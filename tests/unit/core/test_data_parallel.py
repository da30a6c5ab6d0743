"""DataParallel alone: with one rank it is the module itself. Two ranks: tests/system/test_training_ranks.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from glassbox.core.data_parallel import DataParallel, _buckets
from glassbox.core.distributed import Group


def test_one_rank_changes_nothing() -> None:
    torch.manual_seed(0)
    module, x = nn.Linear(4, 3), torch.randn(2, 4)
    module(x).sum().backward()
    expected = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    module.zero_grad()
    parallel = DataParallel(module, Group())
    for _ in range(2):
        parallel.zero_grad()
        parallel(x).sum().backward()
        parallel.finish()
        for parameter, grad in zip(module.parameters(), expected, strict=True):
            assert parameter.grad is not None
            assert torch.equal(parameter.grad, grad)


def test_buckets_hold_neighbours_of_one_dtype() -> None:
    sizes = [4, 4, 4, 4, 4]
    parameters = [
        nn.Parameter(torch.zeros(n, dtype=torch.float32 if i < 3 else torch.float64))
        for i, n in enumerate(sizes)
    ]
    assert [len(b) for b in _buckets(parameters, 32)] == [2, 1, 1, 1]
    assert [len(b) for b in _buckets(parameters, 1 << 20)] == [3, 2]
    assert [len(b) for b in _buckets(parameters, 1)] == [1] * 5


@pytest.mark.parametrize(
    ("options", "key"), [({"reduce": "max"}, "reduce"), ({"bucket_bytes": 0}, "bucket_bytes")]
)
def test_wrong_options_are_named(options: Any, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        DataParallel(nn.Linear(2, 2), Group(), **options)
