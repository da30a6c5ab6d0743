"""Exercise 15.1: the loss of a conversation's answers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both
from glassbox.ops.cross_entropy import IGNORE


def answer_loss(logits: Tensor, ids: Tensor, answer: Tensor) -> Tensor:
    """Mean of -log p(token) over the answers' tokens of all rows.

    logits: (B, T, V), those at position t predict token t + 1. ids: (B, T). answer: (B, T), True at the tokens that
    belong to an answer; position 0 is never one. Prompts and padding are False. At least one is True.
    """
    log_probs = logits[:, :-1].log_softmax(dim=-1)
    targets = ids[:, 1:]
    counted = answer[:, 1:]
    losses = -log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return losses[counted].sum() / counted.sum()


def oracle(logits: Tensor, ids: Tensor, answer: Tensor) -> Tensor:
    """By torch, with targets that are ignored."""
    targets = ids.masked_fill(~answer, IGNORE)[:, 1:]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=IGNORE)


def cases() -> list[Case]:
    """One answer token, answers at the end, in two turns, of unequal lengths, and padded."""
    draw = torch.Generator().manual_seed(151)
    found = []
    for spans, length, vocab in (
        ([[(1, 2)]], 2, 3),
        ([[(2, 4)]], 4, 5),
        ([[(3, 5)], [(1, 5)]], 6, 7),
        ([[(1, 2), (4, 7)], [(2, 3)]], 8, 6),
        ([[(5, 6)], [(1, 9)], [(3, 4)]], 9, 11),
    ):
        answer = torch.zeros(len(spans), length, dtype=torch.bool)
        for row, parts in zip(answer, spans, strict=True):
            for start, stop in parts:
                row[start:stop] = True
        logits = 2 * torch.randn(len(spans), length, vocab, generator=draw)
        found.append(
            Case((logits, torch.randint(vocab, (len(spans), length), generator=draw), answer))
        )
    return found


EXERCISE = Exercise(
    number="15.1",
    title=Both("The loss of answers", "只算回答的损失"),
    statement=Both(
        "Fine-tuning on conversations counts the assistant's tokens alone. From the logits, the ids and a table that is True at the answers' tokens, compute "
        "the mean loss over those tokens, all rows together.",
        "用对话微调时，只计算助手的词元。给定 logit、编号，以及一张在回答词元处为 True 的表，请计算这些词元的平均损失，所有行放在一起平均。",
    ),
    solution=(answer_loss,),
    oracle={"answer_loss": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "mask_not_shifted",
            Both(
                "the mask is that of the position, not of its target: the first answer token is never trained, and the token after the answer is",
                "掩码用的是当前位置，而不是它的目标：回答的第一个词元从没训练到，回答之后的词元反而算了",
            ),
            edits=(("answer[:, 1:]", "answer[:, :-1]"),),
        ),
        Mistake(
            "targets_not_shifted",
            Both(
                "position t is asked for token t, which it has just read; it predicts token t + 1",
                "让位置 t 去预测它刚读到的第 t 个词元；它应预测第 t + 1 个",
            ),
            edits=(
                ("logits[:, :-1]", "logits"),
                ("ids[:, 1:]", "ids"),
                ("answer[:, 1:]", "answer"),
            ),
        ),
        Mistake(
            "prompt_counted",
            Both("prompts and padding are counted too", "提示词和填充也算进了损失"),
            edits=(("answer[:, 1:]", "torch.ones_like(answer[:, 1:])"),),
        ),
        Mistake(
            "prompt_alone",
            Both(
                "the mask is inverted: the prompts are trained, not the answers",
                "掩码反了：训练的是提示词，而不是回答",
            ),
            edits=(("answer[:, 1:]", "~answer[:, 1:]"),),
        ),
        Mistake(
            "divided_by_all",
            Both(
                "the sum is divided by all positions, not by the answers' tokens: long prompts make the loss, and the gradient, small",
                "除以了全部位置数，而不是回答的词元数：提示词越长，损失和梯度越小",
            ),
            edits=(("/ counted.sum()", "/ counted.numel()"),),
        ),
        Mistake(
            "mean_of_rows",
            Both(
                "each row is averaged by itself and the rows then: a token of a short answer counts more",
                "先在每行内平均，再对各行平均：短回答的词元分量更重",
            ),
            edits=(
                (
                    "losses[counted].sum() / counted.sum()",
                    "((losses * counted).sum(1) / counted.sum(1)).mean()",
                ),
            ),
        ),
        Mistake(
            "summed",
            Both("the losses are added, not averaged", "损失是求和，没有取平均"),
            edits=((" / counted.sum()", ""),),
        ),
        Mistake(
            "sign",
            Both(
                "the sign is missing: it is the log-probability, which training would make smaller",
                "漏了负号：这是对数概率，训练会让它变小",
            ),
            edits=(("losses = -log_probs", "losses = log_probs"),),
        ),
    ),
    hints=(
        Both("Which position's logits speak about the first token of the answer?", "回答的第一个词元由哪个位置的 logit 来预测？"),
        Both(
            "Drop the last position of the logits and the first of the ids; which of the two goes with the mask?",
            "logit 去掉最后一个位置，编号去掉第一个位置；掩码应与哪一个对齐？",
        ),
        Both("Add all counted losses of all rows, and divide once.", "把所有行里计入的损失加起来，只除一次。"),
    ),
)  # fmt: skip
