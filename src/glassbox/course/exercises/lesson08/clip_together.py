"""Exercise 8.3: clipping by the length of all gradients together."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def clip_together(gradients: list[Tensor], most: float) -> tuple[float, list[Tensor]]:
    """(the length of all gradients together, the gradients clipped to it).

    The length is the root of the sum of all squares. If it is above `most`, every gradient is multiplied by most / length; else they are
    left as they are. The tensors that are given are not changed.
    """
    length = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    scale = most / length if length > most else 1.0
    return length, [g * scale for g in gradients]


def oracle(gradients: list[Tensor], most: float) -> tuple[float, list[Tensor]]:
    """All in one vector, in double precision."""
    whole = torch.cat([g.double().flatten() for g in gradients])
    length = float(whole.norm())
    scale = min(1.0, most / length) if length else 1.0
    return length, [(g.double() * scale).float() for g in gradients]


def cases() -> list[Case]:
    """Below and above the bound, several tensors of unlike size, zeros."""
    draw = torch.Generator().manual_seed(83)
    found = [
        Case(([torch.tensor([3.0, 4.0])], 1.0)),
        Case(([torch.tensor([3.0, 4.0])], 10.0)),
        Case(([torch.tensor([3.0]), torch.tensor([[4.0]])], 2.5)),
        Case(([torch.zeros(2, 2), torch.zeros(3)], 1.0)),
    ]
    for most in (0.5, 3.0, 100.0):
        shapes = ((2, 3), (4,), (1, 5))
        found.append(
            Case(([torch.randn(*s, generator=draw) * (n + 1) for n, s in enumerate(shapes)], most))
        )
    return found


EXERCISE = Exercise(
    number="8.3",
    title=Both("Clip all gradients together", "把所有梯度一起裁剪"),
    statement=Both(
        "Return the length of all gradients together and the gradients, shortened to `most` where they are longer. The direction must stay.",
        "返回所有梯度合在一起的长度，以及裁剪后的梯度：超过 `most` 时缩短到 `most`。方向必须不变。",
    ),
    solution=(clip_together,),
    oracle={"clip_together": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "each_alone",
            Both(
                "every tensor is clipped by its own length: the direction of the step changes",
                "每个张量按自己的长度裁剪：这一步的方向变了",
            ),
            edits=(
                (
                    "[g * scale for g in gradients]",
                    "[g * min(1.0, most / max(1e-12, float(g.norm()))) for g in gradients]",
                ),
            ),
        ),
        Mistake(
            "lengths_added",
            Both(
                "the tensors' lengths are added; it is their squares that add up",
                "把各张量的长度相加了；应相加的是平方",
            ),
            edits=(
                (
                    "math.sqrt(sum(float(g.square().sum()) for g in gradients))",
                    "sum(math.sqrt(float(g.square().sum())) for g in gradients)",
                ),
            ),
        ),
        Mistake(
            "always_scaled",
            Both(
                "short gradients are made longer: the bound is for those above it alone",
                "短的梯度被拉长了：上限只针对超过它的",
            ),
            edits=(
                ("most / length if length > most else 1.0", "most / length if length > 0 else 1.0"),
            ),
        ),
        Mistake(
            "entries_cut",
            Both(
                "every entry is cut to [-most, most]; that turns the direction",
                "把每个分量限制在 [-most, most]；方向因此改变",
            ),
            edits=(
                ("[g * scale for g in gradients]", "[g.clamp(-most, most) for g in gradients]"),
            ),
        ),
        Mistake(
            "no_root",
            Both(
                "the length is not the root of the sum of squares, but the sum itself",
                "长度没有开方，用的是平方和本身",
            ),
            edits=(
                (
                    "math.sqrt(sum(float(g.square().sum()) for g in gradients))",
                    "sum(float(g.square().sum()) for g in gradients)",
                ),
            ),
        ),
        Mistake(
            "length_after",
            Both(
                "the length after clipping came back; it is wanted before, since it shows that something happened",
                "返回的是裁剪之后的长度；要的是之前的，它才能说明发生了什么",
            ),
            edits=(("return length, [", "return min(length, most), ["),),
        ),
        Mistake(
            "mean_of_squares",
            Both(
                "the mean of the squares is taken instead of their sum",
                "取的是平方的平均而不是总和",
            ),
            edits=(
                (
                    "math.sqrt(sum(float(g.square().sum()) for g in gradients))",
                    "math.sqrt(sum(float(g.square().sum()) for g in gradients) / sum(g.numel() for g in gradients))",
                ),
            ),
        ),
    ),
    hints=(
        Both(
            "What is the length of [3] and [[4]] together?",
            "把 [3] 和 [[4]] 合在一起，长度是多少？",
        ),
        Both(
            "One factor for all tensors keeps the direction.", "所有张量乘同一个系数，方向才不变。"
        ),
        Both(
            "scale = most / length where length > most, else 1.",
            "若 length > most，则 scale = most / length，否则为 1。",
        ),
    ),
)
