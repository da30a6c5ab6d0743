"""Exercise 15.3: weights as 4-bit codes with a scale for each block."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both
from glassbox.ops.quantization import quantize_blocks as real_blocks


def quantize_blocks(x: Tensor, levels: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Codes and scales of numbers: each block's numbers, divided by its scale, become the nearest level.

    x: (N,), N a multiple of `block`. levels: (L,), increasing, from -1 to 1. The scale of a block is its largest
    absolute value. Returns codes (N,), the levels' numbers, and scales (N / block,). A block of zeros has scale 0,
    and the code of the level nearest to 0.
    """
    blocks = x.view(-1, block)
    scales = blocks.abs().amax(dim=1)
    safe = torch.where(scales > 0, scales, torch.ones_like(scales))
    scaled = blocks / safe.unsqueeze(1)
    distance = (scaled.unsqueeze(-1) - levels).abs()
    return distance.argmin(dim=-1).flatten(), scales


def oracle(x: Tensor, levels: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Ours."""
    found = real_blocks(x, levels, block)
    return found.codes.long(), found.scales


def cases() -> list[Case]:
    """Few levels and one block first; then uneven levels, unlike blocks, negative ones, and one of zeros."""
    draw = torch.Generator().manual_seed(153)
    three = torch.tensor([-1.0, 0.0, 1.0])
    uneven = torch.tensor([-1.0, -0.5, -0.2, 0.0, 0.1, 0.3, 0.6, 1.0])
    found = [
        Case((torch.tensor([1.0, -0.7, 0.2]), three, 3)),
        Case((torch.tensor([0.1, 2.0, -4.0, 1.1]), uneven, 4)),
        Case((torch.tensor([0.3, -0.9, -6.0, 2.5]), uneven, 2)),
        Case((torch.tensor([0.0, 0.0, 5.0, -1.3]), uneven, 2)),
    ]
    for count, block in ((12, 4), (24, 8)):
        sizes = torch.logspace(-1, 1, count // block).repeat_interleave(block)
        found.append(Case((torch.randn(count, generator=draw) * sizes, uneven, block)))
    return found


EXERCISE = Exercise(
    number="15.3",
    title=Both("Codes and scales", "编码与缩放系数"),
    statement=Both(
        "QLoRA stores a weight as the number of a level, and one scale for each block. Compute both for numbers `x` (N,): scale by the block's largest "
        "absolute value, then take the nearest level. Return (codes, scales).",
        "QLoRA 用量化级的序号来存权重，每块共用一个缩放系数。请为数列 `x`（N,）算出这两者：按块内最大绝对值缩放，再取最近的量化级。"
        "返回 (codes, scales)。",
    ),
    solution=(quantize_blocks,),
    oracle={"quantize_blocks": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "rounded_down",
            Both(
                "a number gets the level below it, not the nearest: all weights become a little smaller",
                "取的是下方的量化级，而不是最近的：所有权重都偏小了一点",
            ),
            edits=(
                ("    distance = (scaled.unsqueeze(-1) - levels).abs()\n", ""),
                (
                    "distance.argmin(dim=-1).flatten()",
                    "(torch.bucketize(scaled, levels, right=True) - 1).flatten()",
                ),
            ),
        ),
        Mistake(
            "one_scale",
            Both(
                "one scale serves all blocks: a single outlier makes everything else coarse",
                "所有块共用了一个缩放系数：一个离群值就让其余的都变粗糙",
            ),
            edits=(("blocks.abs().amax(dim=1)", "blocks.abs().amax().expand(len(blocks))"),),
        ),
        Mistake(
            "largest_without_sign",
            Both(
                "the scale is the largest number, not the largest absolute value: blocks with a large negative number are cut off",
                "缩放系数取了最大值，而不是最大绝对值：含有很大负数的块会被截断",
            ),
            edits=(("blocks.abs().amax(dim=1)", "blocks.amax(dim=1)"),),
        ),
        Mistake(
            "mean_scale",
            Both(
                "the scale is the mean of the absolute values: larger numbers are cut off at the last level",
                "缩放系数取了绝对值的平均：较大的数都被截到最外侧的量化级",
            ),
            edits=(("blocks.abs().amax(dim=1)", "blocks.abs().mean(dim=1)"),),
        ),
        Mistake(
            "not_scaled",
            Both(
                "the numbers are compared with the levels without being divided by their scale",
                "数没有除以缩放系数，就直接与量化级比较",
            ),
            edits=(("blocks / safe.unsqueeze(1)", "blocks"),),
        ),
        Mistake(
            "equally_spaced",
            Both(
                "the code is computed as if the levels were equally spaced; look at `levels`",
                "按等间距计算了编码；量化级要看 `levels`",
            ),
            edits=(
                ("    distance = (scaled.unsqueeze(-1) - levels).abs()\n", ""),
                (
                    "distance.argmin(dim=-1).flatten()",
                    "((scaled + 1) / 2 * (len(levels) - 1)).round().long().flatten()",
                ),
            ),
        ),
        Mistake(
            "zeros_divided",
            Both(
                "a block of zeros is divided by its scale, 0 / 0, and gets an arbitrary code: pruned weights come back as large ones",
                "全零的块除以缩放系数是 0 / 0，得到任意编码：剪掉的权重还原成了很大的数",
            ),
            edits=(("torch.where(scales > 0, scales, torch.ones_like(scales))", "scales"),),
        ),
        Mistake(
            "blocks_interleaved",
            Both(
                "blocks take every so-many-th number; neighbours belong together",
                "块里取的是间隔的数；相邻的数才属于同一块",
            ),
            edits=(
                ("x.view(-1, block)", "x.view(block, -1).T"),
                ("argmin(dim=-1).flatten()", "argmin(dim=-1).T.flatten()"),
            ),
        ),
    ),
    hints=(
        Both("View x as (blocks, block). Which axis does the maximum run over?", "把 x 看成 (N // block, block) 的表。最大值沿哪一维取？"),
        Both(
            "Subtract all levels from each number: a table of distances. argmin gives the code.",
            "每个数减去所有量化级，得到距离表，argmin 就是编码。",
        ),
        Both("What does 0 / 0 give, and what does argmin make of it?", "0 / 0 得到什么？argmin 会怎么处理它？"),
    ),
    imports="import torch\nfrom torch import Tensor\n",
)  # fmt: skip
