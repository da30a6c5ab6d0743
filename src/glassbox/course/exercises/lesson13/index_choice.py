"""Exercise 13.3: the lightning indexer's choice of keys."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Fields, Invariant, Mistake, Run
from glassbox.course.language import Both
from glassbox.ops.indexer import highest, index_scores


def index_choice(q: Tensor, w: Tensor, k: Tensor, top_k: int) -> Tensor:
    """Which keys each query reads, (T, T) of True and False.

    q: (T, J, D) index queries of J heads, w: (T, J) their weights, k: (T, D) index keys, which all heads share.
    I_ts = sum over j of w_tj relu(q_tj . k_s); query t reads the top_k positions s <= t with the highest I_ts,
    all of them where there are no more than top_k.
    """
    products = torch.einsum("tjd,sd->tjs", q, k).relu()
    scores = torch.einsum("tj,tjs->ts", w, products)
    past = torch.ones_like(scores, dtype=torch.bool).tril()
    scores = scores.masked_fill(~past, -math.inf)
    best = scores.topk(min(top_k, len(k)), dim=-1).indices
    chosen = torch.zeros_like(past).scatter(1, best, True)
    return chosen & past


def oracle(q: Tensor, w: Tensor, k: Tensor, top_k: int) -> Tensor:
    """Ours."""
    past = torch.ones(len(k), len(k), dtype=torch.bool).tril()
    scores = index_scores(q[None], w[None], k[None])[0].masked_fill(~past, -math.inf)
    return highest(scores, min(top_k, len(k))) & past


def cases() -> list[Case]:
    """From one token to nine, without ties: the scores that decide are apart, and above zero in other ways to add too."""
    draw = torch.Generator().manual_seed(1330)
    found = []
    for length, heads, size, top_k in (
        (1, 1, 2, 1),
        (3, 1, 4, 2),
        (4, 2, 4, 8),
        (6, 3, 4, 2),
        (7, 2, 3, 3),
        (9, 4, 5, 4),
    ):
        case = _draw(draw, length, heads, size, top_k)
        while not _is_clear(*case):
            case = _draw(draw, length, heads, size, top_k)
        found.append(Case(case))
    return found


def _draw(
    draw: torch.Generator, length: int, heads: int, size: int, top_k: int
) -> tuple[Tensor, Tensor, Tensor, int]:
    q = torch.randn(length, heads, size, generator=draw) + 0.3
    k = torch.randn(length, size, generator=draw) + 0.3
    return q, torch.randn(length, heads, generator=draw) + 0.5, k, top_k


def _is_clear(q: Tensor, w: Tensor, k: Tensor, top_k: int) -> bool:
    plain = torch.einsum("tjd,sd->tjs", q, k)
    ways = (
        (w[..., None] * plain.relu()).sum(1),
        (w[..., None] * plain).sum(1),
        (w[..., None] * plain.relu()).amax(1),
    )
    for scores in ways:
        for t in range(top_k, len(k)):
            best = scores[t, : t + 1].sort(descending=True).values
            if best[top_k - 1] < 1e-3 or best[top_k - 1] - best[top_k] < 1e-3:
                return False
    return True


def reads_later(runs: Sequence[Run]) -> Fields | None:
    """The first query that reads a key after it."""
    for run in runs:
        later = torch.as_tensor(run.got).bool().triu(1).nonzero()
        if len(later):
            return {"query": str(int(later[0, 0])), "key": str(int(later[0, 1]))}
    return None


EXERCISE = Exercise(
    number="13.3",
    title=Both("The indexer's choice", "索引器的选择"),
    statement=Both(
        "DeepSeek sparse attention scores every key with a few small heads and reads the best. Return the table (T, T) that is True where a query "
        "reads a key. Early queries have fewer than `top_k` positions behind them: they read all of those, and nothing else.",
        "DeepSeek 稀疏注意力用几个小头给每个键打分，只读最好的那些。请返回 (T, T) 的布尔表，查询读取某个键时为 True。"
        "靠前的查询之前不足 `top_k` 个位置：全部读取，此外不读别的。",
    ),
    solution=(index_choice,),
    oracle={"index_choice": oracle},
    cases=cases,
    invariants=(
        Invariant("reads_later", Both("query {query} reads key {key}", "查询 {query} 读取了键 {key}"), reads_later),
    ),
    mistakes=(
        Mistake(
            "relu_missing",
            Both(
                "there is no ReLU on each head's product: a head that dislikes a key then takes away what other heads found",
                "各头的点积没有经过 ReLU：某个头的负分会抵消其他头找到的东西",
            ),
            edits=((", q, k).relu()", ", q, k)"),),
        ),
        Mistake(
            "weights_missing",
            Both("the heads are added without their weights w", "各个头直接相加，没有乘权重 w"),
            edits=(('"tj,tjs->ts", w, products', '"tjs->ts", products'),),
        ),
        Mistake(
            "best_head_alone",
            Both("the best head decides alone; the heads' scores are added", "只取了得分最高的那个头；各头的得分应当相加"),
            edits=(('torch.einsum("tj,tjs->ts", w, products)', "(w[:, :, None] * products).amax(1)"),),
        ),
        Mistake(
            "future_takes_places",
            Both(
                "the top k are taken before later keys are hidden: these take places, and queries read fewer keys than they may",
                "先取 top-k，后屏蔽未来的键：未来的键占了名额，查询读到的键就少了",
            ),
            edits=(("    scores = scores.masked_fill(~past, -math.inf)\n", ""),),
        ),
        Mistake(
            "future_read",
            Both(
                "query {query} reads key {key}: where fewer than top_k positions are visible, hidden ones fill up the rest",
                "查询 {query} 读取了键 {key}：可见位置不足 top_k 时，被屏蔽的位置补了空缺",
            ),
            edits=(("return chosen & past", "return chosen"),),
            detect=reads_later,
        ),
        Mistake(
            "itself_hidden",
            Both("a query cannot read its own position", "查询读不到自己的位置"),
            edits=((".tril()", ".tril(-1)"),),
        ),
        Mistake(
            "top_of_queries",
            Both(
                "for each key the best queries are chosen; it is each query that chooses keys",
                "成了每个键去选查询；应当是每个查询选键",
            ),
            edits=(
                ("scores.topk(min(top_k, len(k)), dim=-1)", "scores.topk(min(top_k, len(k)), dim=0)"),
                (".scatter(1, best", ".scatter(0, best"),
            ),
        ),
    ),
    hints=(
        Both(
            "The products have three axes: query, head, key. Which of them disappears in the sum?",
            "点积有三个维度：查询、头、键。求和时消去的是哪一个？",
        ),
        Both(
            "Hide later keys before topk, so that they take no place.",
            "在 topk 之前先屏蔽后面的键，免得它们占名额。",
        ),
        Both(
            "topk always returns k places. What does it return for a row with fewer than k finite scores?",
            "topk 总会返回 k 个位置。若一行里有限的分数不足 k 个，它会返回什么？",
        ),
    ),
)  # fmt: skip
