"""Exercise 13.1: attention weights on the summaries of complete blocks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def summary_weights(q: Tensor, k: Tensor, block: int) -> Tensor:
    """Causal attention weights on block summaries.  q, k: (T, D); returns (T, C), C = T // block.

    Block c is the positions c * block to (c + 1) * block - 1; its summary is the mean of its keys. A query sees
    the summaries of blocks whose last position is not after its own; a query that sees none has weights of zero.
    """
    count = len(k) // block
    keys = k[: count * block].view(count, block, -1).mean(dim=1)
    scores = q @ keys.T / math.sqrt(q.shape[-1])
    last = torch.arange(count) * block + block - 1
    see = last <= torch.arange(len(q))[:, None]
    scores = scores.masked_fill(~see, -math.inf)
    return scores.softmax(dim=-1).nan_to_num(0.0)


def oracle(q: Tensor, k: Tensor, block: int) -> Tensor:
    """Query by query."""
    weights = torch.zeros(len(q), len(k) // block)
    for t in range(len(q)):
        whole = (t + 1) // block
        if whole:
            means = torch.stack([k[c * block : (c + 1) * block].mean(0) for c in range(whole)])
            weights[t, :whole] = torch.softmax(means @ q[t] / math.sqrt(q.shape[1]), 0)
    return weights


def cases() -> list[Case]:
    """Blocks of 1 to 4 tokens, also with some tokens left over."""
    draw = torch.Generator().manual_seed(131)
    found = []
    for length, size, block in ((2, 2, 2), (3, 4, 1), (4, 4, 2), (5, 8, 2), (9, 4, 3), (14, 6, 4)):
        q, k = 2 * torch.randn(2, length, size, generator=draw)
        found.append(Case((q, k, block)))
    return found


EXERCISE = Exercise(
    number="13.1",
    title=Both("Attention to summaries", "关注块摘要"),
    statement=Both(
        "The first branch of NSA attends to one summary for each block, here the mean of the block's keys. Compute the attention weights "
        "of every query, for one head: `q` and `k` are (T, D), the result is (T, T // block). A summary may be seen once its block is complete.",
        "NSA 的第一个分支关注每个块的摘要，这里取块内各键的平均。请计算单头情形下每个查询的注意力权重："
        "`q` 与 `k` 的形状是 (T, D)，结果是 (T, T // block)。块完整之后，它的摘要才可见。",
    ),
    solution=(summary_weights,),
    oracle={"summary_weights": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "incomplete_seen",
            Both(
                "a summary is seen as soon as its block begins, so queries within the block read tokens after them",
                "块刚开始，它的摘要就可见了：块内的查询因此读到了自己之后的词元",
            ),
            edits=(("* block + block - 1", "* block"),),
        ),
        Mistake(
            "complete_too_late",
            Both(
                "the query at a block's last position does not see its summary, although nothing in it lies after the query",
                "位于块末尾的查询看不到本块的摘要，而摘要里并没有它之后的内容",
            ),
            edits=(("last <= torch", "last < torch"),),
        ),
        Mistake(
            "no_mask",
            Both(
                "every query sees all summaries, those of later blocks too",
                "每个查询都能看到所有摘要，包括后面的块",
            ),
            edits=(("scores.masked_fill(~see, -math.inf)", "scores"),),
        ),
        Mistake(
            "summed",
            Both(
                "a summary is the sum of the block's keys: scores grow with the block and the softmax saturates; it should be the mean",
                "摘要取成了块内各键之和：分数随块变大，softmax 会饱和；应当取平均",
            ),
            edits=((".mean(dim=1)", ".sum(dim=1)"),),
        ),
        Mistake(
            "no_scale",
            Both("the scores are not divided by sqrt(D)", "分数没有除以 sqrt(D)"),
            edits=((" / math.sqrt(q.shape[-1])", ""),),
        ),
        Mistake(
            "nothing_seen_is_nan",
            Both(
                "queries before the end of the first block see no summary: their softmax is 0 / 0 and gives NaN, which spreads to everything behind it",
                "第一块结束之前的查询看不到任何摘要：softmax 成了 0 / 0，得到 NaN，并会传染给后面的一切",
            ),
            edits=((".nan_to_num(0.0)", ""),),
        ),
        Mistake(
            "nothing_seen_is_uniform",
            Both(
                "queries that see no summary attend to all of them equally (a large negative number instead of minus infinity); their weights should be zero",
                "看不到摘要的查询变成了平均关注所有摘要（用了很大的负数而不是负无穷）；它们的权重应当是零",
            ),
            edits=(("-math.inf", "-1e4"),),
        ),
        Mistake(
            "strided",
            Both(
                "a summary mixes every C-th position instead of neighbours: the axes of the view are the wrong way round",
                "摘要混合的是间隔 C 的位置，而不是相邻的位置：view 的两个维度放反了",
            ),
            edits=((".view(count, block, -1).mean(dim=1)", ".view(block, count, -1).mean(dim=0)"),),
        ),
    ),
    hints=(
        Both(
            "How many complete blocks are there among the first t + 1 positions?",
            "前 t + 1 个位置里有几个完整的块？",
        ),
        Both(
            "Cut k to a multiple of the block and view it as (C, block, D); the mean is over the middle axis.",
            "把 k 截成块长的整数倍，看成 (C, block, D)，对中间那一维取平均。",
        ),
        Both(
            "A row of minus infinities gives NaN from the softmax: set those rows to zero.",
            "一整行都是负无穷时，softmax 会得到 NaN：把这些行置零。",
        ),
    ),
)
