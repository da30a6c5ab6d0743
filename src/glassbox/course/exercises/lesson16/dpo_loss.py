"""Exercise 16.1: the DPO loss from log-probabilities of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both
from glassbox.tuning.preference.dpo import DpoConfig, preference_losses


def dpo_loss(policy: Tensor, reference: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Mean DPO loss of B pairs.

    policy, reference: (2B, T), each model's log-probabilities of the tokens; rows 0 to B - 1 are the chosen answers
    and rows B to 2B - 1 the rejected ones, in the same order. mask: (2B, T), True at the answers' tokens; elsewhere
    the numbers mean nothing. An answer's log-probability is the sum over its tokens.
    """
    ratios = torch.where(mask, policy - reference, torch.zeros_like(policy)).sum(dim=1)
    chosen, rejected = ratios.chunk(2)
    margin = beta * (chosen - rejected)
    return -torch.nn.functional.logsigmoid(margin).mean()


def oracle(policy: Tensor, reference: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Ours, row by row."""
    sums = [
        torch.stack([x[row][mask[row]].sum() for row in range(len(x))]) for x in (policy, reference)
    ]
    chosen, rejected = (sums[0] - sums[1]).chunk(2)
    ones = torch.ones_like(chosen)
    config = DpoConfig(beta=beta)
    return preference_losses(
        chosen, rejected, config, chosen_lengths=ones, rejected_lengths=ones
    ).mean()


def cases() -> list[Case]:
    """One pair of one token, then unequal lengths and wild numbers in the padding, and a margin of 200."""
    draw = torch.Generator().manual_seed(161)
    found = []
    for lengths, longest, beta in (
        ((1, 1), 1, 1.0),
        ((2, 3), 3, 0.5),
        ((4, 2, 1, 3), 5, 0.1),
        ((3, 5, 2, 6, 1, 4), 7, 0.3),
    ):
        policy, reference = -3 * torch.rand(2, len(lengths), longest, generator=draw)
        mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
        policy = torch.where(mask, policy, torch.full_like(policy, -9.0))
        found.append(Case((policy, reference, mask, beta)))
    far = torch.tensor([[-200.0], [0.0]])
    found.append(Case((far, torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.bool), 1.0)))
    return found


EXERCISE = Exercise(
    number="16.1",
    title=Both("The DPO loss", "DPO 损失"),
    statement=Both(
        "Write the DPO loss. You get the log-probabilities of tokens from the policy and from the reference, chosen answers first and rejected ones behind "
        "them, and a mask of the answers' tokens.",
        "实现 DPO 损失。输入是策略和参考模型给出的各词元对数概率，前半是被选中的回答，后半是被拒绝的回答，外加回答词元的掩码。",
    ),
    solution=(dpo_loss,),
    oracle={"dpo_loss": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "padding_counted",
            Both(
                "padding is counted: the loss depends on how long the other answers of the batch are",
                "把填充也算进去了：损失取决于同批其他回答有多长",
            ),
            edits=(("torch.where(mask, policy - reference, torch.zeros_like(policy))", "(policy - reference)"),),
        ),
        Mistake(
            "mean_of_tokens",
            Both(
                "log-probabilities are averaged over tokens; DPO takes their sum (the probability of the whole answer)",
                "对数概率按词元取了平均；DPO 用的是总和（整个回答的概率）",
            ),
            edits=((".sum(dim=1)\n", ".sum(dim=1) / mask.sum(dim=1)\n"),),
        ),
        Mistake(
            "no_reference",
            Both(
                "the reference is missing: nothing keeps the policy near the model it began as",
                "漏了参考模型：没有什么能让策略留在出发点附近",
            ),
            edits=(("policy - reference,", "policy,"),),
        ),
        Mistake(
            "swapped",
            Both(
                "chosen and rejected are swapped: the model learns to write the worse answer",
                "被选中与被拒绝弄反了：模型学的是写更差的回答",
            ),
            edits=(("chosen - rejected", "rejected - chosen"),),
        ),
        Mistake(
            "beta_outside",
            Both(
                "beta multiplies the loss instead of the margin: it only changes the learning rate",
                "beta 乘在了损失上，而不是差值上：那只相当于改学习率",
            ),
            edits=(
                ("margin = beta * (chosen", "margin = (chosen"),
                ("return -torch", "return -beta * torch"),
            ),
        ),
        Mistake(
            "beta_divides",
            Both("the margin is divided by beta; it is multiplied", "差值除以了 beta，应当是乘"),
            edits=(("beta * (chosen - rejected)", "(chosen - rejected) / beta"),),
        ),
        Mistake(
            "no_logarithm",
            Both(
                "the logarithm is missing: minus sigmoid hardly has a gradient where the pair is most wrong",
                "漏了对数：成对数据错得最离谱的地方，负 sigmoid 几乎没有梯度",
            ),
            edits=(("-torch.nn.functional.logsigmoid(margin)", "-torch.sigmoid(margin)"),),
        ),
        Mistake(
            "overflows",
            Both(
                "log(sigmoid(x)) is minus infinity for x = -200: sigmoid rounds to zero before the logarithm sees it",
                "x = -200 时 log(sigmoid(x)) 是负无穷：还没取对数，sigmoid 就已经舍入成零",
            ),
            edits=(("torch.nn.functional.logsigmoid(margin)", "torch.sigmoid(margin).log()"),),
        ),
        Mistake(
            "pairs_interleaved",
            Both(
                "neighbouring rows are taken as pairs; the chosen answers come first, the rejected ones behind all of them",
                "把相邻两行当成了一对；前半全是被选中的，后半全是被拒绝的",
            ),
            edits=(("ratios.chunk(2)", "ratios[::2], ratios[1::2]"),),
        ),
    ),
    hints=(
        Both("What is the log-probability of an answer, given those of its tokens?", "已知各词元的对数概率，整个回答的对数概率是什么？"),
        Both("The implied reward of an answer is beta times the difference of two such sums.", "一个回答的隐含奖励，是两个这样的和之差乘以 beta。"),
        Both("torch.nn.functional.logsigmoid stays finite where sigmoid is zero.", "sigmoid 为零时，torch.nn.functional.logsigmoid 仍是有限值。"),
    ),
)  # fmt: skip
