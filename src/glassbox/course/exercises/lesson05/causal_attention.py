"""Exercise 5.2: causal attention, also where the queries are the last few positions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Fields, Invariant, Mistake, Run
from glassbox.course.language import Both
from glassbox.ops.attention import attention_plain


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention in which no position sees a later one.

    q: (T, D), k: (S, D), v: (S, Dv) with T <= S: the queries are those of the last T of S positions.
    Returns (T, Dv).
    """
    num_queries, num_keys = q.shape[0], k.shape[0]
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    query = torch.arange(num_queries)[:, None] + (num_keys - num_queries)
    key = torch.arange(num_keys)[None, :]
    scores = scores.masked_fill(key > query, -math.inf)
    return scores.softmax(dim=-1) @ v


def oracle(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Ours, which is causal where no mask is given."""
    return attention_plain(q[None, None], k[None, None], v[None, None])[0, 0]


def cases() -> list[Case]:
    """Small ones; then a base and the same with one position's key and value changed; then T < S."""
    draw = torch.Generator().manual_seed(52)

    def random(length: int, size: int, queries: int = 0) -> tuple[Tensor, ...]:
        q, k, v = torch.randn(3, length, size, generator=draw)
        return q[-queries:], k, v

    found = [Case(random(length, 4)) for length in (1, 2, 3)]
    q, k, v = random(6, 8)
    found.append(Case((q, k, v), tag=("base", None)))
    for place in range(1, 6):
        other_k, other_v = k.clone(), v.clone()
        other_k[place], other_v[place] = torch.randn(2, 8, generator=draw)
        found.append(Case((q, other_k, other_v), tag=("changed", place)))
    found += [Case(random(3, 4, 1)), Case(random(5, 4, 2))]
    return found


def looks_ahead(runs: Sequence[Run]) -> Fields | None:
    """The first position whose output moved as a later one was changed."""
    base = next((run.got for run in runs if run.case.tag == ("base", None)), None)
    if base is None:
        return None
    base = torch.as_tensor(base)
    for run in runs:
        if run.case.tag and run.case.tag[0] == "changed":
            key = run.case.tag[1]
            moved = (torch.as_tensor(run.got) - base).abs().amax(-1)[:key] > 1e-5
            if moved.any():
                return {"query": str(int(moved.nonzero()[-1])), "key": str(key)}
    return None


LOOKS_AHEAD = Both("position {query} sees {key}", "位置 {query} 能看到位置 {key}")

EXERCISE = Exercise(
    number="5.2",
    title=Both("Causal attention", "因果注意力"),
    statement=Both(
        "Write attention in which position i sees positions 0 to i alone. In generation only the last few "
        "positions have queries: `q` has T rows, `k` and `v` have S >= T, and the last query stands at the "
        "last key.",
        "实现因果注意力：位置 i 只能看到位置 0 到 i。生成时只有最后几个位置有查询："
        "`q` 有 T 行，`k` 和 `v` 有 S 行（S >= T），最后一个查询与最后一个键对齐。",
    ),
    solution=(causal_attention,),
    oracle={"causal_attention": oracle},
    cases=cases,
    invariants=(Invariant("looks_ahead", LOOKS_AHEAD, looks_ahead),),
    mistakes=(
        Mistake(
            "sees_next",
            Both(
                "position {query} sees {key}: the mask begins one place too late, so every position reads the "
                "very token that it is to predict",
                "位置 {query} 能看到位置 {key}：掩码错开了一位，每个位置都能读到它要预测的那个词元",
            ),
            edits=(("key > query", "key > query + 1"),),
            detect=looks_ahead,
        ),
        Mistake(
            "no_mask",
            Both(
                "position {query} sees {key}: nothing is masked",
                "位置 {query} 能看到位置 {key}：根本没有加掩码",
            ),
            edits=(("key > query", "key < 0"),),
            detect=looks_ahead,
        ),
        Mistake(
            "hides_itself",
            Both(
                "a position does not see itself; position 0 then sees nothing, and its softmax is 0 / 0",
                "位置看不到自己；位置 0 因而什么都看不到，softmax 变成 0 / 0",
            ),
            edits=(("key > query", "key >= query"),),
        ),
        Mistake(
            "mask_inverted",
            Both(
                "the mask is turned round: positions see what comes after them and not what came before",
                "掩码方向反了：每个位置看到的是后面的词元，而不是前面的",
            ),
            edits=(("key > query", "key < query"),),
        ),
        Mistake(
            "masked_after_softmax",
            Both(
                "the weights are set to zero after the softmax, so those that are left do not sum to 1, and "
                "future keys still change them",
                "在 softmax 之后才把权重置零：剩下的权重之和不为 1，后面的键仍然影响结果",
            ),
            edits=(
                ("    scores = scores.masked_fill(key > query, -math.inf)\n", ""),
                (
                    "scores.softmax(dim=-1) @ v",
                    "scores.softmax(dim=-1).masked_fill(key > query, 0) @ v",
                ),
            ),
        ),
        Mistake(
            "masked_with_zero",
            Both(
                "masked scores are set to 0, and exp(0) = 1 still gives them weight; they must become minus "
                "infinity",
                "被屏蔽的分数设成了 0，而 exp(0) = 1 仍有权重；应当设成负无穷",
            ),
            edits=(("-math.inf", "0.0"),),
        ),
        Mistake(
            "queries_at_the_start",
            Both(
                "with fewer queries than keys, the queries are taken for the first positions; in generation "
                "they are the last",
                "查询少于键时，把查询当成了最前面的位置；生成时它们是最后的位置",
            ),
            edits=((" + (num_keys - num_queries)", ""),),
        ),
        Mistake(
            "no_scale",
            Both("the scores are not divided by sqrt(D)", "分数没有除以 sqrt(D)"),
            edits=((" / math.sqrt(q.shape[-1])", ""),),
        ),
    ),
    hints=(
        Both(
            "Make a (T, S) table of True and False first and print it for T = S = 4: it is a triangle.",
            "先做一张 (T, S) 的布尔表，取 T = S = 4 打印出来看看：它是一个三角形。",
        ),
        Both(
            "A masked score must get weight zero from the softmax. Which score does exp turn into zero?",
            "被屏蔽的分数经过 softmax 后权重必须为零。什么样的分数经过 exp 会变成零？",
        ),
        Both(
            "For S = 5 and T = 2 the queries stand at positions 3 and 4: add S - T to the row's number.",
            "S = 5、T = 2 时，查询的位置是 3 和 4：行号要加上 S - T。",
        ),
    ),
)
