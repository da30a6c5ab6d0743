"""Exercise 7.3: attention with a cache of keys and values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both
from glassbox.ops.attention import attention_plain


def cached_attention(
    q: Tensor, k: Tensor, v: Tensor, past_k: Tensor, past_v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal attention of T new tokens to the P tokens in the cache and to each other.

    q, k, v: (H, T, Dh), those of the new tokens; past_k, past_v: (H, P, Dh), P may be 0.
    Returns the output (H, T, Dh) and the cache for the next call: keys and values (H, P + T, Dh).
    """
    keys, values = torch.cat((past_k, k), dim=1), torch.cat((past_v, v), dim=1)
    new, seen = q.shape[1], keys.shape[1]
    scores = q @ keys.transpose(1, 2) / math.sqrt(q.shape[-1])
    future = torch.ones(new, seen, dtype=torch.bool).triu(seen - new + 1)
    weights = scores.masked_fill(future, -math.inf).softmax(dim=-1)
    return weights @ values, keys, values


def oracle(
    q: Tensor, k: Tensor, v: Tensor, past_k: Tensor, past_v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Ours, with the last query at the last key."""
    keys, values = torch.cat((past_k, k), 1), torch.cat((past_v, v), 1)
    return attention_plain(q[None], keys[None], values[None])[0], keys, values


def in_pieces(module: Any, q: Any, k: Any, v: Any, lengths: Any) -> Any:
    """Feed a text in pieces of the given lengths, the cache of each call going into the next."""
    import torch

    past_k, past_v = q[:, :0], q[:, :0]
    outputs = []
    for one in zip(*(x.split(lengths, dim=1) for x in (q, k, v))):  # noqa: B905
        out, past_k, past_v = (
            torch.as_tensor(x) for x in module.cached_attention(*one, past_k, past_v)
        )
        outputs.append(out)
    return torch.cat(outputs, dim=1)


def cases() -> list[Case]:
    """A first call, one token after some, several after some, and a whole text in pieces."""
    draw = torch.Generator().manual_seed(73)

    def three(heads: int, length: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = torch.randn(3, heads, length, size, generator=draw).unbind()
        return q * 2, k, v

    found = []
    for heads, new, past, size in (
        (1, 1, 0, 2),
        (1, 2, 0, 2),
        (2, 1, 2, 4),
        (2, 3, 2, 4),
        (3, 4, 5, 2),
    ):
        q, k, v = three(heads, new, size)
        past_k, past_v = torch.randn(2, heads, past, size, generator=draw).unbind()
        found.append(Case((q, k, v, past_k, past_v)))
    found += [
        Case((*three(1, 3, 2), [1, 1, 1]), call="in_pieces"),
        Case((*three(2, 7, 4), [3, 1, 2, 1]), call="in_pieces"),
    ]
    return found


EXERCISE = Exercise(
    number="7.3",
    title=Both("Attention with a cache", "带缓存的注意力"),
    statement=Both(
        "While a text is written, keys and values of earlier tokens are kept. Write causal attention for T new tokens when P tokens are in "
        "the cache, and return the output with the new cache. Fed in pieces, a text must give what it gives at once.",
        "生成文本时，前面词元的键和值会保存下来。缓存里已有 P 个词元时，为 T 个新词元实现因果注意力，返回输出和新的缓存。"
        "同一段文本分几次输入，结果必须与一次输入相同。",
    ),
    solution=(cached_attention,),
    oracle={"cached_attention": oracle},
    drivers=(in_pieces,),
    cases=cases,
    mistakes=(
        Mistake(
            "corner_at_the_first_key",
            Both(
                "the mask's corner is at the first key: with a cache the first new token sees one key, not all that came before it",
                "掩码从第一个键开始对齐：有缓存时，第一个新词元只看到一个键，而不是它之前的全部",
            ),
            edits=(("triu(seen - new + 1)", "triu(1)"),),
        ),
        Mistake(
            "new_tokens_see_each_other",
            Both(
                "there is no mask: among the new tokens, earlier ones see later ones",
                "没有掩码：新词元之中，前面的看到了后面的",
            ),
            edits=(("scores.masked_fill(future, -math.inf)", "scores"),),
        ),
        Mistake(
            "sees_next",
            Both(
                "the mask begins one place too late: every new token sees the next one",
                "掩码错开了一位：每个新词元都能看到下一个",
            ),
            edits=(("triu(seen - new + 1)", "triu(seen - new + 2)"),),
        ),
        Mistake(
            "cache_not_used",
            Both(
                "the new tokens attend to each other alone; the cache has no influence",
                "新词元只关注彼此，缓存没有起作用",
            ),
            edits=(
                (
                    "    new, seen = q.shape[1], keys.shape[1]\n    scores = q @ keys.transpose(1, 2)",
                    "    new, seen = q.shape[1], k.shape[1]\n    scores = q @ k.transpose(1, 2)",
                ),
                ("return weights @ values, keys", "return weights @ v, keys"),
            ),
        ),
        Mistake(
            "past_behind",
            Both(
                "the cache is put behind the new tokens, so the order of the text is lost",
                "缓存接到了新词元的后面，文本的顺序乱了",
            ),
            edits=(
                ("torch.cat((past_k, k), dim=1)", "torch.cat((k, past_k), dim=1)"),
                ("torch.cat((past_v, v), dim=1)", "torch.cat((v, past_v), dim=1)"),
            ),
        ),
        Mistake(
            "cache_forgets",
            Both(
                "the returned cache holds the new tokens alone: from the next call on the older ones are gone",
                "返回的缓存里只有新词元：下一次调用时更早的就没有了",
            ),
            edits=(("weights @ values, keys, values", "weights @ values, k, v"),),
        ),
        Mistake(
            "cache_swapped",
            Both(
                "keys and values of the returned cache are swapped",
                "返回的缓存里键和值互换了",
            ),
            edits=(("weights @ values, keys, values", "weights @ values, values, keys"),),
        ),
        Mistake(
            "no_scale",
            Both("the scores are not divided by sqrt(Dh)", "分数没有除以 sqrt(Dh)"),
            edits=((" / math.sqrt(q.shape[-1])", ""),),
        ),
    ),
    hints=(
        Both(
            "Draw the (T, S) table for two new tokens after three old ones. Which cells are forbidden? It is one.",
            "画出三个旧词元之后两个新词元的 (T, S) 表。哪些格子不许看？只有一格。",
        ),
        Both(
            "New token i stands at position P + i. Which j may it see?",
            "第 i 个新词元的位置是 P + i。它能看到哪些 j？",
        ),
        Both(
            "Tensor.triu(n) keeps what lies n or more places right of the diagonal through the first corner.",
            "Tensor.triu(n) 保留从左上角对角线向右 n 格及更远的部分。",
        ),
    ),
)
