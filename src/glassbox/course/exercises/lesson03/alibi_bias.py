"""Exercise 3.3: ALiBi's bias."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both
from glassbox.ops.attention import alibi_slopes


def alibi_bias(num_heads: int, length: int) -> Tensor:
    """(num_heads, length, length): what is added to the score of query i and key j <= i; 0 where j > i.

    It is -slope * (i - j) with slope 2^(-8 h / num_heads) for head h = 1 .. num_heads (a power of two).
    """
    heads = torch.arange(1, num_heads + 1)
    slopes = 2.0 ** (-8 * heads / num_heads)
    distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
    return -slopes[:, None, None] * distance.clamp(min=0)


def oracle(num_heads: int, length: int) -> Tensor:
    """Ours, entry by entry."""
    rows = [[max(query - key, 0) for key in range(length)] for query in range(length)]
    return torch.stack([-slope * torch.tensor(rows).float() for slope in alibi_slopes(num_heads)])


EXERCISE = Exercise(
    number="3.3",
    title=Both("ALiBi", "ALiBi 偏置"),
    statement=Both(
        "ALiBi adds no position to the embeddings; it lowers each score by the distance times a slope of the head. Return the "
        "bias (num_heads, length, length) with slopes 2^(-8 h / num_heads), h = 1, 2, ...; zero for keys behind the query, which "
        "the causal mask hides.",
        "ALiBi 不给嵌入加位置，而是按距离乘以每个头的斜率来降低分数。返回偏置 (num_heads, length, length)，"
        "斜率为 2^(-8 h / num_heads)，h = 1, 2, ...；查询之后的键反正会被因果掩码屏蔽，填 0。",
    ),
    solution=(alibi_bias,),
    oracle={"alibi_bias": oracle},
    cases=lambda: [Case(size) for size in ((1, 2), (2, 2), (2, 3), (4, 4), (8, 3), (16, 5))],
    mistakes=(
        Mistake(
            "heads_from_zero",
            Both(
                "heads are counted from 0: the first slope is 1; it is 2^(-8 / num_heads)",
                "头从 0 数起，第一个斜率成了 1；应为 2^(-8 / num_heads)",
            ),
            edits=(("torch.arange(1, num_heads + 1)", "torch.arange(num_heads)"),),
        ),
        Mistake(
            "slopes_halve",
            Both(
                "slopes are 2^(-h) whatever the number of heads; with 8 heads alone that is right",
                "斜率总是 2^(-h)，与头数无关；只有 8 个头时才对",
            ),
            edits=(("-8 * heads / num_heads", "-1.0 * heads"),),
        ),
        Mistake(
            "raises_scores",
            Both("the sign is wrong: distant keys get higher scores", "符号反了：越远的键分数越高"),
            edits=(("-slopes[", "slopes["),),
        ),
        Mistake(
            "key_position",
            Both(
                "the bias is the key's position, not its distance from the query (in a softmax with a mask that is the same, "
                "but not here)",
                "偏置用的是键的位置，而不是它到查询的距离（加了掩码再做 softmax 时两者等价，但这里要求的是距离）",
            ),
            edits=(
                (
                    "torch.arange(length)[:, None] - torch.arange(length)[None, :]",
                    "-torch.arange(length)[None, :].expand(length, -1)",
                ),
                ("distance.clamp(min=0)", "distance"),
            ),
        ),
        Mistake(
            "distance_both_ways",
            Both(
                "keys behind the query get a bias too; it is 0 there",
                "查询之后的键也有了偏置；那里应为 0",
            ),
            edits=(("distance.clamp(min=0)", "distance.abs()"),),
        ),
        Mistake(
            "future_not_clamped",
            Both(
                "keys behind the query have a negative distance, and so a bonus; it is 0 there",
                "查询之后的键距离为负，反而加了分；那里应为 0",
            ),
            edits=(("distance.clamp(min=0)", "distance"),),
        ),
        Mistake(
            "slopes_reversed",
            Both(
                "the slopes run the wrong way: head 1 has the steepest",
                "斜率的顺序反了：第 1 个头最陡",
            ),
            edits=(("torch.arange(1, num_heads + 1)", "torch.arange(num_heads, 0, -1)"),),
        ),
    ),
    hints=(
        Both(
            "For 8 heads the slopes are 1/2, 1/4, ..., 1/256.",
            "8 个头时，斜率依次是 1/2、1/4、……、1/256。",
        ),
        Both("Write the table of distances for length 3 by hand.", "手写出长度为 3 时的距离表。"),
    ),
    imports="import torch\nfrom torch import Tensor\n",
    tolerance=1e-5,  # one product of exact powers: a slope of 2^-8 must not drown in the tolerance
)
