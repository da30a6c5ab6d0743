"""Exercise 3.1: sinusoidal positions."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both
from glassbox.ops.sinusoidal import sinusoidal


def sinusoidal_positions(length: int, size: int) -> Tensor:
    """(length, size): entry [p, 2i] is sin(p / 10000^(2i / size)), entry [p, 2i + 1] the cosine of the same.

    Positions begin at 0; size is even.
    """
    position = torch.arange(length).float()[:, None]
    exponent = torch.arange(0, size, 2).float() / size
    angle = position / 10000**exponent
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)


def oracle(length: int, size: int) -> Tensor:
    """Ours."""
    return sinusoidal(torch.arange(length), size)


EXERCISE = Exercise(
    number="3.1",
    title=Both("Sinusoidal positions", "正弦位置编码"),
    statement=Both(
        "Return the position vectors of the first `length` positions: channel 2i is sin(p / 10000^(2i / size)), channel "
        "2i + 1 the cosine of the same angle, so that sines and cosines alternate.",
        "返回前 `length` 个位置的位置向量：第 2i 个通道是 sin(p / 10000^(2i / size))，第 2i + 1 个通道是同一角度的余弦，"
        "正弦与余弦交替排列。",
    ),
    solution=(sinusoidal_positions,),
    oracle={"sinusoidal_positions": oracle},
    cases=lambda: [Case(size) for size in ((1, 2), (2, 2), (2, 4), (3, 6), (5, 8), (40, 16))],
    mistakes=(
        Mistake(
            "halves_not_interleaved",
            Both(
                "all sines come first, then all cosines; here they alternate (both are used: know which a checkpoint has)",
                "先放了全部正弦，再放全部余弦；这里要求两者交替（两种排列都有人用，要清楚检查点用的是哪一种）",
            ),
            edits=(
                (
                    "torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)",
                    "torch.cat((angle.sin(), angle.cos()), dim=-1)",
                ),
            ),
        ),
        Mistake(
            "cosine_first",
            Both("the cosine stands before the sine", "余弦排在了正弦前面"),
            edits=(("(angle.sin(), angle.cos())", "(angle.cos(), angle.sin())"),),
        ),
        Mistake(
            "exponent_not_doubled",
            Both(
                "the exponent is i / size for pair i; it is 2i / size, so the wavelengths reach 10000 * 2 pi",
                "第 i 对的指数用了 i / size，应为 2i / size：波长要一直延伸到 10000 * 2 pi 附近",
            ),
            edits=(
                (
                    "torch.arange(0, size, 2).float() / size",
                    "torch.arange(size // 2).float() / size",
                ),
            ),
        ),
        Mistake(
            "exponent_of_each_channel",
            Both(
                "a sine and its cosine have different angles: both channels of a pair share the exponent 2i / size",
                "一对正弦和余弦的角度不同：同一对的两个通道共用指数 2i / size",
            ),
            edits=(
                ("torch.arange(0, size, 2).float() / size", "torch.arange(size).float() / size"),
                (
                    "torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)",
                    "torch.where(torch.arange(size) % 2 == 0, angle.sin(), angle.cos())",
                ),
            ),
        ),
        Mistake(
            "positions_from_one",
            Both(
                "positions begin at 1; the first is position 0", "位置从 1 开始了；第一个位置是 0"
            ),
            edits=(("torch.arange(length).float()", "torch.arange(1, length + 1).float()"),),
        ),
        Mistake(
            "wrong_base",
            Both("the base is 1000, not 10000", "底数用了 1000，应为 10000"),
            edits=(("10000**", "1000**"),),
        ),
        Mistake(
            "frequency_inverted",
            Both(
                "positions are multiplied by 10000^(2i / size), not divided",
                "位置乘上了 10000^(2i / size)，应当是除以它",
            ),
            edits=(("position / 10000", "position * 10000"),),
        ),
    ),
    hints=(
        Both(
            "What does row 0 look like? sin 0 = 0, cos 0 = 1.",
            "第 0 行是什么样？sin 0 = 0，cos 0 = 1。",
        ),
        Both(
            "Make a (length, size / 2) table of angles first.",
            "先做一张 (length, size / 2) 的角度表。",
        ),
        Both(
            "torch.stack on a new last axis, then flatten it: this alternates two tables.",
            "用 torch.stack 加一个新的最后一维再展平，两张表就交替排列了。",
        ),
    ),
    imports="import torch\nfrom torch import Tensor\n",
    tolerance=1e-3,  # angles up to 40 in float32, computed in another order
)
