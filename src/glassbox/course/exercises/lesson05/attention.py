"""Exercise 5.1: scaled dot-product attention without a mask."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both
from glassbox.ops.attention import attention_plain


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v.  q: (T, D), k: (S, D), v: (S, Dv); returns (T, Dv)."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    weights = scores.softmax(dim=-1)
    return weights @ v


def oracle(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Ours, with every key seen by every query."""
    mask = torch.ones(1, 1, len(q), len(k), dtype=torch.bool)
    return attention_plain(q[None, None], k[None, None], v[None, None], mask)[0, 0]


def cases() -> list[Case]:
    """From one query and one key to 4 queries over 6 keys; the last has large scores."""
    draw = torch.Generator().manual_seed(51)
    sizes = ((1, 1, 2, 2), (1, 2, 4, 1), (2, 3, 4, 2), (3, 3, 8, 3), (4, 6, 16, 5))
    found = [
        Case(
            tuple(
                torch.randn(rows, size, generator=draw) for rows, size in ((t, d), (s, d), (s, e))
            )
        )
        for t, s, d, e in sizes
    ]
    far = torch.full((2, 4), 40.0)
    values = torch.eye(2, 3)
    return [*found, Case((far, torch.stack((far[0], -far[0])), values))]


EXERCISE = Exercise(
    number="5.1",
    title=Both("Attention without a mask", "不带掩码的注意力"),
    statement=Both(
        "Write scaled dot-product attention for one head: every query takes a weighted mean of all values. "
        "`q` is (T, D), `k` is (S, D), `v` is (S, Dv); the result is (T, Dv).",
        "实现单头的缩放点积注意力：每个查询对所有值取加权平均。"
        "`q` 的形状是 (T, D)，`k` 是 (S, D)，`v` 是 (S, Dv)，结果是 (T, Dv)。",
    ),
    solution=(attention,),
    oracle={"attention": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "no_scale",
            Both(
                "the scores are not divided by sqrt(D): with a larger D the softmax saturates",
                "分数没有除以 sqrt(D)：D 越大，softmax 越容易饱和",
            ),
            edits=((" / math.sqrt(q.shape[-1])", ""),),
        ),
        Mistake(
            "scaled_by_size",
            Both(
                "the scores are divided by D, not by its square root",
                "分数除以了 D，而不是 D 的平方根",
            ),
            edits=(("math.sqrt(q.shape[-1])", "q.shape[-1]"),),
        ),
        Mistake(
            "scaled_by_length",
            Both(
                "the scale uses the number of tokens; it is the size D of one query or key",
                "缩放用了词元个数，应当用单个查询或键的维度 D",
            ),
            edits=(("math.sqrt(q.shape[-1])", "math.sqrt(q.shape[0])"),),
        ),
        Mistake(
            "softmax_over_queries",
            Both(
                "the softmax runs over the queries: it is each query's weights, over the keys, that sum to 1",
                "softmax 沿查询那一维归一化了：应当是每个查询在所有键上的权重之和为 1",
            ),
            edits=(("softmax(dim=-1)", "softmax(dim=0)"),),
        ),
        Mistake(
            "scaled_after_softmax",
            Both(
                "the division by sqrt(D) comes after the softmax, so the weights do not sum to 1",
                "在 softmax 之后才除以 sqrt(D)，权重之和不再是 1",
            ),
            edits=(
                (" / math.sqrt(q.shape[-1])", ""),
                ("scores.softmax(dim=-1)", "scores.softmax(dim=-1) / math.sqrt(q.shape[-1])"),
            ),
        ),
        Mistake(
            "no_softmax",
            Both(
                "the scores themselves are used as weights; the softmax is missing",
                "直接拿分数当权重，漏了 softmax",
            ),
            edits=(("scores.softmax(dim=-1)", "scores"),),
        ),
        Mistake(
            "exp_overflows",
            Both(
                "exp overflows for large scores and gives NaN: take each row's maximum off before exp",
                "分数较大时 exp 溢出，结果是 NaN：先减去每行的最大值，再取 exp",
            ),
            edits=(
                (
                    "scores.softmax(dim=-1)",
                    "scores.exp() / scores.exp().sum(dim=-1, keepdim=True)",
                ),
            ),
        ),
    ),
    hints=(
        Both(
            "One matrix product gives the scores of every query with every key at once: shape (T, S).",
            "一次矩阵乘法就能得到每个查询与每个键的分数，形状是 (T, S)。",
        ),
        Both(
            "Divide by the square root of the size of one query, then take the softmax along the keys.",
            "除以单个查询维度的平方根，再沿键那一维做 softmax。",
        ),
        Both(
            "The weights (T, S) times the values (S, Dv) give the weighted means.",
            "权重 (T, S) 乘以值 (S, Dv)，就是加权平均。",
        ),
    ),
)
