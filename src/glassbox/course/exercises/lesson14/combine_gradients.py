"""Exercise 14.2: the gradient of the whole batch from those of the ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def combine_gradients(gradients: Tensor, counts: Tensor) -> Tensor:
    """The gradient of the mean loss over all tokens.

    gradients: (R, P), of each rank's mean loss over its own tokens. counts: (R,), the tokens of each rank; a rank
    without tokens divided zero by zero, and its gradient is NaN. At least one rank has tokens. Returns (P,).
    """
    weights = counts.to(gradients.dtype)
    there = counts > 0
    sums = gradients[there] * weights[there].unsqueeze(1)
    return sums.sum(dim=0) / weights.sum()


def oracle(gradients: Tensor, counts: Tensor) -> Tensor:
    """Token by token."""
    rows = [
        gradient
        for gradient, count in zip(gradients, counts.tolist(), strict=True)
        for _ in range(count)
    ]
    return torch.stack(rows).double().mean(dim=0).float()


def cases() -> list[Case]:
    """Equal counts, unequal counts, and ranks without tokens."""
    draw = torch.Generator().manual_seed(142)
    found = []
    for counts, size in (
        ([2], 2),
        ([3, 3], 2),
        ([1, 3], 3),
        ([8, 2, 5], 4),
        ([4, 0], 2),
        ([0, 7, 0, 2], 5),
    ):
        gradients = torch.randn(len(counts), size, generator=draw)
        gradients[torch.tensor(counts) == 0] = float("nan")
        found.append(Case((gradients, torch.tensor(counts))))
    return found


EXERCISE = Exercise(
    number="14.2",
    title=Both("Gradients of several ranks", "合并各进程的梯度"),
    statement=Both(
        "In data parallelism every rank has computed the gradient of the mean loss over its own tokens, and the numbers of tokens differ (padding, masked "
        "prompts). Return the gradient of the mean over all tokens, as a single process would compute it.",
        "数据并行中，每个进程都算出了自己那些词元的平均损失的梯度，而各进程的词元数不同（填充、被屏蔽的提示词）。"
        "请返回全部词元的平均损失的梯度，与单个进程算出来的一样。",
    ),
    solution=(combine_gradients,),
    oracle={"combine_gradients": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "mean_of_means",
            Both(
                "the ranks' means are averaged: a token on a rank with few tokens counts more than others",
                "对各进程的平均值又取了平均：词元少的进程上，每个词元的分量反而更重",
            ),
            edits=(
                (" * weights[there].unsqueeze(1)", ""),
                ("sums.sum(dim=0) / weights.sum()", "sums.mean(dim=0)"),
            ),
        ),
        Mistake(
            "mean_over_all_ranks",
            Both(
                "the ranks' means are added and divided by the number of ranks, those without tokens among them",
                "各进程的平均值相加，再除以进程总数，没有词元的进程也算在内",
            ),
            edits=(
                (" * weights[there].unsqueeze(1)", ""),
                ("sums.sum(dim=0) / weights.sum()", "sums.sum(dim=0) / len(counts)"),
            ),
        ),
        Mistake(
            "summed",
            Both(
                "the gradients are added without weights: with more ranks the step grows",
                "梯度直接相加，没有加权：进程越多，步子越大",
            ),
            edits=(
                (" * weights[there].unsqueeze(1)", ""),
                ("sums.sum(dim=0) / weights.sum()", "sums.sum(dim=0)"),
            ),
        ),
        Mistake(
            "not_divided",
            Both(
                "the weighted sum is not divided by the number of all tokens",
                "加权和没有除以总词元数",
            ),
            edits=(("sums.sum(dim=0) / weights.sum()", "sums.sum(dim=0)"),),
        ),
        Mistake(
            "divided_twice",
            Both(
                "the sum is divided by the number of tokens and once more by the number of ranks (as DDP does by itself)",
                "除以总词元数之后又除了一次进程数（DDP 自己就会除）",
            ),
            edits=(
                (
                    "sums.sum(dim=0) / weights.sum()",
                    "sums.sum(dim=0) / weights.sum() / len(counts)",
                ),
            ),
        ),
        Mistake(
            "divided_by_largest",
            Both(
                "the sum is divided by the largest count, not by all tokens together",
                "除的是最大的词元数，而不是总词元数",
            ),
            edits=(("/ weights.sum()", "/ weights.max()"),),
        ),
        Mistake(
            "nan_spreads",
            Both(
                "zero times NaN is NaN: a rank without tokens spoils the gradient of all",
                "零乘 NaN 还是 NaN：一个没有词元的进程毁掉了所有进程的梯度",
            ),
            edits=(("gradients[there] * weights[there]", "gradients * weights"),),
        ),
    ),
    hints=(
        Both(
            "How do you get the sum over a rank's tokens from its mean?",
            "怎样由一个进程的平均值得到它的总和？",
        ),
        Both(
            "Add the sums of all ranks, then divide once, by what?",
            "把各进程的总和加起来，只除一次，除以什么？",
        ),
        Both(
            "Leave ranks without tokens out by indexing; multiplying NaN by zero does not remove it.",
            "没有词元的进程要用索引去掉；NaN 乘零去不掉。",
        ),
    ),
    imports="import torch\nfrom torch import Tensor\n",
)
