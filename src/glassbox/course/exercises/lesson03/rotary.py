"""Exercise 3.2: rotary positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Fields, Invariant, Mistake, Run
from glassbox.course.language import Both
from glassbox.ops.rotary import apply_rotary_plain, rotary_frequencies, rotary_tables


def rotary(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """Turn each query or key by its position.

    x: (T, D), positions: (T). Channel i and channel i + D / 2 form a pair (the layout of Llama and Qwen), turned
    by the angle position * base^(-2i / D): (a, b) -> (a cos - b sin, b cos + a sin). Returns (T, D).
    """
    half = x.shape[-1] // 2
    frequency = base ** (-2 * torch.arange(half).float() / x.shape[-1])
    angle = positions.float()[:, None] * frequency
    cos, sin = angle.cos(), angle.sin()
    a, b = x[:, :half], x[:, half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def oracle(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """Ours."""
    cos, sin = rotary_tables(positions, rotary_frequencies(x.shape[-1], base))
    return apply_rotary_plain(x, cos, sin)


def cases() -> list[Case]:
    """Position 0; some positions; one position of decoding; then equal vectors, for distances."""
    draw = torch.Generator().manual_seed(32)
    found = []
    for positions, size in (
        ([0], 2),
        ([1], 2),
        ([0, 1, 2], 4),
        ([3], 6),
        ([5, 6], 8),
        ([0, 2, 7, 9], 8),
    ):
        x = torch.randn(len(positions), size, generator=draw).round(decimals=2)
        found.append(Case((x, torch.tensor(positions), 10000.0 if size > 4 else 100.0)))
    same = torch.randn(1, 8, generator=draw).expand(6, 8).contiguous()
    return [*found, Case((same, torch.arange(6) * 2 + 1, 50.0), tag="equal vectors")]


def distance_matters(runs: Sequence[Run]) -> Fields | None:
    """Whether products of neighbours differ where only distances may count."""
    for run in runs:
        if run.case.tag == "equal vectors":
            turned = torch.as_tensor(run.got)
            products = (turned[1:] * turned[:-1]).sum(-1)
            if (products - products[0]).abs().max() > 1e-3:
                return {"first": f"{products[0]:.3f}", "other": f"{products[-1]:.3f}"}
    return None


EXERCISE = Exercise(
    number="3.2",
    title=Both("Rotary positions", "旋转位置编码"),
    statement=Both(
        "Turn each row of `x` by its position. Channels i and i + D / 2 are a pair; its angle is position * "
        "base^(-2i / D). After that the product of a query and a key depends on their distance alone. Positions are given: when "
        "decoding, one row comes with position 57.",
        "按位置旋转 `x` 的每一行。通道 i 与 i + D / 2 组成一对，旋转角度是 position * base^(-2i / D)。"
        "旋转之后，查询与键的点积只取决于两者的距离。位置由参数给出：解码时可能只来一行，而位置是 57。",
    ),
    solution=(rotary,),
    oracle={"rotary": oracle},
    cases=cases,
    invariants=(
        Invariant(
            "distance_matters",
            Both(
                "equal vectors at equal distances give different products: {first} and {other}",
                "相同的向量、相同的距离，点积却不同：{first} 与 {other}",
            ),
            distance_matters,
        ),
    ),
    mistakes=(
        Mistake(
            "positions_ignored",
            Both(
                "rows are turned by their row numbers, not by `positions`: when decoding, every new token is turned as position 0",
                "用行号而不是 `positions` 来旋转：解码时每个新词元都会被当成位置 0",
            ),
            edits=(("positions.float()[:, None]", "torch.arange(len(x)).float()[:, None]"),),
        ),
        Mistake(
            "neighbours_paired",
            Both(
                "neighbouring channels 2i and 2i + 1 are paired (GPT-J's layout); here channel i goes with i + D / 2",
                "把相邻通道 2i 与 2i + 1 配成了一对（GPT-J 的布局）；这里是通道 i 与 i + D / 2",
            ),
            edits=(
                ("x[:, :half], x[:, half:]", "x[:, ::2], x[:, 1::2]"),
                (
                    "torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)",
                    "torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(1)",
                ),
            ),
        ),
        Mistake(
            "turned_backwards",
            Both(
                "the rotation goes the other way: the signs of the sines are swapped",
                "旋转方向反了：正弦的符号颠倒了",
            ),
            edits=(
                ("a * cos - b * sin, b * cos + a * sin", "a * cos + b * sin, b * cos - a * sin"),
            ),
        ),
        Mistake(
            "no_rotation",
            Both(
                "both parts have the same sign, which is no rotation: lengths change",
                "两个式子的符号相同，这不是旋转：向量长度变了",
            ),
            edits=(("a * cos - b * sin", "a * cos + b * sin"),),
        ),
        Mistake(
            "exponent_not_doubled",
            Both(
                "the exponent is i / D; for pair i it is 2i / D",
                "指数用了 i / D；第 i 对应为 2i / D",
            ),
            edits=(("-2 * torch.arange", "-1 * torch.arange"),),
        ),
        Mistake(
            "one_frequency",
            Both("all pairs turn by the same angle", "所有的对都转了同样的角度"),
            edits=(("-2 * torch.arange(half).float()", "0 * torch.arange(half).float()"),),
        ),
        Mistake(
            "frequencies_reversed",
            Both(
                "the frequencies run the wrong way: pair 0 turns fastest, by 1 radian a position",
                "频率的顺序反了：第 0 对转得最快，每个位置 1 弧度",
            ),
            edits=(("torch.arange(half).float()", "torch.arange(half).flip(0).float()"),),
        ),
    ),
    hints=(
        Both(
            "Draw two channels as a point in the plane. Which matrix turns it by an angle?",
            "把两个通道画成平面上的一个点。旋转一个角度的矩阵是什么？",
        ),
        Both(
            "Angles are a (T, D / 2) table: positions down, frequencies across.",
            "角度是一张 (T, D / 2) 的表：纵向是位置，横向是频率。",
        ),
        Both(
            "A rotation keeps lengths: compare the norms of rows before and after.",
            "旋转不改变长度：比较旋转前后各行的范数。",
        ),
    ),
    imports="import torch\nfrom torch import Tensor\n",
)
