"""Exercise 19.3: a difference between two models on the same questions, and its error."""

from __future__ import annotations

import math

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def paired_difference(a: list[float], b: list[float]) -> tuple[float, float]:
    """(mean of b - a, its standard error) over questions that both models answered.

    a, b: scores of the same n >= 2 questions, in the same order. The error is s / sqrt(n), s the sample standard deviation of the differences
    (n - 1 below the root).
    """
    d = [y - x for x, y in zip(a, b, strict=True)]
    n = len(d)
    mean = sum(d) / n
    variance = sum((value - mean) ** 2 for value in d) / (n - 1)
    return mean, math.sqrt(variance / n)


def oracle(a: list[float], b: list[float]) -> tuple[float, float]:
    """By the library of statistics."""
    import statistics

    d = [y - x for x, y in zip(a, b, strict=True)]
    return statistics.fmean(d), statistics.stdev(d) / len(d) ** 0.5


def cases() -> list[Case]:
    """Two questions, right and wrong answers that mostly agree, and scores between 0 and 1."""
    import random

    draw = random.Random(193)
    found = [Case(([0.0, 1.0], [1.0, 1.0])), Case(([1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0]))]
    for n in (10, 40):
        a = [float(draw.random() < 0.6) for _ in range(n)]
        b = [x if draw.random() < 0.8 else 1.0 - x for x in a]
        found.append(Case((a, b)))
    found.append(
        Case(([draw.random() for _ in range(12)], [draw.random() + 0.2 for _ in range(12)]))
    )
    return found


EXERCISE = Exercise(
    number="19.3",
    title=Both("The error of a paired difference", "配对差的误差"),
    statement=Both(
        "Return by how much model b is better than model a, and the standard error of that number, when both answered the same questions.",
        "两个模型回答了同样的题：返回 b 比 a 好多少，以及这个数的标准误。",
    ),
    solution=(paired_difference,),
    oracle={"paired_difference": oracle},
    cases=cases,
    imports="import math\n",
    mistakes=(
        Mistake(
            "unpaired",
            Both(
                "the error is that of two models on different questions; what the questions have in common must not count",
                "误差是按两个模型答不同的题来算的；题目的共同部分不该计入",
            ),
            edits=(
                (
                    "    variance = sum((value - mean) ** 2 for value in d) / (n - 1)\n",
                    "    means = [sum(x) / n for x in (a, b)]\n"
                    "    variance = sum(sum((v - m) ** 2 for v in x) for x, m in zip((a, b), means, strict=True)) / (n - 1)\n",
                ),
            ),
        ),
        Mistake(
            "not_divided_by_n",
            Both(
                "this is the standard deviation of one difference; the mean of n has an error smaller by sqrt(n)",
                "这是单个差的标准差；n 个差的平均，误差要小 sqrt(n) 倍",
            ),
            edits=(("math.sqrt(variance / n)", "math.sqrt(variance)"),),
        ),
        Mistake(
            "divided_by_n_outside",
            Both("divided by n where it should be sqrt(n)", "除以了 n，应当除以 sqrt(n)"),
            edits=(("math.sqrt(variance / n)", "math.sqrt(variance) / n"),),
        ),
        Mistake(
            "n_below",
            Both("the variance is divided by n, not n - 1", "方差除以了 n，而不是 n - 1"),
            edits=(("/ (n - 1)", "/ n"),),
        ),
        Mistake(
            "sign_turned",
            Both("the sign is turned round: b - a is wanted", "符号反了：要的是 b - a"),
            edits=(("[y - x for x", "[x - y for x"),),
        ),
        Mistake(
            "not_centred",
            Both(
                "the squares are taken of the differences themselves, not of what they lie off their mean",
                "平方的是差本身，而不是差与平均的偏离",
            ),
            edits=(("(value - mean) ** 2", "value ** 2"),),
        ),
        Mistake(
            "variance_returned",
            Both(
                "the root is missing: this is the square of the error", "没有开方：这是误差的平方"
            ),
            edits=(("math.sqrt(variance / n)", "variance / n"),),
        ),
    ),
    hints=(
        Both(
            "Questions that both have right say nothing about the difference. Which number is 0 there?",
            "两者都答对的题对差异毫无信息。哪个数在那里等于 0？",
        ),
        Both("Work with the list of differences alone.", "只用差的列表来算。"),
        Both(
            "Standard deviation of the differences (n - 1), divided by sqrt(n).",
            "差的标准差（用 n - 1），再除以 sqrt(n)。",
        ),
    ),
)
