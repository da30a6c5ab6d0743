"""Exercise 12.2: the mask of linear attention's matrix form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def decay_mask(log_decay: Tensor) -> Tensor:
    """L (T, T): L[t, s] = decay_(s+1) ... decay_t for s <= t (1 on the diagonal), else 0.

    log_decay: (T), logarithms of the decays, at most 0 and perhaps very small: the product of all may be zero in float32, and the mask must still be
    right near the diagonal.
    """
    total = log_decay.double().cumsum(dim=0)
    length = len(log_decay)
    lower = torch.ones(length, length, dtype=torch.bool).tril()
    exponent = (total[:, None] - total[None, :]).masked_fill(~lower, -math.inf)
    return exponent.exp().to(log_decay.dtype)


def oracle(log_decay: Tensor) -> Tensor:
    """Each entry's own sum."""
    values = log_decay.double().tolist()
    rows = [
        [math.exp(math.fsum(values[s + 1 : t + 1])) if s <= t else 0.0 for s in range(len(values))]
        for t in range(len(values))
    ]
    return torch.tensor(rows).float()


def cases() -> list[Case]:
    """One token, several, and decays whose product underflows."""
    draw = torch.Generator().manual_seed(122)
    found = [
        Case((torch.tensor([-0.5]),)),
        Case((torch.tensor([-0.1, -0.7]),)),
        Case((torch.tensor([-0.2, -0.3, -1.0, -0.05]),)),
    ]
    found.append(Case((-torch.rand(6, generator=draw),)))
    found.append(Case((torch.tensor([-90.0, -80.0, -0.5, -70.0, -0.1]),)))
    return found


EXERCISE = Exercise(
    number="12.2",
    title=Both("The mask that decays", "带衰减的掩码"),
    statement=Both(
        "Build the mask L of linear attention's matrix form from the logarithms of the decays, without overflow or division by zero.",
        "由衰减的对数构造线性注意力矩阵形式的掩码 L，既不溢出也不除以零。",
    ),
    solution=(decay_mask,),
    oracle={"decay_mask": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "not_causal",
            Both(
                "entries above the diagonal are not 0: later tokens are read",
                "对角线以上不为 0：读到了后面的词元",
            ),
            edits=((".masked_fill(~lower, -math.inf)", ""),),
        ),
        Mistake(
            "own_decay_counted",
            Both(
                "the pair's own decay is in the product too: the diagonal must be 1",
                "把这一对自己的衰减也乘了进去：对角线应当为 1",
            ),
            edits=(("total[None, :])", "total[None, :] + log_decay[None, :])"),),
        ),
        Mistake(
            "quotient_of_products",
            Both(
                "exponentials are divided by each other; where the product is 0 that is 0 / 0. Take the difference of the logarithms first",
                "用指数相除；乘积为 0 时就成了 0 / 0。应先取对数之差",
            ),
            edits=(
                (
                    "    exponent = (total[:, None] - total[None, :]).masked_fill(~lower, -math.inf)\n    return exponent.exp().to(log_decay.dtype)",
                    "    product = total.float().exp()\n    return (product[:, None] / product[None, :]).masked_fill(~lower, 0)",
                ),
            ),
        ),
        Mistake(
            "transposed",
            Both(
                "the mask is transposed: row t belongs to the query t",
                "掩码转置了：第 t 行属于查询 t",
            ),
            edits=(
                (
                    "return exponent.exp().to(log_decay.dtype)",
                    "return exponent.exp().to(log_decay.dtype).T",
                ),
            ),
        ),
        Mistake(
            "strictly_lower",
            Both("the diagonal is 0: a token does not read itself", "对角线为 0：词元读不到自己"),
            edits=((".tril()", ".tril(-1)"),),
        ),
        Mistake(
            "no_sums",
            Both(
                "only the decay of the last token is taken, not the product of all between",
                "只用了最后一个词元的衰减，没有把中间的都乘起来",
            ),
            edits=(
                (
                    "exponent = (total[:, None] - total[None, :])",
                    "exponent = (log_decay.double()[:, None] - 0 * total[None, :]).fill_diagonal_(0)",
                ),
            ),
        ),
        Mistake(
            "logarithms_left",
            Both("these are logarithms: the exponential is missing", "这是对数：漏了取指数"),
            edits=(
                (
                    "return exponent.exp().to(log_decay.dtype)",
                    "return exponent.masked_fill(~lower, 0).to(log_decay.dtype)",
                ),
            ),
        ),
    ),
    hints=(
        Both(
            "Write the 3 x 3 mask for decays a, b, c by hand. Where is a?",
            "手写衰减为 a、b、c 时的 3 x 3 掩码。a 出现在哪里？",
        ),
        Both(
            "A product from s + 1 to t is a difference of two cumulative sums of logarithms.",
            "从 s + 1 到 t 的乘积，是两个对数累计和之差。",
        ),
        Both(
            "Set what is above the diagonal to minus infinity before the exponential.",
            "取指数之前，把对角线以上设成负无穷。",
        ),
    ),
)
