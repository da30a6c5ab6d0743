"""Exercise 16.3: the GRPO loss of one group."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both
from glassbox.tuning.policy.grpo import group_advantages, policy_losses


def grpo_loss(new: Tensor, old: Tensor, mask: Tensor, rewards: Tensor, clip: float) -> Tensor:
    """The clipped loss of G answers to one prompt.

    new, old: (G, T), log-probabilities of the tokens by the policy and by the one that sampled them. mask: (G, T), True
    at the answers' tokens; elsewhere the numbers mean nothing. rewards: (G,).
    A = (r - mean) / (std + 1e-4) with the unbiased std (divided by G - 1); w = exp(new - old);
    loss of a token: -min(w A, clip(w, 1 - clip, 1 + clip) A); mean over each answer's tokens, then over answers.
    """
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    advantages = advantages.unsqueeze(1)
    ratio = (new - old).exp()
    held = ratio.clamp(1 - clip, 1 + clip)
    losses = -torch.minimum(ratio * advantages, held * advantages)
    losses = torch.where(mask, losses, torch.zeros_like(losses))
    return (losses.sum(dim=1) / mask.sum(dim=1)).mean()


def oracle(new: Tensor, old: Tensor, mask: Tensor, rewards: Tensor, clip: float) -> Tensor:
    """Ours, answer by answer."""
    advantages = group_advantages(rewards[None])[0]
    losses, _ = policy_losses(new, old, advantages, clip_low=clip, clip_high=clip)
    return torch.stack([losses[row][mask[row]].mean() for row in range(len(new))]).mean()


def cases() -> list[Case]:
    """Two answers, unequal lengths, ratios inside and far outside of the clip, and equal rewards."""
    draw = torch.Generator().manual_seed(163)
    found = []
    for lengths, rewards, spread, clip in (
        ((1, 1), (1.0, 0.0), 0.1, 0.2),
        ((2, 4), (0.0, 1.0), 0.5, 0.2),
        ((3, 1, 2), (1.0, 0.0, 0.5), 0.8, 0.1),
        ((5, 2, 4, 1), (0.0, 0.0, 1.0, 0.3), 1.0, 0.3),
        ((2, 3, 1), (1.0, 1.0, 1.0), 0.5, 0.2),
    ):
        longest = max(lengths) + 1
        old = -2 * torch.rand(len(lengths), longest, generator=draw)
        new = old + spread * torch.randn(len(lengths), longest, generator=draw)
        mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
        new = torch.where(mask, new, torch.full_like(new, 1.0))
        found.append(Case((new, old, mask, torch.tensor(rewards), clip)))
    return found


EXERCISE = Exercise(
    number="16.3",
    title=Both("The GRPO loss", "GRPO 损失"),
    statement=Both(
        "Write the loss of GRPO for a group of answers to one prompt: rewards become advantages within the group, ratios are clipped, padding does not count.",
        "实现 GRPO 对同一提示词的一组回答的损失：奖励在组内变成优势，比率要裁剪，填充不计入。",
    ),
    solution=(grpo_loss,),
    oracle={"grpo_loss": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "not_centred",
            Both(
                "the group's mean is not subtracted: every answer with a reward is pushed up, also those below average",
                "没有减去组内平均：只要有奖励就提高概率，低于平均的也不例外",
            ),
            edits=(("(rewards - rewards.mean()) / ", "rewards / "),),
        ),
        Mistake(
            "not_scaled",
            Both(
                "advantages are not divided by the standard deviation (that is Dr. GRPO)",
                "优势没有除以标准差（那是 Dr. GRPO）",
            ),
            edits=((" / (rewards.std() + 1e-4)", ""),),
        ),
        Mistake(
            "biased_deviation",
            Both(
                "the standard deviation divides by G; here it divides by G - 1, which for small groups is a good deal more",
                "标准差除以了 G；这里约定除以 G - 1，组小时差别不小",
            ),
            edits=(("rewards.std()", "rewards.std(correction=0)"),),
        ),
        Mistake(
            "not_clipped",
            Both("the ratios are not clipped", "比率没有裁剪"),
            edits=(("torch.minimum(ratio * advantages, held * advantages)", "(ratio * advantages)"),),
        ),
        Mistake(
            "clipped_alone",
            Both(
                "only the clipped ratio is used, without the minimum: an answer that has moved the wrong way has no gradient and never comes back",
                "只用了裁剪后的比率，没有取 min：走错方向的回答没有梯度，再也回不来",
            ),
            edits=(("torch.minimum(ratio * advantages, held * advantages)", "(held * advantages)"),),
        ),
        Mistake(
            "maximum",
            Both(
                "the maximum is taken instead of the minimum: the clip stops what it should let through",
                "取了 max 而不是 min：该放行的被裁掉，该裁掉的放行",
            ),
            edits=(("torch.minimum", "torch.maximum"),),
        ),
        Mistake(
            "ratio_inverted",
            Both("the ratio is old / new, the wrong way round", "比率写成了 old / new，弄反了"),
            edits=(("(new - old).exp()", "(old - new).exp()"),),
        ),
        Mistake(
            "padding_counted",
            Both(
                "padding is in the sums: the loss changes with the longest answer of the group",
                "填充也参与求和：组内最长的回答一变，损失就变",
            ),
            edits=(("    losses = torch.where(mask, losses, torch.zeros_like(losses))\n", ""),),
        ),
        Mistake(
            "mean_of_all_tokens",
            Both(
                "the mean runs over the tokens of all answers together, so that long answers count more (that is DAPO's)",
                "对所有回答的词元一起取平均，长回答分量更重（那是 DAPO 的做法）",
            ),
            edits=(("(losses.sum(dim=1) / mask.sum(dim=1)).mean()", "losses.sum() / mask.sum()"),),
        ),
        Mistake(
            "sign",
            Both("the sign is missing: the loss rises with the reward", "漏了负号：奖励越高，损失反而越大"),
            edits=(("losses = -torch", "losses = torch"),),
        ),
    ),
    hints=(
        Both("One advantage for each answer: what shape must it have to meet the (G, T) ratios?", "每个回答一个优势：要与 (G, T) 的比率相乘，它应是什么形状？"),
        Both("Take the minimum of two products, not the product with a minimum: A may be negative.", "是对两个乘积取 min，不是先取 min 再相乘：A 可能为负。"),
        Both("Set masked losses to zero, and divide each row by its own number of tokens.", "把被屏蔽处的损失置零，每行除以自己的词元数。"),
    ),
)  # fmt: skip
