"""Exercise 13.2: which blocks a query reads."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def select_blocks(importance: Tensor, position: int, block: int, count: int) -> list[int]:
    """The blocks that the query at `position` reads, in increasing order; at most `count` of them.

    importance: (C,), one number for each block of `block` positions, those after the query among them. Block 0
    and the query's own block are always read and are counted; the rest are the earlier blocks with the highest
    importance, of equal ones the earlier block. No block after the query's own is read. count >= 2.
    """
    own = position // block
    scores = importance.tolist()
    fixed = {0, own}
    others = [number for number in range(own) if number not in fixed]
    others.sort(key=lambda number: -scores[number])
    return sorted(fixed | set(others[: count - len(fixed)]))


def oracle(importance: Tensor, position: int, block: int, count: int) -> list[int]:
    """By sorting all blocks at once, with infinite importance for the fixed ones."""
    scores = importance.double().clone()
    own = position // block
    scores[0] = scores[own] = math.inf
    order = scores[: own + 1].sort(descending=True, stable=True).indices
    return sorted(order[:count].tolist())


def cases() -> list[Case]:
    """The first block, few blocks, ties, and important blocks at the start, at the query and after it."""
    draw = torch.Generator().manual_seed(132)
    found = [
        Case((torch.tensor([0.5, 0.5]), 1, 2, 2)),
        Case((torch.tensor([0.1, 0.2, 0.3, 0.9]), 5, 2, 2)),
        Case((torch.tensor([0.1, 0.5, 0.2, 0.1, 0.8]), 7, 2, 3)),
        Case((torch.tensor([0.9, 0.1, 0.3, 0.3, 0.3, 0.2]), 16, 3, 4)),
        Case((torch.tensor([0.0, 0.4, 0.2, 0.4, 0.1, 0.9, 0.0]), 20, 4, 4)),
    ]
    for length, position, block, count in (
        (6, 3, 1, 2),
        (6, 3, 1, 4),
        (9, 31, 4, 5),
        (12, 35, 3, 4),
    ):
        found.append(Case((torch.rand(length, generator=draw), position, block, count)))
    return found


EXERCISE = Exercise(
    number="13.2",
    title=Both("Blocks to read", "选择要读的块"),
    statement=Both(
        "The second branch of NSA reads whole blocks. Choose them for one query: the first block and the query's own always, and then the earlier "
        "ones with the highest importance, `count` in all. Return their numbers in increasing order.",
        "NSA 的第二个分支完整读取若干块。请为一个查询选块：第一块和查询所在的块必选，其余取之前重要性最高的块，"
        "总共 `count` 个。按从小到大返回块的编号。",
    ),
    solution=(select_blocks,),
    oracle={"select_blocks": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "future_read",
            Both(
                "blocks after the query's own can be chosen: their importance must not count",
                "查询之后的块也可能被选中：它们的重要性不应参与比较",
            ),
            edits=(("range(own) if", "range(len(scores)) if"),),
        ),
        Mistake(
            "own_left_out",
            Both(
                "the query's own block is read only if it is important; its summary is incomplete, so its importance is zero there",
                "查询自己的块只在重要性高时才读；而它还不完整，没有摘要，重要性就是零",
            ),
            edits=(("fixed = {0, own}", "fixed = {0}"), ("range(own) if", "range(own + 1) if")),
        ),
        Mistake(
            "first_left_out",
            Both(
                "the first block is read only if it is important; it always is read (models put much weight on the first tokens)",
                "第一块只在重要性高时才读；它应当必选（模型会把大量权重放在最前面的词元上）",
            ),
            edits=(("fixed = {0, own}", "fixed = {own}"),),
        ),
        Mistake(
            "fixed_not_counted",
            Both(
                "the fixed blocks come on top of `count`: more keys are read than was agreed",
                "必选的块没有计入 `count`：读取的键比约定的多",
            ),
            edits=(("count - len(fixed)", "count"),),
        ),
        Mistake(
            "lowest",
            Both("the blocks of lowest importance are chosen", "选成了重要性最低的块"),
            edits=(("-scores[number]", "scores[number]"),),
        ),
        Mistake(
            "nearest",
            Both(
                "the nearest blocks are chosen, whatever their importance: that is a window",
                "不看重要性，只选了最近的块：这就成了窗口",
            ),
            edits=(("-scores[number]", "-number"),),
        ),
        Mistake(
            "own_by_rounding_up",
            Both(
                "the query's block is one too late: position p lies in block p // block",
                "查询所在的块算晚了一个：位置 p 在第 p // block 块",
            ),
            edits=(
                (
                    "own = position // block",
                    "own = min(position // block + 1, len(importance) - 1)",
                ),
            ),
        ),
        Mistake(
            "ties_later",
            Both(
                "of equally important blocks the later one is chosen; agree on the earlier, so that a cache changes nothing",
                "重要性相同时选了靠后的块；约定取靠前的，这样有没有缓存结果都一样",
            ),
            edits=(("-scores[number])", "(-scores[number], -number))"),),
        ),
    ),
    hints=(
        Both(
            "Begin with the set of fixed blocks. How many are left to choose?",
            "先列出必选的块。还剩几个名额？",
        ),
        Both(
            "Are there one or two fixed blocks? A query in block 0 has only one.",
            "必选的块是一个还是两个？位于第 0 块的查询只有一个。",
        ),
        Both(
            "Python's sort is stable: sorting by minus the importance leaves equal ones in their order.",
            "Python 的排序是稳定的：按重要性的相反数排序，相等者保持原来的先后。",
        ),
    ),
    imports="import torch\nfrom torch import Tensor\n",
)
