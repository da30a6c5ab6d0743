"""Exercise 8.2: the learning rate of a step."""

from __future__ import annotations

import math

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def learning_rate(step: int, steps: int, peak: float, warmup: int, final: float) -> float:
    """The rate of step 1 ... steps: a straight rise to `peak` at step `warmup`, then half a cosine down to final * peak at the last step.

    0 <= warmup < steps. The first step of the rise already has peak / warmup.
    """
    if step <= warmup:
        return peak * step / warmup
    share = (step - warmup) / (steps - warmup)
    return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share)))


def oracle(step: int, steps: int, peak: float, warmup: int, final: float) -> float:
    """By the half-angle: (1 + cos x) / 2 = cos(x / 2)^2."""
    if step <= warmup:
        return step * (peak / warmup)
    half = math.cos(math.pi / 2 * (step - warmup) / (steps - warmup))
    return peak * final + (peak - peak * final) * half * half


def cases() -> list[Case]:
    """First, last and middle steps, the border, no warm-up, falling to zero."""
    found = [Case((step, 10, 2.0, 2, 0.1)) for step in (1, 2, 3, 6, 10)]
    found += [Case((1, 5, 1.0, 0, 0.0)), Case((5, 5, 1.0, 0, 0.0)), Case((3, 5, 1.0, 0, 0.5))]
    found += [Case((step, 100, 3e-4, 20, 0.05)) for step in (7, 20, 21, 60, 99, 100)]
    return found


EXERCISE = Exercise(
    number="8.2",
    title=Both("Warm-up and cosine", "预热与余弦"),
    statement=Both(
        "Return the learning rate of a step, counted from 1: a straight rise over `warmup` steps, then half a cosine down to `final` times the peak.",
        "返回某一步（从 1 数起）的学习率：先用 `warmup` 步直线上升，再沿半个余弦降到峰值的 `final` 倍。",
    ),
    solution=(learning_rate,),
    oracle={"learning_rate": oracle},
    cases=cases,
    imports="import math\n",
    mistakes=(
        Mistake(
            "starts_at_zero",
            Both(
                "the first step has rate 0: it is lost, and the peak comes one step late",
                "第一步学习率为 0：这一步白走，峰值也晚了一步",
            ),
            edits=(
                ("    if step <= warmup:\n", "    step = step - 1\n    if step < warmup:\n"),
                (
                    "    share = (step - warmup) / (steps - warmup)",
                    "    share = (step - warmup) / max(1, steps - 1 - warmup)",
                ),
            ),
        ),
        Mistake(
            "cosine_over_all_steps",
            Both(
                "the cosine runs over all steps, the warm-up included: it does not begin at the peak",
                "余弦把预热也算了进去：它不是从峰值开始的",
            ),
            edits=(("(step - warmup) / (steps - warmup)", "step / steps"),),
        ),
        Mistake(
            "whole_cosine",
            Both(
                "a whole cosine, down and up again: at the end the rate is at its peak",
                "用了整个余弦，降了又升：结束时又回到峰值",
            ),
            edits=(("math.pi * share", "2 * math.pi * share"),),
        ),
        Mistake(
            "falls_to_zero",
            Both(
                "the rate falls to zero, not to final * peak", "学习率降到了零，而不是 final * peak"
            ),
            edits=(
                (
                    "(final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share)))",
                    "0.5 * (1 + math.cos(math.pi * share))",
                ),
            ),
        ),
        Mistake(
            "final_added",
            Both(
                "the floor is added on top: the rate begins above its peak",
                "下限被直接加了上去：起点超过了峰值",
            ),
            edits=(("(final + (1 - final) * 0.5", "(final + 0.5"),),
        ),
        Mistake(
            "linear_fall",
            Both("the rate falls in a straight line", "学习率沿直线下降"),
            edits=(("0.5 * (1 + math.cos(math.pi * share))", "(1 - share)"),),
        ),
        Mistake(
            "final_absolute",
            Both(
                "`final` is taken for a rate; it is a share of the peak",
                "把 `final` 当成了学习率；它是峰值的一个比例",
            ),
            edits=(
                (
                    "peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share)))",
                    "final + (peak - final) * 0.5 * (1 + math.cos(math.pi * share))",
                ),
            ),
        ),
    ),
    hints=(
        Both(
            "What should steps 1, warmup and steps give? Check these three first.",
            "第 1 步、第 warmup 步和最后一步应当是多少？先检查这三个。",
        ),
        Both(
            "How much of the way down is done at this step, from 0 to 1?",
            "这一步在下降段走完了多少（0 到 1）？",
        ),
        Both(
            "(1 + cos(pi * share)) / 2 goes from 1 to 0.",
            "表达式 (1 + cos(pi * share)) / 2 从 1 降到 0。",
        ),
    ),
)
