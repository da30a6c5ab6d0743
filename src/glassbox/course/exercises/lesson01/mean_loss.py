"""Exercise 1.3: the loss of a text under a bigram model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def mean_loss(ids: Tensor, probs: Tensor) -> Tensor:
    """The mean of -log p(next | current) over all pairs of ids (T), in nats.

    probs: (V, V), entry [a, b] is p(b | a).
    """
    chosen = probs[ids[:-1], ids[1:]]
    return -chosen.log().mean()


def oracle(ids: Tensor, probs: Tensor) -> Tensor:
    """torch's cross-entropy of the log-probabilities."""
    return F.cross_entropy(probs.log()[ids[:-1]], ids[1:])


def cases() -> list[Case]:
    """One pair, a few, many."""
    draw = torch.Generator().manual_seed(13)
    found = []
    for length, size in ((2, 2), (3, 2), (4, 3), (12, 3), (50, 7)):
        probs = torch.rand(size, size, generator=draw) + 0.05
        ids = torch.randint(size, (length,), generator=draw)
        found.append(Case((ids, probs / probs.sum(1, keepdim=True))))
    return found


EXERCISE = Exercise(
    number="1.3",
    title=Both("The loss of a text", "一段文本的损失"),
    statement=Both(
        "A text of T ids has T - 1 pairs. Return the mean of -log p(next | current) over them, in nats: the number "
        "that every language model is trained to lower.",
        "T 个编号的文本有 T - 1 对。返回 -log p(next | current) 在所有对上的平均值，以奈特为单位："
        "每个语言模型训练时要降低的就是这个数。",
    ),
    solution=(mean_loss,),
    oracle={"mean_loss": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "unshifted",
            Both(
                "each id is predicted from itself: the targets are not shifted by one",
                "用每个编号预测它自己：目标没有错开一位",
            ),
            edits=(("ids[:-1], ids[1:]", "ids[:-1], ids[:-1]"),),
        ),
        Mistake(
            "backwards",
            Both(
                "p(current | next) is read: the row is what is given, the column what is predicted",
                "读成了 p(current | next)：行是已知的，列才是要预测的",
            ),
            edits=(("ids[:-1], ids[1:]", "ids[1:], ids[:-1]"),),
        ),
        Mistake(
            "sum_not_mean",
            Both(
                "this is the sum over pairs, which grows with the text; take the mean",
                "这是对所有对求和，文本越长越大；应取平均",
            ),
            edits=((".mean()", ".sum()"),),
        ),
        Mistake(
            "divided_by_length",
            Both(
                "the sum is divided by the number of ids; there is one pair less",
                "和除以了编号个数；对数比它少一",
            ),
            edits=((".mean()", ".sum() / len(ids)"),),
        ),
        Mistake(
            "in_bits",
            Both(
                "the loss is in bits (log to base 2); a nat is log to base e",
                "单位成了比特（以 2 为底）；奈特以 e 为底",
            ),
            edits=((".log()", ".log2()"),),
        ),
        Mistake(
            "log_of_mean",
            Both(
                "this is -log of the mean probability; it is the logs that are averaged",
                "这是平均概率的 -log；应当先取对数再平均",
            ),
            edits=(("-chosen.log().mean()", "-chosen.mean().log()"),),
        ),
        Mistake(
            "sign",
            Both(
                "the sign is missing: log-probabilities are negative, a loss is positive",
                "少了负号：对数概率是负的，损失是正的",
            ),
            edits=(("-chosen", "chosen"),),
        ),
        Mistake(
            "perplexity",
            Both("this is the perplexity, exp of the loss", "这是困惑度，即损失的 exp"),
            edits=(("-chosen.log().mean()", "(-chosen.log().mean()).exp()"),),
        ),
    ),
    hints=(
        Both("Which entry of probs does the pair (a, b) use?", "对 (a, b) 用到 probs 的哪一项？"),
        Both(
            "probs[rows, columns] with two index tensors picks one entry for each pair.",
            "probs[rows, columns] 用两个下标张量，每对取出一项。",
        ),
    ),
    imports="import torch\nfrom torch import Tensor\n",
)
