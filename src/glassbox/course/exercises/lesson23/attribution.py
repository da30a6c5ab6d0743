"""Exercise 23.3: a logit as a sum over the parts of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Fields, Invariant, Mistake, Run
from glassbox.course.language import Both


def attribute(parts: Tensor, gain: Tensor, row: Tensor, eps: float) -> Tensor:
    """What each part added to one token's logit.

    parts: (P, D), vectors that sum to the last residual stream x. The logit is
    row . (gain * x / sqrt(mean(x^2) + eps)); gain and row: (D). With the scale 1 / sqrt(...) held at what it was for the
    sum, the logit is linear in the parts. Returns (P), which sum to the logit.
    """
    total = parts.sum(dim=0)
    scale = torch.rsqrt(total.pow(2).mean() + eps)
    return (parts * scale * gain) @ row


def oracle(parts: Tensor, gain: Tensor, row: Tensor, eps: float) -> Tensor:
    """Number by number, in double precision."""
    table = parts.double().tolist()
    total = [math.fsum(column) for column in zip(*table, strict=True)]
    rms = math.sqrt(math.fsum(x * x for x in total) / len(total) + eps)
    weights = [
        g * r / rms for g, r in zip(gain.double().tolist(), row.double().tolist(), strict=True)
    ]
    return torch.tensor(
        [math.fsum(x * w for x, w in zip(part, weights, strict=True)) for part in table]
    ).float()


def cases() -> list[Case]:
    """One part, two, many; parts that nearly cancel; a large eps."""
    draw = torch.Generator().manual_seed(233)
    found = []
    for count, size, eps in ((1, 3, 1e-5), (2, 4, 1e-5), (7, 5, 1e-5), (4, 6, 0.5)):
        parts = torch.randn(count, size, generator=draw) + 0.3
        gain, row = torch.randn(2, size, generator=draw)
        found.append(Case((parts, gain, row, eps)))
    parts = torch.randn(1, 4, generator=draw).repeat(3, 1) * torch.tensor([[1.0], [-0.9], [0.2]])
    found.append(Case((parts, *torch.randn(2, 4, generator=draw), 1e-5)))
    return found


def does_not_sum(runs: Sequence[Run]) -> Fields | None:
    """Whether the parts fail to add up to the logit."""
    for run in runs:
        parts, gain, row, eps = run.case.args
        total = parts.sum(0)
        logit = float((gain * total * torch.rsqrt(total.pow(2).mean() + eps)) @ row)
        got = float(torch.as_tensor(run.got).sum())
        if abs(got - logit) > 1e-3 * max(1, abs(logit)):
            return {"got": f"{got:.4g}", "logit": f"{logit:.4g}"}
    return None


EXERCISE = Exercise(
    number="23.3",
    title=Both("Who said it?", "是谁说的"),
    statement=Both(
        "Split one token's logit over the parts that wrote to the residual stream: the final RMSNorm's scale is that of the sum, and is "
        "held fixed. What you return must add up to the logit.",
        "把一个词元的 logit 拆给写入残差流的各个部分：最后 RMSNorm 的尺度取总和的尺度，并固定不变。返回的各项之和必须等于 logit。",
    ),
    solution=(attribute,),
    oracle={"attribute": oracle},
    cases=cases,
    invariants=(
        Invariant(
            "does_not_sum",
            Both(
                "the parts add up to {got}, but the logit is {logit}",
                "各部分之和是 {got}，而 logit 是 {logit}",
            ),
            does_not_sum,
        ),
    ),
    mistakes=(
        Mistake(
            "each_normed_alone",
            Both(
                "every part is divided by its own size; the norm divides the sum, so each must be divided by the size of the sum",
                "每个部分都除以了自己的大小；归一化作用于总和，所以都应除以总和的大小",
            ),
            edits=(
                (
                    "scale = torch.rsqrt(total.pow(2).mean() + eps)",
                    "scale = torch.rsqrt(parts.pow(2).mean(dim=-1, keepdim=True) + eps)",
                ),
            ),
        ),
        Mistake(
            "not_normed",
            Both("the norm's scale is left out", "漏掉了归一化的尺度"),
            edits=(("(parts * scale * gain)", "(parts * gain)"),),
        ),
        Mistake(
            "no_gain",
            Both("the norm's gain is left out", "漏掉了归一化的增益"),
            edits=(("(parts * scale * gain)", "(parts * scale)"),),
        ),
        Mistake(
            "size_of_the_mean",
            Both(
                "the scale is that of the mean of the parts; the stream is their sum",
                "尺度取的是各部分的平均；残差流是它们的和",
            ),
            edits=(("total = parts.sum(dim=0)", "total = parts.mean(dim=0)"),),
        ),
        Mistake(
            "length_instead_of_rms",
            Both(
                "divided by the vector's length, the root of the sum of squares; RMSNorm divides by the root of their mean",
                "除以的是向量长度（平方和的根）；RMSNorm 除以的是均方根",
            ),
            edits=(("total.pow(2).mean()", "total.pow(2).sum()"),),
        ),
        Mistake(
            "shares_of_one",
            Both(
                "shares that sum to 1 came back; the parts should sum to the logit, and some may be negative",
                "返回的是和为 1 的份额；各部分之和应等于 logit，其中有的可以为负",
            ),
            edits=(
                (
                    "return (parts * scale * gain) @ row",
                    "values = (parts * scale * gain) @ row\n    return values / values.sum()",
                ),
            ),
        ),
        Mistake(
            "difference_without_it",
            Both(
                "this is the change of the logit when a part is taken out and the norm is computed anew: ablation, not attribution",
                "这是去掉一个部分并重新做归一化后 logit 的变化：那是消融，不是归因",
            ),
            edits=(
                (
                    "return (parts * scale * gain) @ row",
                    "rest = total - parts\n    other = torch.rsqrt(rest.pow(2).mean(dim=-1, keepdim=True) + eps)\n"
                    "    return (total * scale * gain) @ row - (rest * other * gain) @ row",
                ),
            ),
        ),
    ),
    hints=(
        Both(
            "If the norm were only a multiplication by a fixed number, what would the logit of a sum be?",
            "如果归一化只是乘以一个固定的数，和的 logit 会是什么？",
        ),
        Both(
            "Compute that number once, from the sum of all parts.",
            "那个数只算一次，由所有部分的和得出。",
        ),
        Both(
            "Check: the sum of what you return equals the logit.",
            "检查：返回值之和等于 logit。",
        ),
    ),
)
