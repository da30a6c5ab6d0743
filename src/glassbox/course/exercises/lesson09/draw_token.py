"""Exercise 9.2: a token from logits, a temperature and one uniform number."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def draw_token(logits: Tensor, temperature: float, uniform: float) -> int:
    """The token that a uniform number draws from softmax(logits / temperature).

    logits: (V), where minus infinity must never be drawn. The tokens lie on [0, 1) one after the other, in order of their ids, each as
    long as its probability; the one in which `uniform` (0 <= uniform < 1) lies is drawn. temperature 0: the likeliest token, the first of
    equals, whatever `uniform` is.
    """
    if temperature == 0:
        return int(logits.argmax())
    ends = (logits.double() / temperature).softmax(dim=-1).cumsum(dim=-1)
    return int((ends <= uniform).sum())


def oracle(logits: Tensor, temperature: float, uniform: float) -> int:
    """Walking along the line."""
    values = logits.double().tolist()
    if temperature == 0:
        return values.index(max(values))
    most = max(values)
    weights = [math.exp((value - most) / temperature) for value in values]
    left = uniform * math.fsum(weights)
    for token, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return token
    return max(token for token, weight in enumerate(weights) if weight > 0)


def cases() -> list[Case]:
    """Known probabilities and places, zero temperature, high and low ones, tokens that are cut."""
    known = torch.tensor([0.2, 0.5, 0.3]).log()
    found = [Case((known, 1.0, u)) for u in (0.0, 0.1, 0.25, 0.69, 0.75, 0.99)]
    found += [Case((known, 0, 0.99)), Case((torch.tensor([1.0, 3.0, 3.0]), 0, 0.5))]
    found += [Case((known, 0.5, 0.15)), Case((known, 3.0, 0.3)), Case((known, 0.25, 0.9))]
    cut = torch.tensor([-math.inf, 1.0, -math.inf, 2.0, 0.5, -math.inf])
    found += [Case((cut, 1.0, u)) for u in (0.0, 0.2, 0.5, 0.95)]
    draw = torch.Generator().manual_seed(92)
    for u in (0.03, 0.41, 0.87):
        found.append(Case((torch.randn(12, generator=draw) * 3, 0.8, u)))
    return found


EXERCISE = Exercise(
    number="9.2",
    title=Both("Draw one token", "抽一个词元"),
    statement=Both(
        "Draw a token with the help of one uniform number, so that the same number always gives the same token. A temperature of 0 means greedy.",
        "用一个均匀随机数抽一个词元，使同一个数总是给出同一个词元。温度为 0 表示贪心。",
    ),
    solution=(draw_token,),
    oracle={"draw_token": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "multiplied_by_temperature",
            Both(
                "the logits are multiplied by the temperature: a high one then sharpens instead of flattening",
                "logits 乘以了温度：温度高反而更尖锐，而不是更平缓",
            ),
            edits=(("logits.double() / temperature", "logits.double() * temperature"),),
        ),
        Mistake(
            "no_temperature",
            Both("the temperature changes nothing", "温度没有起作用"),
            edits=(("(logits.double() / temperature)", "logits.double()"),),
        ),
        Mistake(
            "zero_is_not_greedy",
            Both(
                "temperature 0 is not handled; dividing by it gives NaN",
                "没有处理温度为 0 的情况；除以 0 得到 NaN",
            ),
            edits=(
                (
                    "    if temperature == 0:\n        return int(logits.argmax())\n",
                    "    temperature = temperature or 1.0\n",
                ),
            ),
        ),
        Mistake(
            "always_greedy",
            Both(
                "the likeliest token comes back whatever the uniform number is",
                "不论随机数是多少，返回的都是最可能的词元",
            ),
            edits=(("return int((ends <= uniform).sum())", "return int(logits.argmax())"),),
        ),
        Mistake(
            "one_too_far",
            Both(
                "the token after the right one comes back: count the ends that lie at or below the number",
                "返回的是后一个词元：应当数有多少个区间的右端不超过这个数",
            ),
            edits=(
                (
                    "int((ends <= uniform).sum())",
                    "min(len(ends) - 1, int((ends <= uniform).sum()) + 1)",
                ),
            ),
        ),
        Mistake(
            "sorted_first",
            Both(
                "the tokens lie on the line in order of probability, not of their ids: the draws are right on average, but not those that are asked for",
                "区间按概率而不是按编号排列：平均来看没错，但不是要求的那种抽法",
            ),
            edits=(
                (
                    "    ends = (logits.double() / temperature).softmax(dim=-1).cumsum(dim=-1)\n    return int((ends <= uniform).sum())",
                    "    order = logits.argsort(descending=True)\n"
                    "    ends = (logits.double()[order] / temperature).softmax(dim=-1).cumsum(dim=-1)\n"
                    "    return int(order[int((ends <= uniform).sum())])",
                ),
            ),
        ),
    ),
    hints=(
        Both(
            "Draw the line for probabilities 0.2, 0.5, 0.3: which token lies at 0.25, which at 0.69?",
            "为概率 0.2、0.5、0.3 画出这条线：0.25 处是哪个词元，0.69 处呢？",
        ),
        Both(
            "The ends of the pieces are the cumulative sums.",
            "各段的右端就是累计和。",
        ),
        Both(
            "How many ends lie at or below the number? That many tokens are passed.",
            "有多少个右端不超过这个数？就跳过多少个词元。",
        ),
    ),
)
