"""Exercise 5.5: the mask of a sliding window."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Fields, Mistake, Run
from glassbox.course.language import Both
from glassbox.ops.block_attention import band


def window_mask(num_queries: int, num_keys: int, window: int) -> Tensor:
    """(num_queries, num_keys), True where a query may look: at itself and the window - 1 keys before it.

    The last query stands at the last key.
    """
    query = torch.arange(num_queries)[:, None] + (num_keys - num_queries)
    key = torch.arange(num_keys)[None, :]
    return (key <= query) & (key > query - window)


def oracle(num_queries: int, num_keys: int, window: int) -> Tensor:
    """Ours."""
    return band(num_queries, num_keys, window)


def cases() -> list[Case]:
    """Square ones, a window longer than the text, and fewer queries than keys."""
    sizes = ((1, 1, 1), (2, 2, 1), (3, 3, 2), (5, 5, 3), (4, 4, 9), (1, 6, 3), (2, 7, 4))
    return [Case(size) for size in sizes]


def wrong_count(runs: Sequence[Run]) -> Fields | None:
    """How many keys the last query sees, and how many it should."""
    for run in runs:
        seen, right = (int(torch.as_tensor(one)[-1].sum()) for one in (run.got, run.expected))
        if seen != right:
            return {"window": str(run.case.args[2]), "seen": str(seen), "right": str(right)}
    return None


EXERCISE = Exercise(
    number="5.5",
    title=Both("A sliding window", "滑动窗口"),
    statement=Both(
        "Mistral's layers look back `window` positions only: a query sees itself and the window - 1 keys before "
        "it. Return the Boolean mask (num_queries, num_keys), True where a query may look; the last query "
        "stands at the last key.",
        "Mistral 的层只回看 `window` 个位置：查询能看到自己和它前面的 window - 1 个键。"
        "返回布尔掩码 (num_queries, num_keys)，可见处为 True；最后一个查询与最后一个键对齐。",
    ),
    solution=(window_mask,),
    oracle={"window_mask": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "window_too_long",
            Both(
                "with a window of {window} the last query sees {seen} keys, not {right}: the window counts the "
                "query itself",
                "窗口为 {window} 时，最后一个查询看到了 {seen} 个键，应为 {right} 个：窗口把查询自己也算在内",
            ),
            edits=(("key > query - window", "key >= query - window"),),
            detect=wrong_count,
        ),
        Mistake(
            "window_too_short",
            Both(
                "with a window of {window} the last query sees {seen} keys, not {right}",
                "窗口为 {window} 时，最后一个查询看到了 {seen} 个键，应为 {right} 个",
            ),
            edits=(("key > query - window", "key > query - window + 1"),),
            detect=wrong_count,
        ),
        Mistake(
            "window_on_both_sides",
            Both(
                "the window also reaches forward: queries see later keys",
                "窗口向后也伸出去了：查询能看到后面的键",
            ),
            edits=(("(key <= query) &", "(key < query + window) &"),),
        ),
        Mistake(
            "no_window",
            Both(
                "this is the full causal mask; nothing old is left out",
                "这是完整的因果掩码，旧的位置没有被去掉",
            ),
            edits=((" & (key > query - window)", ""),),
        ),
        Mistake(
            "window_of_the_last_query",
            Both(
                "every query gets the last keys of the whole text, so early queries see the future",
                "每个查询都取了整段文本最后的几个键，前面的查询因此看到了未来",
            ),
            edits=(
                (
                    "(key <= query) & (key > query - window)",
                    "(key >= num_keys - window).expand(num_queries, -1)",
                ),
            ),
        ),
        Mistake(
            "queries_at_the_start",
            Both(
                "with fewer queries than keys, the queries are taken for the first positions; they are the last",
                "查询少于键时，把查询当成了最前面的位置；它们是最后的位置",
            ),
            edits=((" + (num_keys - num_queries)", ""),),
        ),
        Mistake(
            "inverted",
            Both(
                "the mask is True where a query may not look; here True means that it may",
                "掩码在不可见处为 True；这里约定 True 表示可见",
            ),
            edits=(
                (
                    "(key <= query) & (key > query - window)",
                    "(key > query) | (key <= query - window)",
                ),
            ),
        ),
    ),
    hints=(
        Both(
            "For one query at position i, which keys j are allowed? Write two inequalities.",
            "对位置 i 的一个查询，哪些键 j 可见？写出两个不等式。",
        ),
        Both(
            "torch.arange(n)[:, None] and torch.arange(m)[None, :] compare every pair at once.",
            "torch.arange(n)[:, None] 与 torch.arange(m)[None, :] 可以一次比较所有的对。",
        ),
    ),
    imports="import torch\nfrom torch import Tensor\n",
)
