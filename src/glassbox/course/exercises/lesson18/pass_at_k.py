"""Exercise 18.1: the unbiased estimate of pass@k."""

from __future__ import annotations

import math
from fractions import Fraction

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that of k answers, drawn without putting back from n of which c are right, one is right at least.

    0 <= c <= n, 1 <= k <= n.
    """
    failed = math.comb(n - c, k) / math.comb(n, k)
    return 1.0 - failed


def oracle(n: int, c: int, k: int) -> float:
    """One draw after another, in fractions."""
    failed = Fraction(1)
    for drawn in range(k):
        failed *= Fraction(max(0, n - c - drawn), n - drawn)
    return float(1 - failed)


def cases() -> list[Case]:
    """None right, all right, one draw, fewer wrong ones than draws, and many samples."""
    numbers = (
        (2, 1, 1),
        (3, 0, 2),
        (3, 3, 1),
        (4, 1, 2),
        (5, 2, 3),
        (5, 3, 3),
        (10, 2, 5),
        (200, 3, 10),
    )
    return [Case(one) for one in numbers]


EXERCISE = Exercise(
    number="18.1",
    title=Both("pass@k without bias", "无偏的 pass@k"),
    statement=Both(
        "A problem was answered n times and c answers are right. Estimate pass@k, the probability that one of k answers is right: draw k of the n without putting "
        "them back, and return the probability that at least one of those is right.",
        "一道题回答了 n 次，对了 c 次。请估计 pass@k，即 k 个回答里至少有一个对的概率：从 n 个里不放回地取 k 个，返回其中至少有一个对的概率。",
    ),
    solution=(pass_at_k,),
    oracle={"pass_at_k": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "put_back",
            Both(
                "1 - (1 - c/n)^k draws with putting back: on average it is too low, most where n is not much larger than k",
                "1 - (1 - c/n)^k 是有放回的抽取：平均偏低，n 比 k 大不了多少时尤其明显",
            ),
            edits=(("math.comb(n - c, k) / math.comb(n, k)", "(1 - c / n) ** k"),),
        ),
        Mistake(
            "accuracy",
            Both("this is the share of right answers, whatever k is", "这只是正确率，与 k 无关"),
            edits=(("return 1.0 - failed", "return c / n"),),
        ),
        Mistake(
            "k_times_accuracy",
            Both(
                "the probabilities of k draws are added; both may be right at once, and the sum passes 1",
                "把 k 次的概率直接相加；它们可能同时为对，总和会超过 1",
            ),
            edits=(("return 1.0 - failed", "return min(1.0, k * c / n)"),),
        ),
        Mistake(
            "all_right",
            Both(
                "this is the probability that all k are right (sometimes called pass^k)",
                "这是 k 个全对的概率（有时记作 pass^k）",
            ),
            edits=(("return 1.0 - failed", "return math.comb(c, k) / math.comb(n, k)"),),
        ),
        Mistake(
            "all_wrong",
            Both("this is the probability that all k are wrong; the answer is 1 minus that", "这是 k 个全错的概率；应当用 1 去减"),
            edits=(("return 1.0 - failed", "return failed"),),
        ),
        Mistake(
            "exactly_one",
            Both("this is the probability of exactly one right answer among the k", "这是 k 个里恰好对一个的概率"),
            edits=(
                (
                    "return 1.0 - failed",
                    "return c * math.comb(n - c, k - 1) / math.comb(n, k)",
                ),
            ),
        ),
        Mistake(
            "few_wrong_ones",
            Both(
                "with fewer than k wrong answers no draw can miss all right ones: the probability is 1, here it is 0",
                "错的回答不足 k 个时，不可能一个对的都抽不到：概率是 1，这里给了 0",
            ),
            edits=(("return 1.0 - failed", "return 1.0 - failed if n - c >= k else 0.0"),),
        ),
    ),
    hints=(
        Both("How many ways are there to draw k of n? In how many are all of them wrong?", "从 n 个里取 k 个有多少种取法？其中全错的有多少种？"),
        Both("math.comb(a, b) is 0 where b > a.", "b > a 时 math.comb(a, b) 等于 0。"),
    ),
    imports="import math\n",
)  # fmt: skip
