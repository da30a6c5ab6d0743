"""Exercise 16.2: generalized advantage estimation."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both
from glassbox.tuning.policy.ppo import generalized_advantages_plain


def gae(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    """A_t = sum over k of (gamma lam)^k delta_{t+k}, delta_t = r_t + gamma V_{t+1} - V_t.

    rewards, values: (T,), of the answer's tokens in order. The answer ends there: V behind the last token is 0.
    """
    advantages = torch.zeros_like(values)
    following, running = torch.zeros(()), torch.zeros(())
    for t in reversed(range(len(values))):
        delta = rewards[t] + gamma * following - values[t]
        running = delta + gamma * lam * running
        advantages[t] = running
        following = values[t]
    return advantages


def oracle(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    """Ours, by the definition."""
    found = generalized_advantages_plain(
        rewards.tolist(), values.tolist(), gamma=gamma, gae_lambda=lam
    )
    return torch.tensor(found)


def cases() -> list[Case]:
    """One token, the limits of lambda, then rewards at the end alone and everywhere."""
    draw = torch.Generator().manual_seed(162)
    found = [Case((torch.tensor([1.0]), torch.tensor([0.25]), 0.9, 0.8))]
    for length, gamma, lam in ((2, 1.0, 1.0), (3, 1.0, 0.0), (3, 0.9, 0.5), (6, 0.95, 0.9)):
        rewards, values = torch.randn(2, length, generator=draw)
        found.append(Case((rewards, values, gamma, lam)))
    ends = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0])
    found.append(Case((ends, torch.rand(5, generator=draw), 1.0, 0.95)))
    return found


EXERCISE = Exercise(
    number="16.2",
    title=Both("Generalized advantages", "广义优势估计"),
    statement=Both(
        "PPO credits each token with the surprises that follow it, weighted less the later they come. Compute the advantages of one answer from its rewards and "
        "the value model's predictions.",
        "PPO 把后续各步的意外记到每个词元上，越远权重越小。请由一个回答的奖励和价值模型的预测算出各词元的优势。",
    ),
    solution=(gae,),
    oracle={"gae": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "forwards",
            Both(
                "the sum runs from the first token on: an advantage collects what came before, not what follows",
                "求和从第一个词元往后累积：优势收集的成了之前的意外，而不是之后的",
            ),
            edits=(
                ("    for t in reversed(range(len(values))):", "    after = torch.cat((values[1:], values.new_zeros(1)))\n    for t in range(len(values)):"),
                ("gamma * following - values", "gamma * after[t] - values"),
            ),
        ),
        Mistake(
            "lambda_missing",
            Both(
                "the running sum decays by gamma alone: that is lambda = 1, the return minus the value",
                "累积和只乘了 gamma：这等于 lambda = 1，即回报减去价值",
            ),
            edits=(("gamma * lam * running", "gamma * running"),),
        ),
        Mistake(
            "gamma_missing_in_sum",
            Both("the running sum decays by lambda alone, without gamma", "累积和只乘了 lambda，漏了 gamma"),
            edits=(("gamma * lam * running", "lam * running"),),
        ),
        Mistake(
            "gamma_missing_in_delta",
            Both("the next value is not discounted by gamma", "下一步的价值没有乘 gamma"),
            edits=(("gamma * following", "following"),),
        ),
        Mistake(
            "next_value_missing",
            Both(
                "the value of the next token is missing in delta: the prediction is compared with one reward, not with what is still to come",
                "delta 里漏了下一个词元的价值：预测只与一步奖励相比，而不是与今后的全部",
            ),
            edits=((" + gamma * following", ""),),
        ),
        Mistake(
            "own_value_missing",
            Both("the value of the token itself is not subtracted: there is no baseline", "没有减去当前词元的价值：等于没有基线"),
            edits=((" - values[t]", ""),),
        ),
        Mistake(
            "returns",
            Both(
                "these are returns (advantage plus value), the target of the value model; the policy takes the advantage",
                "这是回报（优势加价值），是价值模型的目标；策略要用的是优势",
            ),
            edits=(("return advantages", "return advantages + values"),),
        ),
        Mistake(
            "value_after_the_end",
            Both(
                "behind the last token the last value is assumed to go on; the answer has ended, and the value there is 0",
                "最后一个词元之后沿用了最后的价值；回答已经结束，那里的价值是 0",
            ),
            edits=(("following, running = torch.zeros(())", "following, running = values[-1]"),),
        ),
    ),
    hints=(
        Both("Compute the deltas first. Which value follows the last token?", "先算出各个 delta。最后一个词元之后的价值是多少？"),
        Both("A_t = delta_t + gamma lambda A_{t+1}: begin at the end.", "A_t = delta_t + gamma lambda A_{t+1}：从末尾开始算。"),
    ),
)  # fmt: skip
