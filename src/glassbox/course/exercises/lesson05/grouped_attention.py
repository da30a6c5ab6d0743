"""Exercise 5.4: query heads that share key/value heads."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both
from glassbox.ops.attention import attention_plain


def grouped_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention with fewer key/value heads than query heads.

    q: (H, T, Dh); k, v: (K, T, Dh), H a multiple of K. Neighbouring query heads share a key/value head:
    the first H / K of them head 0, and so on. Returns (H, T, Dh).
    """
    num_heads, length, head_dim = q.shape
    shared = num_heads // k.shape[0]
    k = k.repeat_interleave(shared, dim=0)
    v = v.repeat_interleave(shared, dim=0)
    scores = q @ k.transpose(-2, -1) / math.sqrt(head_dim)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(dim=-1) @ v


def oracle(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Ours."""
    return attention_plain(q[None], k[None], v[None])[0]


def cases() -> list[Case]:
    """One key/value head, as many as query heads, then two and three for four and six."""
    draw = torch.Generator().manual_seed(54)
    found = []
    for heads, shared, length, size in (
        (1, 1, 1, 2),
        (2, 1, 2, 4),
        (2, 2, 2, 4),
        (4, 2, 3, 4),
        (6, 3, 4, 4),
        (6, 2, 4, 8),
    ):
        q = torch.randn(heads, length, size, generator=draw)
        k, v = torch.randn(2, shared, length, size, generator=draw)
        found.append(Case((q, k, v)))
    return found


EXERCISE = Exercise(
    number="5.4",
    title=Both("Grouped queries", "分组查询注意力"),
    statement=Both(
        "Llama and Qwen keep fewer key/value heads than query heads, and with them a smaller KV cache. Write "
        "causal attention for `q` (H, T, Dh) and `k`, `v` (K, T, Dh): query head h reads key/value head "
        "h // (H / K).",
        "Llama、Qwen 的键值头少于查询头，KV 缓存也随之变小。请实现因果注意力："
        "`q` 的形状是 (H, T, Dh)，`k`、`v` 是 (K, T, Dh)，第 h 个查询头使用第 h // (H / K) 个键值头。",
    ),
    solution=(grouped_attention,),
    oracle={"grouped_attention": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "heads_tiled",
            Both(
                "query head h reads key/value head h % K (repeat lays the heads out as 0 1 0 1); neighbours "
                "share a head: 0 0 1 1",
                "第 h 个查询头用了第 h % K 个键值头（repeat 的排列是 0 1 0 1）；应当是相邻的查询头共用：0 0 1 1",
            ),
            edits=(
                ("k.repeat_interleave(shared, dim=0)", "k.repeat(shared, 1, 1)"),
                ("v.repeat_interleave(shared, dim=0)", "v.repeat(shared, 1, 1)"),
            ),
        ),
        Mistake(
            "values_tiled",
            Both(
                "keys and values are spread over the query heads in different orders",
                "键和值分配给查询头的顺序不一致",
            ),
            edits=(("v.repeat_interleave(shared, dim=0)", "v.repeat(shared, 1, 1)"),),
        ),
        Mistake(
            "first_head_for_all",
            Both(
                "all query heads read key/value head 0 (that is multi-query attention)",
                "所有查询头都用了第 0 个键值头（那是多查询注意力 MQA）",
            ),
            edits=(
                ("k.repeat_interleave(shared, dim=0)", "k[:1]"),
                ("v.repeat_interleave(shared, dim=0)", "v[:1]"),
            ),
        ),
        Mistake(
            "heads_averaged",
            Both(
                "the key/value heads are averaged; each query head reads one of them",
                "对键值头取了平均；每个查询头应当只用其中一个",
            ),
            edits=(
                ("k.repeat_interleave(shared, dim=0)", "k.mean(0, keepdim=True)"),
                ("v.repeat_interleave(shared, dim=0)", "v.mean(0, keepdim=True)"),
            ),
        ),
        Mistake(
            "no_mask",
            Both("the causal mask is missing", "漏了因果掩码"),
            edits=(("scores.masked_fill(future, -math.inf)", "scores"),),
        ),
        Mistake(
            "scaled_by_all_heads",
            Both(
                "the scale uses the size of all heads together; it is that of one head",
                "缩放用了所有头合起来的维度，应当用单个头的维度",
            ),
            edits=(("math.sqrt(head_dim)", "math.sqrt(num_heads * head_dim)"),),
        ),
    ),
    hints=(
        Both(
            "Write down for H = 6 and K = 2 which key/value head each query head reads.",
            "先写出 H = 6、K = 2 时每个查询头用哪个键值头。",
        ),
        Both(
            "Tensor.repeat and Tensor.repeat_interleave lay copies out in different orders: print both for "
            "torch.tensor([0, 1]).",
            "Tensor.repeat 与 Tensor.repeat_interleave 的排列不同：对 torch.tensor([0, 1]) 各打印一次。",
        ),
    ),
)
