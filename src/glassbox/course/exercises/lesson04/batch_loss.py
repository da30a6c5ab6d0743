"""Exercise 4.3: the mean loss of a batch with padding."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def batch_loss(losses: Tensor, mask: Tensor) -> Tensor:
    """The mean loss of the tokens that count.

    losses: (B, T), one of each token; mask: (B, T), True where a token counts. Padding may have any loss, NaN
    and infinity included. At least one token counts.
    """
    counted = losses.masked_fill(~mask, 0.0)
    return counted.sum() / mask.sum()


def oracle(losses: Tensor, mask: Tensor) -> Tensor:
    """The mean of those selected."""
    return losses[mask].mean()


def cases() -> list[Case]:
    """No padding; rows of unequal lengths; a row of padding alone; padding with NaN."""
    draw = torch.Generator().manual_seed(43)
    found = []
    for lengths, width in (((2,), 2), ((2, 1), 2), ((1, 3), 3), ((4, 1, 2), 5), ((3, 0, 6), 6)):
        mask = torch.arange(width) < torch.tensor(lengths)[:, None]
        losses = (torch.rand(mask.shape, generator=draw) * 4 + 0.5).round(decimals=2)
        found.append(Case((losses, mask)))
    losses, mask = found[3].args
    return [*found, Case((losses.masked_fill(~mask, float("nan")), mask))]


EXERCISE = Exercise(
    number="4.3",
    title=Both("A mean without padding", "不算填充的平均损失"),
    statement=Both(
        "Rows of unequal lengths are padded, and prompts are not trained on: a mask says which tokens count. Return the mean "
        "loss over those, each with the same weight whatever row it stands in. What padding has for a loss must not "
        "matter, not even NaN.",
        "长短不一的行要填充，提示词也不参与训练：掩码标明哪些词元计入损失。返回这些词元的平均损失，"
        "不论在哪一行，每个词元权重相同。填充处的损失是多少都不应有影响，哪怕是 NaN。",
    ),
    solution=(batch_loss,),
    oracle={"batch_loss": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "counts_padding",
            Both(
                "the loss counts padding: the mask is not used", "损失把填充也算进去了：没有用掩码"
            ),
            edits=(("counted.sum() / mask.sum()", "losses.mean()"),),
        ),
        Mistake(
            "divided_by_all",
            Both(
                "the sum leaves padding out, but is divided by all B * T tokens: the more padding, the smaller the loss",
                "求和时去掉了填充，却除以全部 B * T 个词元：填充越多，损失越小",
            ),
            edits=(("/ mask.sum()", "/ mask.numel()"),),
        ),
        Mistake(
            "mean_of_means",
            Both(
                "this is the mean of each row's mean: tokens of short rows weigh more than those of long ones",
                "这是各行平均值的平均：短行里的词元权重更大",
            ),
            edits=(
                (
                    "counted.sum() / mask.sum()",
                    "(counted.sum(1) / mask.sum(1).clamp(min=1)).mean()",
                ),
            ),
        ),
        Mistake(
            "mean_of_sums",
            Both(
                "the sums of rows are averaged over rows, not over tokens",
                "把各行之和按行数平均了，应当按词元数平均",
            ),
            edits=(("/ mask.sum()", "/ len(mask)"),),
        ),
        Mistake(
            "mask_inverted",
            Both(
                "the mask is turned round: padding counts, and tokens do not",
                "掩码用反了：算的是填充，不是词元",
            ),
            edits=(("~mask, 0.0", "mask, 0.0"), ("/ mask.sum()", "/ (~mask).sum()")),
        ),
        Mistake(
            "nan_times_zero",
            Both(
                "losses are multiplied by the mask, and NaN * 0 is NaN: select or fill instead",
                "用掩码去乘损失，而 NaN * 0 仍是 NaN：应当用选择或填充",
            ),
            edits=(("losses.masked_fill(~mask, 0.0)", "losses * mask"),),
        ),
    ),
    hints=(
        Both(
            "Two rows, one of 1 token and one of 3: what does each token weigh in your result?",
            "两行分别有 1 个和 3 个词元：在你的结果里，每个词元的权重是多少？",
        ),
        Both(
            "One sum, one count, one division, over the whole batch.",
            "对整个批次：一个和、一个计数、一次除法。",
        ),
    ),
    imports="import torch\nfrom torch import Tensor\n",
)
