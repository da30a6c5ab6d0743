"""Exercise 17.3: the generalized Jensen-Shannon divergence."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both
from glassbox.tuning.distillation.divergences import divergence


def jensen_shannon(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """beta KL(p || m) + (1 - beta) KL(q || m) of every position, with m = beta p + (1 - beta) q.

    student, teacher: logits (N, V), p and q their softmax: p the teacher's, q the student's. Returns (N,).
    """
    p, q = teacher.softmax(dim=-1), student.softmax(dim=-1)
    m = beta * p + (1 - beta) * q
    first = (p * (p / m).log()).sum(dim=-1)
    second = (q * (q / m).log()).sum(dim=-1)
    return beta * first + (1 - beta) * second


def oracle(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """Ours."""
    return divergence(student, teacher, kind="js", js_beta=beta)


def cases() -> list[Case]:
    """One position with equal weights, then weights that tell teacher and student apart."""
    draw = torch.Generator().manual_seed(173)
    found = []
    for rows, vocab, beta in ((1, 2, 0.5), (2, 3, 0.3), (3, 5, 0.8), (2, 8, 0.1)):
        student, teacher = 1.5 * torch.randn(2, rows, vocab, generator=draw)
        found.append(Case((student, teacher, beta)))
    return found


EXERCISE = Exercise(
    number="17.3",
    title=Both("Between both directions", "两个方向之间"),
    statement=Both(
        "The generalized Jensen-Shannon divergence lies between forward and reverse KL, and is never larger than log 2. Compute it for every position from "
        "the two models' logits.",
        "广义 Jensen-Shannon 散度介于正向与反向 KL 之间，且不超过 log 2。请由两个模型的 logit 算出每个位置的值。",
    ),
    solution=(jensen_shannon,),
    oracle={"jensen_shannon": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "logits_mixed",
            Both(
                "the logits are averaged instead of the probabilities: that is a geometric mean, and the result is not bounded",
                "平均的是 logit 而不是概率：那是几何平均，结果没有上界",
            ),
            edits=(("m = beta * p + (1 - beta) * q", "m = (beta * teacher + (1 - beta) * student).softmax(dim=-1)"),),
        ),
        Mistake(
            "beta_swapped",
            Both(
                "beta belongs to the teacher, here it is given to the student",
                "beta 是教师的权重，这里给了学生",
            ),
            edits=(
                ("m = beta * p + (1 - beta) * q", "m = beta * q + (1 - beta) * p"),
                ("beta * first + (1 - beta) * second", "beta * second + (1 - beta) * first"),
            ),
        ),
        Mistake(
            "weights_swapped",
            Both(
                "the mixture is right, but the two divergences have each other's weight",
                "混合分布是对的，但两个散度的权重互换了",
            ),
            edits=(("beta * first + (1 - beta) * second", "beta * second + (1 - beta) * first"),),
        ),
        Mistake(
            "half_mixture",
            Both("the mixture is half and half whatever beta is", "不管 beta 是多少，混合分布总是各半"),
            edits=(("m = beta * p + (1 - beta) * q", "m = (p + q) / 2"),),
        ),
        Mistake(
            "not_weighted",
            Both("the two divergences are added without weights", "两个散度直接相加，没有加权"),
            edits=(("beta * first + (1 - beta) * second", "first + second"),),
        ),
        Mistake(
            "from_the_mixture",
            Both(
                "the divergences are KL(m || p) and KL(m || q); here the mixture stands behind the bars",
                "算成了 KL(m || p) 和 KL(m || q)；混合分布应当在竖线后面",
            ),
            edits=(
                ("(p * (p / m).log())", "(m * (m / p).log())"),
                ("(q * (q / m).log())", "(m * (m / q).log())"),
            ),
        ),
        Mistake(
            "teacher_alone",
            Both("the student's divergence from the mixture is missing", "漏了学生到混合分布的散度"),
            edits=((" + (1 - beta) * second", ""),),
        ),
    ),
    hints=(
        Both("Make the mixture of probabilities first.", "先算概率的混合分布。"),
        Both("For beta = 0.5 the result is symmetric: swapping both models must change nothing.", "beta = 0.5 时结果是对称的：交换两个模型，值不变。"),
    ),
)  # fmt: skip
