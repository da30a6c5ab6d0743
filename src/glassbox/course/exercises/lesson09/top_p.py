"""Exercise 9.1: which tokens top-p keeps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def top_p(logits: Tensor, p: float) -> list[int]:
    """The tokens that nucleus sampling keeps: the fewest likeliest ones whose probabilities sum to p or more.

    logits: (V), all different; 0 < p < 1. At least one token is kept. Returns their ids, the likeliest first.
    """
    order = logits.argsort(descending=True)
    mass = logits[order].softmax(dim=-1).cumsum(dim=-1)
    count = int((mass < p).sum()) + 1
    return order[:count].tolist()


def oracle(logits: Tensor, p: float) -> list[int]:
    """One token after the other, until their exact sum is there."""
    values = logits.double().tolist()
    most = max(values)
    weights = [math.exp(value - most) for value in values]
    total, reached, kept = math.fsum(weights), 0.0, []
    for token in sorted(range(len(values)), key=lambda one: -values[one]):
        kept.append(token)
        reached += weights[token] / total
        if reached >= p:
            break
    return kept


def cases() -> list[Case]:
    """Known probabilities, one token above p, flat and peaked ones."""
    found = [
        Case((torch.tensor([0.5, 0.3, 0.15, 0.05]).log(), 0.7)),
        Case((torch.tensor([0.05, 0.95]).log(), 0.9)),
        Case((torch.tensor([0.2, 0.5, 0.3]).log(), 0.55)),
        Case((torch.tensor([1.0, 1.1, 0.9, 0.8]), 0.95)),
    ]
    draw = torch.Generator().manual_seed(91)
    for size, p in ((6, 0.3), (9, 0.6), (15, 0.9), (30, 0.99)):
        found.append(Case((torch.randn(size, generator=draw) * 2 + 5, p)))
    return found


EXERCISE = Exercise(
    number="9.1",
    title=Both("What top-p keeps", "top-p 保留哪些词元"),
    statement=Both(
        "Return the tokens that top-p keeps: the likeliest ones, as few as possible, whose probabilities together reach `p`.",
        "返回 top-p 保留的词元：从最可能的开始，取尽可能少的几个，使概率之和达到 `p`。",
    ),
    solution=(top_p,),
    oracle={"top_p": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "last_one_missing",
            Both(
                "the token with which p is reached is left out; where one token alone has more than p, nothing is kept",
                "漏掉了恰好使总和达到 p 的那个词元；若一个词元就超过 p，便一个都不剩",
            ),
            edits=(("int((mass < p).sum()) + 1", "int((mass < p).sum())"),),
        ),
        Mistake(
            "one_too_many",
            Both("one token more than needed is kept", "多保留了一个词元"),
            edits=(("int((mass < p).sum()) + 1", "min(len(order), int((mass < p).sum()) + 2)"),),
        ),
        Mistake(
            "least_likely_first",
            Both(
                "the least likely tokens are kept: the order is ascending",
                "保留的是最不可能的词元：排序是升序",
            ),
            edits=(("argsort(descending=True)", "argsort()"),),
        ),
        Mistake(
            "logits_summed",
            Both(
                "logits are added up instead of probabilities: take the softmax first",
                "累加的是 logits 而不是概率：要先做 softmax",
            ),
            edits=((".softmax(dim=-1).cumsum", ".cumsum"),),
        ),
        Mistake(
            "each_above_p",
            Both(
                "every token's own probability is compared with p; it is their sum that must reach p",
                "拿每个词元自己的概率与 p 比较；应当比较它们的总和",
            ),
            edits=(
                (".softmax(dim=-1).cumsum(dim=-1)", ".softmax(dim=-1)"),
                ("(mass < p).sum()", "(mass > p).sum()"),
            ),
        ),
        Mistake(
            "tail_of_p",
            Both(
                "the kept tokens hold 1 - p, not p",
                "保留的词元合计是 1 - p，而不是 p",
            ),
            edits=(("(mass < p)", "(mass < 1 - p)"),),
        ),
        Mistake(
            "places_not_tokens",
            Both(
                "places in the sorted list came back, 0, 1, 2, ..., not the tokens that stand there",
                "返回的是排序后的名次 0、1、2……，而不是那里的词元",
            ),
            edits=(("order[:count].tolist()", "list(range(count))"),),
        ),
    ),
    hints=(
        Both(
            "Sort [0.5, 0.3, 0.15, 0.05] and add up: where is 0.7 reached?",
            "把 [0.5, 0.3, 0.15, 0.05] 从大到小累加：到哪一个达到 0.7？",
        ),
        Both(
            "Count how many running sums are still below p; one more token is needed.",
            "数一数有多少个累计和还小于 p；还要再加一个词元。",
        ),
        Both(
            "argsort, softmax of the sorted logits, cumsum, then the first count + 1 of the order.",
            "argsort，对排好的 logits 做 softmax，再 cumsum，取 order 的前 count + 1 个。",
        ),
    ),
)
