"""Exercise 14.3: the best model size for a budget of compute."""

from __future__ import annotations

import math

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def best_size(budget: float, a: float, b: float, alpha: float, beta: float) -> tuple[float, float]:
    """The N and D with the lowest A / N^alpha + B / D^beta for which 6 N D = budget; returns (N, D)."""
    balance = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
    size = balance * (budget / 6) ** (beta / (alpha + beta))
    amount = budget / (6 * size)
    return size, amount


def oracle(budget: float, a: float, b: float, alpha: float, beta: float) -> tuple[float, float]:
    """By golden-section search over log N."""

    def loss(log_n: float) -> float:
        size = math.exp(log_n)
        return a * size**-alpha + b * (budget / (6 * size)) ** -beta

    low, high, part = 0.0, math.log(budget), (math.sqrt(5) - 1) / 2
    for _ in range(200):
        left, right = high - part * (high - low), low + part * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    size = math.exp((low + high) / 2)
    return size, budget / (6 * size)


def cases() -> list[Case]:
    """Equal exponents first, then laws as measured."""
    return [
        Case((600.0, 1.0, 1.0, 0.5, 0.5)),
        Case((6e6, 2.0, 1.0, 0.5, 0.5)),
        Case((1e6, 3.0, 5.0, 0.6, 0.4)),
        Case((1e9, 3.0, 5.0, 0.3, 0.6)),
        Case((5.76e23, 482.01, 2085.43, 0.3478, 0.3658)),
    ]


EXERCISE = Exercise(
    number="14.3",
    title=Both("The best size", "最优规模"),
    statement=Both(
        "A budget of C FLOPs buys a model of N weights and D tokens with 6 N D = C. Return the N and the D with the lowest loss "
        "E + A / N^alpha + B / D^beta.",
        "C FLOPs 的预算可以换来 N 个权重、D 个词元，满足 6 N D = C。请返回使损失 E + A / N^alpha + B / D^beta 最低的 N 和 D。",
    ),
    solution=(best_size,),
    oracle={"best_size": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "no_six",
            Both("the 6 is missing: N D = C was used for both", "漏了系数 6：用成了 N D = C"),
            edits=(("(budget / 6)", "budget"), ("(6 * size)", "size")),
        ),
        Mistake(
            "six_missing_in_data",
            Both(
                "N is right, but D is C / N: together they cost six times the budget",
                "N 是对的，但 D 取成了 C / N：总开销是预算的六倍",
            ),
            edits=(("(6 * size)", "size"),),
        ),
        Mistake(
            "exponents_swapped",
            Both(
                "the power of C is alpha / (alpha + beta); that is the one of D: the steeper a term falls, the less of its quantity is needed",
                "C 的指数用了 alpha / (alpha + beta)，那是 D 的指数：哪一项下降得快，哪个量就可以少一些",
            ),
            edits=(("(beta / (alpha + beta))", "(alpha / (alpha + beta))"),),
        ),
        Mistake(
            "balance_inverted",
            Both(
                "A and B stand the wrong way round: a large A asks for a larger model",
                "A 与 B 放反了：A 越大，越需要更大的模型",
            ),
            edits=(("(alpha * a / (beta * b))", "(beta * b / (alpha * a))"),),
        ),
        Mistake(
            "terms_equal",
            Both(
                "N and D make the two terms equal; at the minimum it is alpha A / N^alpha and beta B / D^beta that are equal",
                "求的是两项相等的位置；最小值处相等的是 alpha A / N^alpha 与 beta B / D^beta",
            ),
            edits=(("(alpha * a / (beta * b))", "(a / b)"),),
        ),
        Mistake(
            "split_evenly",
            Both(
                "N and D grow alike, as the square root of C; that holds only where alpha = beta",
                "N 与 D 都按 C 的平方根增长；只有 alpha = beta 时才这样",
            ),
            edits=(("(beta / (alpha + beta))", "0.5"),),
        ),
        Mistake(
            "root_missing",
            Both(
                "the factor is not raised to 1 / (alpha + beta)",
                "前面的系数漏了 1 / (alpha + beta) 次方",
            ),
            edits=((" ** (1 / (alpha + beta))", ""),),
        ),
        Mistake(
            "order_swapped",
            Both("the order is (N, D); it returns (D, N)", "应返回 (N, D)，这里返回了 (D, N)"),
            edits=(("return size, amount", "return amount, size"),),
        ),
    ),
    hints=(
        Both(
            "Put D = C / 6N into the loss: it has one unknown left.",
            "把 D = C / 6N 代入损失，就只剩一个未知数。",
        ),
        Both(
            "Multiply the derivative by N: alpha A N^-alpha = beta B D^-beta.",
            "导数乘以 N，得到 alpha A N^-alpha = beta B D^-beta。",
        ),
        Both(
            "A numerical search over log N is a right answer too.",
            "在 log N 上做数值搜索也可以。",
        ),
    ),
    imports="import math\n",
    tolerance=1e-3,  # a numerical search finds a flat minimum's place to about 1e-6 of its logarithm
)
