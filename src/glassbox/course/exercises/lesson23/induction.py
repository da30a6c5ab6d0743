"""Exercise 23.2: how much of an induction head each head is."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def induction_scores(weights: Tensor, period: int) -> list[float]:
    """Of each head, its mean attention to the token that followed the present one last time.

    weights: (H, T, T), row i says what position i looks at. The text repeats with `period`: token i is
    token i - period. Only positions at which the token has been there before count: i = period ... T - 1.
    """
    length = weights.shape[-1]
    queries = torch.arange(period, length)
    return weights[:, queries, queries - period + 1].mean(dim=-1).tolist()


def oracle(weights: Tensor, period: int) -> list[float]:
    """By a loop over heads and positions."""
    found = []
    for head in weights.double().tolist():
        looked = [head[i][i - period + 1] for i in range(period, len(head))]
        found.append(sum(looked) / len(looked))
    return found


def cases() -> list[Case]:
    """Random causal weights of several sizes, and a perfect head."""
    draw = torch.Generator().manual_seed(232)
    found = []
    for heads, length, period in ((1, 4, 2), (2, 7, 3), (3, 12, 5), (2, 9, 8)):
        scores = torch.randn(heads, length, length, generator=draw) * 2
        mask = torch.ones(length, length, dtype=torch.bool).triu(1)
        found.append(Case((scores.masked_fill(mask, float("-inf")).softmax(-1), period)))
    perfect = torch.zeros(1, 6, 6)
    for i in range(6):
        perfect[0, i, max(0, i - 2)] = 1
    found.append(Case((perfect, 3)))
    return found


EXERCISE = Exercise(
    number="23.2",
    title=Both("Induction scores", "归纳分数"),
    statement=Both(
        "The text repeats with `period`. For each head return the mean weight that positions of the repetition give to the "
        "token that *followed* the present token one period ago.",
        "文本以 `period` 为周期重复。对每个头，返回重复部分的各位置给予“一个周期之前当前词元*后面*那个词元”的平均权重。",
    ),
    solution=(induction_scores,),
    oracle={"induction_scores": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "looks_at_itself_before",
            Both(
                "this measures attention to the *same* token one period ago; an induction head looks one place behind it, at what "
                "is to be copied",
                "这测的是一个周期之前的*同一个*词元；归纳头看的是它后面一格，也就是要抄的那个词元",
            ),
            edits=(("queries - period + 1", "queries - period"),),
        ),
        Mistake(
            "one_too_far",
            Both(
                "the offset is one too many: i - period + 1 is the place, not i - period + 2",
                "偏移多了一格：应是 i - period + 1，而不是 i - period + 2",
            ),
            edits=(("queries - period + 1", "(queries - period + 2).clamp(max=length - 1)"),),
        ),
        Mistake(
            "before_the_repetition",
            Both(
                "position period - 1 is counted: its token has not been there before, and it would look at position 0",
                "位置 period - 1 也算了进去：那里的词元之前没有出现过，它对应的会是位置 0",
            ),
            edits=(("torch.arange(period, length)", "torch.arange(period - 1, length)"),),
        ),
        Mistake(
            "keys_and_queries_swapped",
            Both(
                "rows and columns are exchanged: row i says what position i looks at",
                "行与列弄反了：第 i 行才是位置 i 在看什么",
            ),
            edits=(("[:, queries, queries - period + 1]", "[:, queries - period + 1, queries]"),),
        ),
        Mistake(
            "summed",
            Both(
                "weights are summed over positions; the mean lies between 0 and 1 whatever the length",
                "对各位置求了和；取平均才能不论长度都落在 0 到 1 之间",
            ),
            edits=((".mean(dim=-1).tolist()", ".sum(dim=-1).tolist()"),),
        ),
        Mistake(
            "divided_by_length",
            Both(
                "the sum is divided by T, though only T - period positions count",
                "除以了 T，但只有 T - period 个位置算数",
            ),
            edits=((".mean(dim=-1).tolist()", ".sum(dim=-1).div(length).tolist()"),),
        ),
        Mistake(
            "mean_over_heads",
            Both(
                "all heads get the mean of all; a score says which *head* does it",
                "所有头都得到了总平均；分数要说明是*哪个头*在做这件事",
            ),
            edits=(
                (".mean(dim=-1).tolist()", ".mean(dim=-1).mean().repeat(len(weights)).tolist()"),
            ),
        ),
    ),
    hints=(
        Both(
            "Write a text of period 3, a b c a b c, under the positions 0 to 5. At position 4 (b): which token comes next, and where did it stand?",
            "写下周期为 3 的文本 a b c a b c，标上位置 0 到 5。位置 4 是 b：下一个词元是什么，它之前在哪里？",
        ),
        Both(
            "The weights that you need lie on one diagonal of the lower right part.",
            "需要的权重都在右下部分的一条对角线上。",
        ),
        Both(
            "Mean of weights[h, i, i - period + 1] over i = period ... T - 1.",
            "对 i = period ... T - 1 取 weights[h, i, i - period + 1] 的平均。",
        ),
    ),
)
