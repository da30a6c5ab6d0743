"""Exercise 24.2: the loss of skip-gram with negative sampling."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def negative_sampling(v: Tensor, u: Tensor, centre: int, neighbour: int, drawn: list[int]) -> float:
    """-log sigmoid(v_c . u_n) - sum over drawn songs d of log sigmoid(-v_c . u_d), drawn songs equal to n left out.

    v: (N, D), vectors of songs as centres. u: (N, D), as neighbours. Scores may be large: use a stable
    log sigmoid.
    """
    total = -torch.nn.functional.logsigmoid(v[centre] @ u[neighbour])
    for song in drawn:
        if song != neighbour:
            total = total - torch.nn.functional.logsigmoid(-(v[centre] @ u[song]))
    return float(total)


def oracle(v: Tensor, u: Tensor, centre: int, neighbour: int, drawn: list[int]) -> float:
    """Number by number: -log sigmoid(x) = log(1 + exp(-x)), in double precision."""

    def surprise(x: float) -> float:
        return max(0.0, -x) + math.log1p(math.exp(-abs(x)))

    def score(song: int) -> float:
        return math.fsum(a * b for a, b in zip(v[centre].tolist(), u[song].tolist(), strict=True))

    others = [surprise(-score(song)) for song in drawn if song != neighbour]
    return math.fsum([surprise(score(neighbour)), *others])


def cases() -> list[Case]:
    """A few vectors; drawn songs that are the neighbour, that come twice, none; and large scores."""
    draw = torch.Generator().manual_seed(242)
    found = []
    for size, width, drawn in ((3, 2, [2]), (4, 3, [0, 3]), (6, 5, [1, 4, 4, 2]), (5, 2, [])):
        v, u = torch.randn(2, size, width, generator=draw)
        found.append(Case((v, u, 0, 1, drawn)))
    v, u = torch.randn(2, 6, 4, generator=draw)
    found.append(Case((v, u, 5, 2, [2, 3, 2, 0])))
    found.append(Case((40 * v, 40 * u, 3, 1, [0, 4])))
    return found


EXERCISE = Exercise(
    number="24.2",
    title=Both("Negative sampling", "负采样"),
    statement=Both(
        "Write the loss of one pair (centre, neighbour) and its drawn songs. A drawn song that happens to be the "
        "neighbour is left out: it would be called real and false at once.",
        "写出一对（中心，邻居）及其抽样歌曲的损失。如果抽到的恰好就是邻居，要跳过它：不能同时说它是真的又是假的。",
    ),
    solution=(negative_sampling,),
    oracle={"negative_sampling": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "drawn_neighbour_kept",
            Both(
                "a drawn song that is the neighbour itself is pushed away too",
                "抽到的歌恰好是邻居时，也把它推远了",
            ),
            edits=(("        if song != neighbour:\n    ", "        if True:\n    "),),
        ),
        Mistake(
            "wrong_sign_of_drawn",
            Both(
                "drawn songs are pulled closer: their score needs a minus inside the sigmoid",
                "抽样的歌被拉近了：sigmoid 里的分数要取负",
            ),
            edits=(("logsigmoid(-(v[centre] @ u[song]))", "logsigmoid(v[centre] @ u[song])"),),
        ),
        Mistake(
            "mean_of_drawn",
            Both(
                "the drawn songs are averaged instead of summed",
                "对抽样的歌取了平均，而不是求和",
            ),
            edits=(
                (
                    "total = total - torch.nn.functional.logsigmoid(-(v[centre] @ u[song]))",
                    "total = total - torch.nn.functional.logsigmoid(-(v[centre] @ u[song])) / len(drawn)",
                ),
            ),
        ),
        Mistake(
            "one_table",
            Both(
                "neighbours are looked up in the table of centres, v, instead of u",
                "邻居查的是中心的表 v，而不是 u",
            ),
            edits=(
                ("v[centre] @ u[neighbour]", "v[centre] @ v[neighbour]"),
                ("v[centre] @ u[song]", "v[centre] @ v[song]"),
            ),
        ),
        Mistake(
            "pair_of_neighbour_and_drawn",
            Both(
                "drawn songs are compared with the neighbour's vector, not with the centre's",
                "抽样的歌是与邻居的向量比较的，应当与中心比较",
            ),
            edits=(("-(v[centre] @ u[song])", "-(v[neighbour] @ u[song])"),),
        ),
        Mistake(
            "overflows",
            Both(
                "log(sigmoid(x)) of a large negative score is log(0): use logsigmoid, or log(1 + exp(-x)) with care",
                "分数是很大的负数时，log(sigmoid(x)) 变成 log(0)：用 logsigmoid，或小心地计算 log(1 + exp(-x))",
            ),
            edits=(
                (
                    "torch.nn.functional.logsigmoid(v[centre] @ u[neighbour])",
                    "torch.log(torch.sigmoid(v[centre] @ u[neighbour]))",
                ),
                (
                    "torch.nn.functional.logsigmoid(-(v[centre] @ u[song]))",
                    "torch.log(torch.sigmoid(-(v[centre] @ u[song])))",
                ),
            ),
        ),
        Mistake(
            "no_minus",
            Both(
                "the sign of the whole is wrong: a log-likelihood came back, not a loss",
                "整体符号反了：返回的是对数似然，不是损失",
            ),
            edits=(("return float(total)", "return -float(total)"),),
        ),
    ),
    hints=(
        Both(
            "The real pair is a yes-or-no question with the answer yes, each drawn song one with the answer no.",
            "真实的对是一个答案为“是”的判断题，每首抽来的歌是一个答案为“否”的判断题。",
        ),
        Both(
            "Use 1 - sigmoid(x) = sigmoid(-x).",
            "利用 1 - sigmoid(x) = sigmoid(-x)。",
        ),
        Both(
            "Start with -logsigmoid(v_c . u_n), and take off logsigmoid(-v_c . u_d) for each drawn d other than n.",
            "先写 -logsigmoid(v_c . u_n)，再对每个不等于 n 的 d 减去 logsigmoid(-v_c . u_d)。",
        ),
    ),
)
