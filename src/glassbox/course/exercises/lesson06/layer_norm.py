"""Exercise 6.1: layer normalization."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both
from glassbox.ops.norms import layer_norm_plain


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis.

    x: (B, T, D); weight, bias: (D). The variance is the mean of the squared deviations.
    """
    mean = x.mean(dim=-1, keepdim=True)
    variance = (x - mean).square().mean(dim=-1, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * weight + bias


def oracle(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Ours."""
    return layer_norm_plain(x, weight, bias, eps=eps)


def cases() -> list[Case]:
    """Small and larger ones, means far from zero, a large eps, and a constant row."""
    draw = torch.Generator().manual_seed(61)
    found = []
    for shape, eps, far in (((1, 1, 2), 1e-5, 0.0), ((1, 2, 4), 0.5, 1.0), ((2, 3, 6), 1e-5, 3.0)):
        x = torch.randn(shape, generator=draw).round(decimals=2) + far
        weight, bias = torch.randn(2, shape[-1], generator=draw).round(decimals=2)
        found.append(Case((x, weight + 2, bias, eps)))
    return [*found, Case((torch.ones(1, 2, 4), torch.ones(4), torch.zeros(4), 1e-5))]


EXERCISE = Exercise(
    number="6.1",
    title=Both("Layer normalization", "层归一化"),
    statement=Both(
        "Normalize every vector of `x` (B, T, D) by itself: subtract its mean, divide by the root of its variance plus eps, then "
        "scale by `weight` and shift by `bias`.",
        "对 `x`（B, T, D）中的每个向量单独做归一化：减去均值，除以方差加 eps 的平方根，再乘以 `weight`、加上 `bias`。",
    ),
    solution=(layer_norm,),
    oracle={"layer_norm": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "unbiased_variance",
            Both(
                "the variance is divided by D - 1 (torch's default for var and std); layer normalization divides by D",
                "方差除以了 D - 1（torch 的 var、std 默认如此）；层归一化除以 D",
            ),
            edits=(
                (
                    ".square().mean(dim=-1, keepdim=True)",
                    ".square().sum(dim=-1, keepdim=True) / (x.shape[-1] - 1)",
                ),
            ),
        ),
        Mistake(
            "eps_outside_root",
            Both(
                "eps is added to the standard deviation; it belongs under the root",
                "eps 加在了标准差上，应当加在根号里",
            ),
            edits=(("(variance + eps).sqrt()", "(variance.sqrt() + eps)"),),
        ),
        Mistake(
            "no_root",
            Both("the division is by the variance; take its square root", "除的是方差，漏了开平方"),
            edits=(("(variance + eps).sqrt()", "(variance + eps)"),),
        ),
        Mistake(
            "mean_kept",
            Both(
                "the mean is not subtracted: that would be RMSNorm, were the variance computed without it, too",
                "没有减去均值：方差若也不减均值，那就是 RMSNorm 了",
            ),
            edits=(("return (x - mean) /", "return x /"),),
        ),
        Mistake(
            "rms_norm",
            Both(
                "this is RMSNorm: the mean is never subtracted",
                "这是 RMSNorm：自始至终没有减去均值",
            ),
            edits=(("mean = x.mean(dim=-1, keepdim=True)", "mean = torch.zeros(())"),),
        ),
        Mistake(
            "over_positions",
            Both(
                "the statistics run over positions (axis 1); each position is normalized by itself",
                "统计量沿位置（第 1 维）计算了；应当每个位置各自归一化",
            ),
            edits=(
                ("mean = x.mean(dim=-1, keepdim=True)", "mean = x.mean(dim=1, keepdim=True)"),
                (".square().mean(dim=-1, keepdim=True)", ".square().mean(dim=1, keepdim=True)"),
            ),
        ),
        Mistake(
            "over_everything",
            Both(
                "one mean and variance for the whole tensor; each vector has its own",
                "整个张量共用一个均值和方差；每个向量应有自己的",
            ),
            edits=(
                ("mean = x.mean(dim=-1, keepdim=True)", "mean = x.mean()"),
                (".square().mean(dim=-1, keepdim=True)", ".square().mean()"),
            ),
        ),
        Mistake(
            "no_bias",
            Both("the bias is not added", "没有加上偏置"),
            edits=((".sqrt() * weight + bias", ".sqrt() * weight"),),
        ),
    ),
    hints=(
        Both(
            "For x of (B, T, D), which shape do mean and variance have?",
            "x 的形状是 (B, T, D) 时，均值和方差是什么形状？",
        ),
        Both(
            "Compare with F.layer_norm on one vector of four numbers, by hand.",
            "取一个四维向量，手算后与 F.layer_norm 比较。",
        ),
    ),
    imports="import torch\nfrom torch import Tensor\n",
)
