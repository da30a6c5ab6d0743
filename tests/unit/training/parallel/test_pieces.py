"""Parts of weights, and the names of layouts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glassbox.core.distributed import Group
from glassbox.core.errors import UserError
from glassbox.models.config import ModelConfig
from glassbox.training.parallel.config import ParallelConfig, parse_layout
from glassbox.training.parallel.pieces import Piece, Split, named_piece
from glassbox.training.parallel.tensor import check_divisible
from support.parallel_runs import config


@pytest.mark.parametrize("sections", [(8, 4, 4), (5, 3), (7,)])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_parts_join_to_the_whole(sections: tuple[int, ...], axis: int, ranks: int) -> None:
    size = sum(sections)
    whole = torch.randn(*((size, 3) if axis == 0 else (3, size)))
    split = Split(axis, sections)
    parts = [split.take(whole, rank, ranks) for rank in range(ranks)]
    assert sum(part.numel() for part in parts) == whole.numel()
    assert torch.equal(split.join(parts), whole)


def test_rows_are_divided_as_torch_chunk_does() -> None:
    for rows in (1, 2, 5, 8):
        whole = torch.arange(rows * 2).view(rows, 2)
        for ranks in (2, 3, 4):
            parts = [
                Piece(rows, Group(rank, ranks), None, Group()).own(whole) for rank in range(ranks)
            ]
            assert torch.equal(torch.cat(parts), whole)
            for part, chunk in zip(parts, whole.chunk(ranks), strict=False):
                assert torch.equal(part, chunk)


def test_state_belongs_to_the_weight_that_it_names() -> None:
    piece = Piece(4, Group(), None, Group())
    pieces = {"blocks.0.up.weight": piece}
    assert named_piece("0.first.blocks.0.up.weight", pieces) is piece
    assert named_piece("first.blocks.0.up.weight", pieces) is piece
    assert named_piece("first.blocks.0.down.weight", pieces) is None
    assert named_piece("first.value.blocks.0.up.weight", pieces) is None  # of a companion


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dp4", (1, 1, 4)),
        ("fsdp2", (2, 1, 2)),
        ("tp2", (1, 2, 2)),
        ("dp2xfsdp2xtp2", (2, 2, 8)),
    ],
)
def test_names_of_layouts(text: str, expected: tuple[int, int, int]) -> None:
    config, ranks = parse_layout(text)
    assert (config.fsdp, config.tensor, ranks) == expected


@pytest.mark.parametrize("text", ["", "pp2", "fsdp", "fsdp2xfsdp2", "dp2xzero2", "tp0"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="layout '"):
        parse_layout(text)


def test_zero_and_sharding_are_not_both() -> None:
    with pytest.raises(ValueError, match=r"parallel\.data = 'zero1'"):
        ParallelConfig(data="zero1", fsdp=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qk_norm_over": "all"}, "norm over all heads"),
        ({"positions": {"kind": "alibi"}}, "ALiBi"),
        ({"num_heads": 3, "num_kv_heads": 3}, "num_kv_heads = 3"),
    ],
)
def test_what_tensor_ranks_cannot_divide_is_named(changes: dict[str, Any], message: str) -> None:
    shape = config().model_dump(mode="json")
    shape["blocks"][0]["block"]["mixer"] |= changes
    with pytest.raises(UserError, match=message):
        check_divisible(ModelConfig.model_validate(shape), 2)


def test_experts_and_other_mixers_are_not_divided_over_tensor_ranks() -> None:
    with pytest.raises(UserError, match="no feed-forward 'experts'"):
        check_divisible(config(experts=True), 2)
    shape = config().model_dump(mode="json")
    shape["blocks"][0]["block"]["mixer"] = {"kind": "lightning", "num_heads": 2}
    with pytest.raises(UserError, match="no mixer 'lightning'"):
        check_divisible(ModelConfig.model_validate(shape), 2)
