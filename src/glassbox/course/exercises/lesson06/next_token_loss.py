"""Exercise 6.2: the loss of a language model, with the shift and the padding."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both
from glassbox.ops.cross_entropy import cross_entropy_plain


def next_token_loss(logits: Tensor, ids: Tensor, padding: int) -> Tensor:
    """The mean of -log p(next token) over all targets that are not padding, in nats.

    logits: (B, T, V), those at position t are about token t + 1; ids: (B, T), the model's input, padded at the end.
    """
    log_probs = logits[:, :-1].log_softmax(dim=-1)
    targets = ids[:, 1:]
    losses = -log_probs.gather(-1, targets[:, :, None]).squeeze(-1)
    counts = targets != padding
    return (losses * counts).sum() / counts.sum()


def oracle(logits: Tensor, ids: Tensor, padding: int) -> Tensor:
    """Ours, with weights."""
    targets = ids[:, 1:]
    counts = (targets != padding).float()
    return cross_entropy_plain(logits[:, :-1], targets, counts) / counts.sum()


def cases() -> list[Case]:
    """One pair; a row; rows of unequal lengths."""
    draw = torch.Generator().manual_seed(62)
    found = []
    for lengths, size in (((2,), 3), ((4,), 4), ((3, 2), 5), ((5, 2, 3), 6)):
        width = max(lengths)
        ids = torch.randint(1, size, (len(lengths), width), generator=draw)
        ids = ids.masked_fill(torch.arange(width) >= torch.tensor(lengths)[:, None], 0)
        logits = (2 * torch.randn(len(lengths), width, size, generator=draw)).round(decimals=1)
        found.append(Case((logits, ids, 0)))
    return found


EXERCISE = Exercise(
    number="6.2",
    title=Both("The loss of a GPT", "GPT 的损失"),
    statement=Both(
        "`logits` (B, T, V) came from the input `ids` (B, T); those at position t are about token t + 1. Return the mean "
        "cross-entropy over all targets that are not `padding`, every target with the same weight.",
        "`logits`（B, T, V）由输入 `ids`（B, T）算出，位置 t 的 logit 预测第 t + 1 个词元。"
        "返回所有非 `padding` 目标上的平均交叉熵，每个目标权重相同。",
    ),
    solution=(next_token_loss,),
    oracle={"next_token_loss": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "unshifted",
            Both(
                "logits and targets stand at the same position: the model is asked for the token that it was given",
                "logit 和目标取了同一位置：要求模型预测的正是它看到的词元",
            ),
            edits=(("logits[:, :-1]", "logits"), ("ids[:, 1:]", "ids")),
        ),
        Mistake(
            "shifted_backwards",
            Both(
                "the shift goes the wrong way: position t is asked for token t - 1",
                "错位的方向反了：位置 t 被要求预测第 t - 1 个词元",
            ),
            edits=(("logits[:, :-1]", "logits[:, 1:]"), ("ids[:, 1:]", "ids[:, :-1]")),
        ),
        Mistake(
            "counts_padding",
            Both("the loss counts padding", "损失把填充也算进去了"),
            edits=(("targets != padding", "targets >= 0"),),
        ),
        Mistake(
            "divided_by_all",
            Both(
                "padding adds nothing to the sum, but is counted in the number that the sum is divided by",
                "填充没有计入总和，却计入了分母",
            ),
            edits=(("/ counts.sum()", "/ counts.numel()"),),
        ),
        Mistake(
            "mean_of_rows",
            Both(
                "each row's mean is averaged: tokens of short rows weigh more",
                "先求各行的平均再平均：短行里的词元权重更大",
            ),
            edits=(
                (
                    "(losses * counts).sum() / counts.sum()",
                    "((losses * counts).sum(1) / counts.sum(1)).mean()",
                ),
            ),
        ),
        Mistake(
            "probability_not_log",
            Both(
                "the probability itself is averaged; the loss is minus its logarithm",
                "平均的是概率本身；损失是它的负对数",
            ),
            edits=(("log_softmax", "softmax"),),
        ),
        Mistake(
            "softmax_over_positions",
            Both(
                "the softmax runs over positions, not over the vocabulary",
                "softmax 沿位置那一维，而不是沿词表",
            ),
            edits=(("log_softmax(dim=-1)", "log_softmax(dim=1)"),),
        ),
        Mistake(
            "summed",
            Both("this is the sum over targets, not the mean", "这是求和，不是平均"),
            edits=((" / counts.sum()", ""),),
        ),
    ),
    hints=(
        Both(
            "For T inputs there are T - 1 targets. Which logits have none?",
            "T 个输入有 T - 1 个目标。哪个位置的 logit 没有目标？",
        ),
        Both(
            "Decide which targets count by looking at the target, not at the input.",
            "某处是否计入损失，要看目标是不是填充，而不是看输入。",
        ),
    ),
    imports="import torch\nfrom torch import Tensor\n",
)
