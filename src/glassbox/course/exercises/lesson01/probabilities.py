"""Exercise 1.2: from counts to smoothed probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def probabilities(counts: Tensor, alpha: float) -> Tensor:
    """p(b | a) with alpha added to every count.

    counts: (V, V), entry [a, b] says how often b followed a. Returns (V, V) whose rows sum to 1.
    """
    smoothed = counts + alpha
    return smoothed / smoothed.sum(dim=1, keepdim=True)


def oracle(counts: Tensor, alpha: float) -> Tensor:
    """Entry by entry: (n_ab + alpha) / (n_a + alpha V)."""
    size = len(counts)
    rows = [
        [(n + alpha) / (sum(row) + alpha * size) for n in row] for row in counts.double().tolist()
    ]
    return torch.tensor(rows).float()


def cases() -> list[Case]:
    """Small tables, one with a row of zeros, and several values of alpha."""
    draw = torch.Generator().manual_seed(12)
    found = [
        Case((torch.tensor([[1.0, 3.0], [2.0, 0.0]]), 1.0)),
        Case((torch.tensor([[4.0, 0.0, 1.0], [0.0, 0.0, 0.0], [2.0, 2.0, 5.0]]), 0.5)),
    ]
    for size, alpha in ((3, 0.1), (5, 2.0)):
        found.append(Case((torch.randint(9, (size, size), generator=draw).float(), alpha)))
    return found


EXERCISE = Exercise(
    number="1.2",
    title=Both("Probabilities that are never zero", "不为零的概率"),
    statement=Both(
        "Turn counts into probabilities p(b | a). Add alpha to every count first, so that a pair that was never "
        "seen is unlikely but not impossible; each row then sums to 1.",
        "把计数变成概率 p(b | a)。先给每个计数加上 alpha，没见过的对因此概率很小但不为零；每行之和为 1。",
    ),
    solution=(probabilities,),
    oracle={"probabilities": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "columns_sum_to_one",
            Both(
                "the columns sum to 1, not the rows: each row is the distribution of what follows one id",
                "归一化的是列而不是行：每一行才是某个编号之后的分布",
            ),
            edits=(("sum(dim=1, keepdim=True)", "sum(dim=0, keepdim=True)"),),
        ),
        Mistake(
            "divided_by_column_vector",
            Both(
                "the row sums are divided along the wrong axis: without keepdim, entry [a, b] is divided by the sum of row b",
                "行和沿错了维度：没有 keepdim 时，[a, b] 被第 b 行的和去除了",
            ),
            edits=(("sum(dim=1, keepdim=True)", "sum(dim=1)"),),
        ),
        Mistake(
            "table_sums_to_one",
            Both(
                "the whole table sums to 1: these are p(a, b), not p(b | a)",
                "整张表之和为 1：这是联合概率 p(a, b)，不是条件概率 p(b | a)",
            ),
            edits=(("sum(dim=1, keepdim=True)", "sum()"),),
        ),
        Mistake(
            "alpha_only_on_top",
            Both(
                "alpha is in the numerator alone, so that rows sum to more than 1",
                "alpha 只加在了分子上，行和大于 1",
            ),
            edits=(("/ smoothed.sum(", "/ counts.sum("),),
        ),
        Mistake(
            "alpha_once_below",
            Both(
                "the denominator grows by alpha once; alpha was added to each of the V entries of the row",
                "分母只加了一次 alpha；一行有 V 项，每项都加了 alpha",
            ),
            edits=(
                ("smoothed.sum(dim=1, keepdim=True)", "(counts.sum(dim=1, keepdim=True) + alpha)"),
            ),
        ),
        Mistake(
            "not_smoothed",
            Both(
                "alpha is not used: pairs that were never seen have probability 0",
                "没有用到 alpha：没见过的对概率为 0",
            ),
            edits=(("counts + alpha", "counts"),),
        ),
        Mistake(
            "softmax_of_counts",
            Both(
                "this is the softmax of the counts; a share is a count over the sum of counts",
                "这是对计数做 softmax；比例应当是计数除以计数之和",
            ),
            edits=(("smoothed / smoothed.sum(dim=1, keepdim=True)", "smoothed.softmax(dim=1)"),),
        ),
    ),
    hints=(
        Both(
            "Check on paper: what must each row sum to, and each column?",
            "在纸上想一想：每行之和应为多少？每列呢？",
        ),
        Both(
            "Add first, then sum the table you have just made; keepdim=True keeps the sums as a column.",
            "先加，再对加完的表求和；keepdim=True 让和保持为一列。",
        ),
    ),
    imports="import torch\nfrom torch import Tensor\n",
)
