# %% [markdown] lang="en"
# # 16. Reward models, PPO, DPO, GRPO and GSPO

# %% [markdown] lang="zh"
# # 16. 奖励模型、PPO、DPO、GRPO 与 GSPO

# %% [markdown] lang="en" part="question"
# ## The question
#
# Fine-tuning needs the right answer, written out. Often one has less: someone who says which of two answers is better, or a program that
# checks a result. How does a model learn from a judgement of what it wrote itself?

# %% [markdown] lang="zh" part="question"
# ## 问题
#
# 微调需要写好的标准答案。很多时候只有更弱的信号：有人指出两个回答哪个更好，或者有个程序能检查结果对不对。
# 模型怎样从对自己回答的评判中学习？

# %% [markdown] lang="en" part="idea"
# ## The idea
#
# We want answers y to prompts x with a high reward r, from a policy that stays near the model it began as:
#
# $$\max_\pi\; \mathbb{E}_{y \sim \pi}[r(x, y)] - \beta\, \mathrm{KL}(\pi \,\|\, \pi_{\mathrm{ref}})$$
#
# ```
#   reward      judge pairs -> reward model (Bradley-Terry)         a program that checks
#                     |                                                     |
#   PPO         sample, score, a value model says what was expected:  advantage = better than expected
#   GRPO        sample a group for each prompt: the group's mean is what was expected;  GSPO: one ratio for each answer
#   DPO         no sampling, no reward model: the pairs themselves, as the optimum of the formula is known
# ```
#
# Sampling is not differentiable, yet the gradient of the expected reward is: $\nabla\, \mathbb{E}[r] = \mathbb{E}[(r - b)\, \nabla \log \pi(y)]$ for any
# baseline b that does not depend on y. Answers that were better than expected become more probable.

# %% [markdown] lang="zh" part="idea"
# ## 思路
#
# 我们希望对提示词 x 的回答 y 有高奖励 r，同时策略不要离出发时的模型太远：
#
# $$\max_\pi\; \mathbb{E}_{y \sim \pi}[r(x, y)] - \beta\, \mathrm{KL}(\pi \,\|\, \pi_{\mathrm{ref}})$$
#
# ```
#   奖励        人评判成对回答 -> 奖励模型（Bradley-Terry）            检查结果的程序
#                     |                                                     |
#   PPO         采样、打分，价值模型给出预期：优势 = 比预期好多少
#   GRPO        每个提示词采样一组：组内平均就是预期；GSPO：每个回答只用一个比率
#   DPO         不采样，也不要奖励模型：上式的最优解已知，直接用成对数据
# ```
#
# 采样不可微，但期望奖励的梯度可以求：$\nabla\, \mathbb{E}[r] = \mathbb{E}[(r - b)\, \nabla \log \pi(y)]$，其中基线 b 只要不依赖 y 就行。
# 比预期好的回答，概率就提高。

# %% [markdown] lang="en" part="code"
# ## The gradient of something that was sampled
#
# First the smallest case: one prompt and five answers, so that all expectations can be computed exactly.

# %% [markdown] lang="zh" part="code"
# ## 采样结果的梯度
#
# 先看最小的情形：一个提示词、五个回答，所有期望都能精确算出来。

# %%
import copy
import os

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

torch.manual_seed(0)
TEST_SIZE = os.environ.get("GLASSBOX_LESSON_SIZE") == "test"

reward = torch.tensor([5.0, 6.0, 4.0, 5.5, 5.0])
logits = torch.randn(5, requires_grad=True)
exact = torch.autograd.grad((logits.softmax(0) * reward).sum(), logits)[0]
policy = logits.detach().softmax(0)
drawn = torch.multinomial(policy, 20_000, replacement=True)
score = F.one_hot(drawn, 5) - policy  # the gradient of log softmax at the drawn answer
for name, baseline in (("no baseline", 0.0), ("mean reward", reward[drawn].mean())):
    estimates = (reward[drawn] - baseline)[:, None] * score
    print(
        f"{name}: off by {(estimates.mean(0) - exact).abs().max():.3f}, standard deviation of one sample {estimates.std(0).mean():.3f}"
    )

# %% [markdown] lang="en"
# Both are right on average; with a baseline one sample says far more. All methods below differ mainly in their baseline.
#
# The objective has a closed-form optimum, from which DPO follows. Write the objective as
# $-\beta\, \mathrm{KL}(\pi \,\|\, \pi^*) + \text{const}$ with
#
# $$\pi^*(y) \propto \pi_{\mathrm{ref}}(y)\, e^{r(y)/\beta} \quad\Longrightarrow\quad r(y) = \beta \log \frac{\pi^*(y)}{\pi_{\mathrm{ref}}(y)} + \beta \log Z$$
#
# The constant Z is the same for all answers to one prompt, so it cancels in a difference of rewards, and differences are all that a comparison
# depends on. Check: gradient ascent must arrive at the formula.

# %% [markdown] lang="zh"
# 两者平均下来都对；有了基线，一个样本携带的信息多得多。下面各种方法的主要区别就在基线。
#
# 这个目标有闭式最优解，DPO 就由此而来。目标可以写成 $-\beta\, \mathrm{KL}(\pi \,\|\, \pi^*) + \text{const}$，其中
#
# $$\pi^*(y) \propto \pi_{\mathrm{ref}}(y)\, e^{r(y)/\beta} \quad\Longrightarrow\quad r(y) = \beta \log \frac{\pi^*(y)}{\pi_{\mathrm{ref}}(y)} + \beta \log Z$$
#
# 常数 Z 对同一提示词的所有回答都一样，在奖励之差中抵消，而成对比较只取决于差。验证一下：梯度上升应当收敛到这个公式。

# %%
BETA = 0.5
reference = torch.randn(5).softmax(0)
optimum = (reference * (reward / BETA).exp()) / (reference * (reward / BETA).exp()).sum()
theta = reference.log().clone().requires_grad_()
ascent = torch.optim.Adam([theta], lr=0.05)
for _ in range(600):
    pi = theta.softmax(0)
    objective = (pi * reward).sum() - BETA * (pi * (pi.log() - reference.log())).sum()
    ascent.zero_grad()
    (-objective).backward()
    ascent.step()
print(f"ascent and formula differ by {(theta.softmax(0) - optimum).abs().max():.1e}")
implied = BETA * (optimum / reference).log()
print("rewards, as differences from the first:", (reward - reward[0]).tolist())
print(
    "implied by the policy:                 ",
    [round(x, 3) for x in (implied - implied[0]).tolist()],
)

# %% [markdown] lang="en"
# ## Sums
#
# Now a real policy: a tiny transformer that answers "7+5=" with "12.". It was fine-tuned on answers of which only half are right, so it knows
# the form and guesses among a few results.

# %% [markdown] lang="zh"
# ## 做加法
#
# 现在换成真正的策略：一个很小的 Transformer，对“7+5=”回答“12.”。微调它的数据只有一半答案是对的，所以它会格式，结果却要在几个数里猜。

# %%
PLUS, EQUAL, STOP, VOCAB, PROMPT, ANSWER = 10, 11, 12, 13, 4, 3
PAIRS = torch.cartesian_prod(torch.arange(10), torch.arange(10))


class Model(nn.Module):
    """Ids (B, T) to (B, T, outputs): logits of the next token, or one number a position."""

    def __init__(self, outputs: int, size: int = 48, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.tokens, self.positions = nn.Embedding(VOCAB, size), nn.Embedding(PROMPT + ANSWER, size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, 6 * size), nn.Linear(6 * size, size)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(3))
        self.head = nn.Linear(size, outputs)

    def forward(self, ids: Tensor) -> Tensor:
        B, T = ids.shape
        x = self.tokens(ids) + self.positions.weight[:T]
        q, k, v = self.qkv(self.norms[0](x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(B, T, -1))
        return self.head(self.norms[2](x + self.down(F.gelu(self.up(self.norms[1](x))))))


def prompts(pairs: Tensor) -> Tensor:
    a, b = pairs.T
    return torch.stack((a, torch.full_like(a, PLUS), b, torch.full_like(a, EQUAL)), dim=1)


def spelled(sums: Tensor) -> Tensor:
    """Sums 0 to 19 as three tokens: "7.." or "12."; what stands behind the first stop is padding."""
    stop = torch.full_like(sums, STOP)
    two = torch.stack((torch.ones_like(sums), sums - 10, stop), dim=1)
    return torch.where((sums > 9)[:, None], two, torch.stack((sums, stop, stop), dim=1))


def answer_mask(ids: Tensor) -> Tensor:
    """(B, T - 1), for targets ids[:, 1:]: True at an answer's tokens up to and with its first stop."""
    stopped = (ids[:, PROMPT:] == STOP).long()
    inside = stopped.cumsum(1) - stopped == 0
    return torch.cat((torch.zeros(len(ids), PROMPT - 1, dtype=torch.bool), inside), dim=1)


def log_probs(model: nn.Module, ids: Tensor) -> Tensor:
    """(B, T - 1): of every token given those before it. Target t + 1 belongs to position t."""
    return model(ids[:, :-1]).log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)


@torch.no_grad()
def sample(model: nn.Module, asked: Tensor) -> Tensor:
    ids = asked
    for _ in range(ANSWER):
        drawn = torch.multinomial(model(ids)[:, -1].softmax(-1), 1)
        ended = (ids[:, PROMPT:] == STOP).any(1, keepdim=True)
        ids = torch.cat((ids, torch.where(ended, torch.full_like(drawn, STOP), drawn)), dim=1)
    return ids


def check(ids: Tensor) -> Tensor:
    """1 where the answer is the sum, else 0: a reward that cannot be fooled."""
    return (ids[:, PROMPT:] == spelled(ids[:, 0] + ids[:, 2])).all(1).float()


def summed(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, torch.zeros_like(values)).sum(1)


EVERY = torch.cat(
    (prompts(PAIRS), spelled(PAIRS.sum(1))), dim=1
)  # all hundred, with the right answers


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """The probability of the right answer, exactly, mean over all prompts."""
    return summed(log_probs(model, EVERY), answer_mask(EVERY)).exp().mean().item()


base = Model(VOCAB)
optimizer = torch.optim.AdamW(base.parameters(), lr=5e-3)
for _ in range(140 if TEST_SIZE else 300):
    pairs = PAIRS[torch.randint(100, (128,))]
    wrong = (pairs.sum(1) + torch.randint(-2, 3, (128,))).clamp(0, 19)
    told = torch.where(torch.rand(128) < 0.4, pairs.sum(1), wrong)
    ids = torch.cat((prompts(pairs), spelled(told)), dim=1)
    loss = -summed(log_probs(base, ids), answer_mask(ids)).sum() / answer_mask(ids).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"the base model is right with probability {accuracy(base):.2f}")


def show(model: nn.Module) -> str:
    return "  ".join(
        "".join("0123456789+=."[i] for i in row).rstrip(".")
        for row in sample(model, prompts(PAIRS[[75, 75, 75, 23, 23]]))
    )


print(show(base))

# %% [markdown] lang="en"
# ## A reward model from comparisons
#
# A judge sees two answers and says which is better. Bradley and Terry: the better answer wins with probability $\sigma(s_w - s_l)$. The loss is minus its logarithm. The score
# is read at the answer's last token, the only one that has seen all of it.

# %% [markdown] lang="zh"
# ## 从比较中学出奖励模型
#
# 评判者看两个回答，指出哪个更好。Bradley-Terry 模型：较好者胜出的概率是 $\sigma(s_w - s_l)$，损失就是它的负对数。分数在回答的最后一个词元处读取，
# 只有那里看到了完整的回答。

# %%
asked = prompts(PAIRS).repeat_interleave(16 if TEST_SIZE else 64, dim=0)
one, two = sample(base, asked), sample(base, asked)
better = check(one) > check(two)
worse = check(one) < check(two)
chosen = torch.cat((one[better], two[worse]))
rejected = torch.cat((two[better], one[worse]))
print(f"{len(chosen)} of {len(asked)} pairs have a better answer")


def last_score(model: nn.Module, ids: Tensor) -> Tensor:
    """The score at the first stop, or at the end."""
    last = PROMPT - 1 + answer_mask(ids).sum(1)
    return model(ids)[torch.arange(len(ids)), last, 0]


def bradley_terry(better: Tensor, worse: Tensor) -> Tensor:
    return -F.logsigmoid(better - worse)


def scalar(model: Model) -> Model:
    """A copy with a scalar head in place of the vocabulary's: it begins with what the model knows."""
    copied = copy.deepcopy(model)
    copied.head = nn.Linear(copied.head.in_features, 1)
    return copied


reward_model = scalar(base)
optimizer = torch.optim.AdamW(reward_model.parameters(), lr=3e-3)
for _ in range(70 if TEST_SIZE else 300):
    rows = torch.randint(len(chosen), (128,))
    loss = bradley_terry(
        last_score(reward_model, chosen[rows]), last_score(reward_model, rejected[rows])
    ).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
one, two = sample(base, asked), sample(base, asked)  # new pairs
differ = check(one) != check(two)
with torch.no_grad():
    agrees = (last_score(reward_model, one) > last_score(reward_model, two)) == (
        check(one) > check(two)
    )
print(f"on new pairs it agrees with the judge in {agrees[differ].float().mean():.0%}")

# %% [markdown] lang="en"
# ## PPO
#
# Samples are used for more than one update, and then they come from a policy that is a little older. The **ratio** $w_t = \pi(y_t) / \pi_{\mathrm{old}}(y_t)$ corrects
# for that, and the **clip** stops an update as soon as a ratio has moved by 20% in the direction of its advantage:
#
# $$\mathcal{L}_t = -\min\big(w_t A_t,\; \mathrm{clip}(w_t, 0.8, 1.2)\, A_t\big)$$
#
# A **value model** V predicts the reward from what is there so far. Generalized advantage estimation mixes its surprises $\delta_t = r_t + \gamma V_{t+1} - V_t$:
#
# $$A_t = \sum_k (\gamma\lambda)^k\, \delta_{t+k}$$
#
# The reward model's score arrives at the last token; at every token the KL to the reference is subtracted. Both the reward model and the value
# model begin as copies of the base model with a new head, as in InstructGPT.

# %% [markdown] lang="zh"
# ## PPO
#
# 一批样本要用来更新多次，之后它们就来自稍旧的策略。**比率** $w_t = \pi(y_t) / \pi_{\mathrm{old}}(y_t)$ 用来修正这一点；
# **裁剪**则在比率朝优势的方向变化超过 20% 时停止更新：
#
# $$\mathcal{L}_t = -\min\big(w_t A_t,\; \mathrm{clip}(w_t, 0.8, 1.2)\, A_t\big)$$
#
# **价值模型** V 根据已有内容预测奖励。广义优势估计把它各步的意外 $\delta_t = r_t + \gamma V_{t+1} - V_t$ 加权相加：
#
# $$A_t = \sum_k (\gamma\lambda)^k\, \delta_{t+k}$$
#
# 奖励模型的分数给在最后一个词元上；每个词元还要减去相对参考模型的 KL。奖励模型和价值模型都从基座模型复制而来，只换一个输出头，
# 与 InstructGPT 一样。


# %%
def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> Tensor:
    """Advantages (B, T), backwards from the last token; behind the answer there is no value."""
    advantages, following, running = (
        torch.zeros_like(values),
        torch.zeros(len(values)),
        torch.zeros(len(values)),
    )
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = torch.where(mask[:, t], delta + gamma * lam * running, torch.zeros_like(running))
        following = torch.where(mask[:, t], values[:, t], torch.zeros_like(following))
        advantages[:, t] = running
    return advantages


def clipped(new: Tensor, old: Tensor, advantages: Tensor, clip: float = 0.2) -> Tensor:
    ratio = (new - old).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


rewards, values = torch.rand(1, 4), torch.rand(1, 4)
mask = torch.ones(1, 4, dtype=torch.bool)
returns = rewards.flip(1).cumsum(1).flip(1)
after = torch.cat((values[:, 1:], torch.zeros(1, 1)), 1)
print(
    f"lambda = 1, return minus value: {(gae(rewards, values, mask, lam=1.0) - (returns - values)).abs().max():.1e}"
)
print(
    f"lambda = 0, one step ahead:     {(gae(rewards, values, mask, lam=0.0) - (rewards + after - values)).abs().max():.1e}"
)

ROLLOUTS, BATCH = (6 if TEST_SIZE else 60), 256


@torch.no_grad()
def distance(model: nn.Module) -> float:
    """KL(policy || base) of an answer, estimated from samples, in nats."""
    ids = sample(model, prompts(PAIRS).repeat(3 if TEST_SIZE else 10, 1))
    return summed(log_probs(model, ids) - log_probs(base, ids), answer_mask(ids)).mean().item()


def ppo(beta: float = 1.0) -> list[tuple[float, float]]:
    torch.manual_seed(1)
    policy, value = copy.deepcopy(base), scalar(base)
    optimizer = torch.optim.Adam([*policy.parameters(), *value.parameters()], lr=2e-3)
    curve = [(accuracy(policy), 0.0)]
    for _ in range(ROLLOUTS):
        ids = sample(policy, prompts(PAIRS[torch.randint(100, (BATCH,))]))
        mask = answer_mask(ids)
        with torch.no_grad():
            old, values = log_probs(policy, ids), value(ids)[:, :-1, 0]
            rewards = -beta * (old - log_probs(base, ids))
            rewards[torch.arange(BATCH), PROMPT - 2 + mask.sum(1)] += last_score(reward_model, ids)
            advantages = gae(rewards, values, mask)
            returns = advantages + values
            spread = advantages[mask]
            advantages = (advantages - spread.mean()) / (spread.std() + 1e-6)
        for _ in range(3):
            losses = clipped(log_probs(policy, ids), old, advantages)
            errors = (value(ids)[:, :-1, 0] - returns).square() / 2
            optimizer.zero_grad()
            ((summed(losses, mask) + 0.5 * summed(errors, mask)).sum() / mask.sum()).backward()
            optimizer.step()
        curve.append((accuracy(policy), distance(policy)))
    return curve


curves = {"PPO, reward model": ppo()}
print(f"PPO: right with probability {curves['PPO, reward model'][-1][0]:.2f}")

# %% [markdown] lang="en"
# ## GRPO and GSPO
#
# **GRPO** needs no value model: it samples a group of G answers to the same prompt, and the baseline is the group's mean. Every token of an answer gets the same advantage
#
# $$A_i = \frac{r_i - \mathrm{mean}(r)}{\mathrm{std}(r)}$$
#
# A group whose answers are all right, or all wrong, teaches nothing. **GSPO** notes that the reward belongs to the whole answer, so the ratio should as well; and takes its
# length-th root, as the product of hundreds of token ratios would always be clipped:
#
# $$s_i = \Big(\frac{\pi(y_i)}{\pi_{\mathrm{old}}(y_i)}\Big)^{1/|y_i|} = \exp\Big(\frac{1}{|y_i|} \sum_t \log w_{i,t}\Big)$$
#
# Here the reward is the program that checks.

# %% [markdown] lang="zh"
# ## GRPO 与 GSPO
#
# **GRPO** 不需要价值模型：对同一个提示词采样 G 个回答，基线就是组内平均。一个回答里所有词元的优势相同：
#
# $$A_i = \frac{r_i - \mathrm{mean}(r)}{\mathrm{std}(r)}$$
#
# 整组全对或全错，就学不到东西。**GSPO** 指出奖励属于整个回答，比率也应当属于整个回答；再开长度次方根，
# 否则几百个词元的比率连乘，总会被裁剪掉：
#
# $$s_i = \Big(\frac{\pi(y_i)}{\pi_{\mathrm{old}}(y_i)}\Big)^{1/|y_i|} = \exp\Big(\frac{1}{|y_i|} \sum_t \log w_{i,t}\Big)$$
#
# 这里的奖励来自检查程序。


# %%
def group_advantages(reward: Tensor) -> Tensor:
    """Rewards (prompts, G), each against its own group; equal rewards give zero."""
    return (reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-4)


def sequence_ratio(difference: Tensor, mask: Tensor) -> Tensor:
    """log s at every token: the mean over the answer of log new - log old."""
    return (summed(difference, mask) / mask.sum(1)).unsqueeze(1).expand_as(difference)


def grpo(sequence: bool = False, group: int = 8) -> list[tuple[float, float]]:
    torch.manual_seed(2)
    policy = copy.deepcopy(base)
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    curve = [(accuracy(policy), 0.0)]
    for _ in range(ROLLOUTS):
        drawn = PAIRS[torch.randint(100, (BATCH // group,))].repeat_interleave(group, dim=0)
        ids = sample(policy, prompts(drawn))
        mask = answer_mask(ids)
        advantages = group_advantages(check(ids).view(-1, group)).view(-1, 1)
        with torch.no_grad():
            old = log_probs(policy, ids)
        for _ in range(3):
            new = log_probs(policy, ids)
            if sequence:
                losses = clipped(sequence_ratio(new - old, mask), torch.zeros_like(old), advantages)
            else:
                losses = clipped(new, old, advantages)
            optimizer.zero_grad()
            (
                summed(losses, mask) / mask.sum(1)
            ).mean().backward()  # mean over tokens, then over answers
            optimizer.step()
        curve.append((accuracy(policy), distance(policy)))
    return curve


curves["GRPO, checker"] = grpo()
curves["GSPO, checker"] = grpo(sequence=True)

# %% [markdown] lang="en"
# ## DPO
#
# Put the implied reward into the Bradley-Terry loss: Z cancels, and the policy itself is the reward model.
#
# $$\mathcal{L} = -\log \sigma\Big(\beta \log \frac{\pi(y_w)}{\pi_{\mathrm{ref}}(y_w)} - \beta \log \frac{\pi(y_l)}{\pi_{\mathrm{ref}}(y_l)}\Big)$$
#
# No sampling while training; but all pairs are answers of the base model, and the further the policy moves, the less they say about it.

# %% [markdown] lang="zh"
# ## DPO
#
# 把隐含的奖励代入 Bradley-Terry 损失：Z 抵消，策略自己就是奖励模型。
#
# $$\mathcal{L} = -\log \sigma\Big(\beta \log \frac{\pi(y_w)}{\pi_{\mathrm{ref}}(y_w)} - \beta \log \frac{\pi(y_l)}{\pi_{\mathrm{ref}}(y_l)}\Big)$$
#
# 训练时不必采样；但所有成对数据都出自基座模型，策略离得越远，它们能说明的就越少。


# %%
def dpo(beta: float = 0.2) -> list[tuple[float, float]]:
    torch.manual_seed(3)
    policy = copy.deepcopy(base)
    optimizer = torch.optim.Adam(policy.parameters(), lr=2e-3)
    both = torch.cat((chosen, rejected))
    with torch.no_grad():
        reference = summed(log_probs(base, both), answer_mask(both))
    curve = [(accuracy(policy), 0.0)]
    for _ in range(ROLLOUTS):
        for _ in range(3):
            rows = torch.randint(len(chosen), (BATCH // 2,))
            rows = torch.cat((rows, rows + len(chosen)))
            ratio = summed(log_probs(policy, both[rows]), answer_mask(both[rows])) - reference[rows]
            won, lost = ratio.chunk(2)
            loss = -F.logsigmoid(beta * (won - lost)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        curve.append((accuracy(policy), distance(policy)))
    return curve


curves["DPO, pairs"] = dpo()
for name, curve in curves.items():
    print(
        f"{name:18} right {curve[0][0]:.2f} -> {curve[-1][0]:.2f}, at {curve[-1][1]:.2f} nats from the base model"
    )

# %% alt_en="Two panels. Left: probability of the right answer over rollouts for PPO with a reward model, GRPO and GSPO with a checker, and DPO from pairs; all rise from the base model's level. Right: the same against the KL distance from the base model; all curves begin at the left and rise with distance." alt_zh="两幅图。左：PPO（奖励模型）、GRPO 与 GSPO（检查程序）、DPO（成对数据）的正确概率随采样轮数的变化，都从基座水平上升。右：同样的概率相对于与基座的 KL 距离，曲线都从左下角开始，随距离上升。"
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for name, curve in curves.items():
    right, far = zip(*curve, strict=True)
    axes[0].plot(right, label=name)
    axes[1].plot(far, right, marker=".", label=name)
axes[0].set(title="learning", xlabel="rollout (DPO: three updates)", ylabel="right", ylim=(0, 1.02))
axes[1].set(
    title="how far it moved", xlabel="KL to the base model, nats", ylabel="right", ylim=(0, 1.02)
)
axes[0].legend(fontsize=8)
plt.show()

# %% [markdown] lang="en"
# One seed of one toy: this shows that each works, not which is best. PPO's and DPO's settings were tried out on these
# very sums before they were written down, and nothing is held out. What to look at in practice is the right panel. A reward that goes on rising while the policy moves
# far from where it began is often a reward model that is being fooled; a checker cannot be, but it may check the wrong thing.

# %% [markdown] lang="zh"
# 一个玩具任务、一个随机种子：只说明每种方法都能用，不说明谁最好。PPO 和 DPO 的设置就是在这些题目上试出来的，
# 而且没有留出题目。实践中要看右图。策略已经离出发点很远而奖励还在涨，
# 往往是奖励模型被钻了空子；检查程序骗不了，但它检查的可能不是你想要的。

# %% [markdown] lang="en" part="real"
# ## Now open the real one
#
# - [`bradley_terry_losses`](../src/glassbox/tuning/preference/reward.py), with margins and centering; [`preference_losses`](../src/glassbox/tuning/preference/dpo.py): DPO, IPO, hinge and
#   robust.
# - [`generalized_advantages`](../src/glassbox/tuning/policy/ppo.py) and [`Ppo`](../src/glassbox/tuning/policy/ppo.py), whose value model is saved with the policy.
# - [`policy_losses`](../src/glassbox/tuning/policy/grpo.py), [`group_advantages`](../src/glassbox/tuning/policy/grpo.py), [`sequence_ratios`](../src/glassbox/tuning/policy/grpo.py):
#   GRPO, DAPO, Dr. GRPO and GSPO.
# - [`AnswerSource`](../src/glassbox/tuning/policy/rollouts.py) samples with the inference engine, so rollouts are batched and cached.

# %% [markdown] lang="zh" part="real"
# ## 打开真正的实现
#
# - [`bradley_terry_losses`](../src/glassbox/tuning/preference/reward.py) 支持间隔与居中；[`preference_losses`](../src/glassbox/tuning/preference/dpo.py) 包括
#   DPO、IPO、hinge 和 robust。
# - [`generalized_advantages`](../src/glassbox/tuning/policy/ppo.py) 与 [`Ppo`](../src/glassbox/tuning/policy/ppo.py)，价值模型会和策略一起存入检查点。
# - [`policy_losses`](../src/glassbox/tuning/policy/grpo.py)、[`group_advantages`](../src/glassbox/tuning/policy/grpo.py)、[`sequence_ratios`](../src/glassbox/tuning/policy/grpo.py)
#   组成 GRPO、DAPO、Dr. GRPO 和 GSPO。
# - [`AnswerSource`](../src/glassbox/tuning/policy/rollouts.py) 用推理引擎采样，因此有批处理和缓存。

# %%
from glassbox.tuning.policy import grpo as real
from glassbox.tuning.policy.ppo import generalized_advantages
from glassbox.tuning.preference.reward import bradley_terry_losses

ids = sample(base, prompts(PAIRS[:32]))
mask = answer_mask(ids)
new, old = log_probs(base, ids).detach(), log_probs(base, ids).detach() + 0.3 * torch.randn(32, 6)
reward = torch.randint(2, (4, 8)).float()
advantages = group_advantages(reward)
theirs = real.group_advantages(reward)
print(f"group advantages differ by {(advantages - theirs).abs().max():.1e}")
losses, _ = real.policy_losses(new, old, theirs.flatten(), clip_low=0.2, clip_high=0.2)
print(
    f"clipped losses             {(losses - clipped(new, old, advantages.view(-1, 1))).abs().max():.1e}"
)
print(
    f"sequence ratios            {(real.sequence_ratios(new, old, mask) - sequence_ratio(new - old, mask)).abs().max():.1e}"
)
rewards, values = torch.randn(32, 6), torch.randn(32, 6)
apart = generalized_advantages(rewards, values, mask, gamma=0.9, gae_lambda=0.8) - gae(
    rewards, values, mask, 0.9, 0.8
)
print(f"GAE                        {apart.abs().max():.1e}")
print(
    f"Bradley-Terry              {(bradley_terry_losses(new[0], old[0]) - bradley_terry(new[0], old[0])).abs().max():.1e}"
)

# %% [markdown] lang="en" part="exercises"
# ## Exercises
#
# `glassbox lesson open 16` writes a file with the graded ones.
#
# <!-- exercise 16.1 -->
#
# <!-- exercise 16.2 -->
#
# <!-- exercise 16.3 -->
#
# **16.4 Fool the reward model** Train PPO with beta 1, 0.3, 0.1 and 0, then with a reward model that saw only 50 pairs. Plot its mean score beside the true accuracy.
#
# **16.5 Groups that teach** What share of groups has equal rewards, at the start and at the end of GRPO? Draw prompts until none has: what changes?

# %% [markdown] lang="zh" part="exercises"
# ## 练习
#
# `glassbox lesson open 16` 会生成一个文件，里面是可以自动评分的题目。
#
# <!-- exercise 16.1 -->
#
# <!-- exercise 16.2 -->
#
# <!-- exercise 16.3 -->
#
# **16.4 骗过奖励模型** beta 分别取 1、0.3、0.1、0 训练 PPO，再换用只见过 50 对数据的奖励模型。把它的平均分与真实正确率画在一起。
#
# **16.5 有用的组** GRPO 开始和结束时，奖励全相等的组各占多少？不断重抽提示词直到没有这样的组，结果有什么变化？

# %% [markdown] lang="en" part="pitfalls"
# ## What goes wrong in practice
#
# - **Log-probabilities not shifted by one**: each token is scored by the position that has already read it. The first ratio is 1 all the same, the loss
#   looks normal, and nothing is learned.
# - **Padding in the sums.** Long batches seem to prefer short answers, or the opposite; the reward depends on the neighbours in the batch.
# - **The reference is trained along** (the same object, no copy): the KL stays at exactly zero while answers drift.
# - **KL in the reward and in the loss**: counted twice; the policy hardly moves.
# - **Tokens of prompts or tools counted as actions**: the model is rewarded for text that it did not write.
# - **Old log-probabilities from another program**: the engine's and the trainer's differ a little; ratios are not 1 at the first update. Look at the clip fraction there: it should be 0.
# - **DPO's chosen answers become less probable** too: only the difference is trained. Watch both implied rewards, not the margin alone.
# - **The value model is missing from the checkpoint**: after a resume advantages are noise for hours.

# %% [markdown] lang="zh" part="pitfalls"
# ## 实践中的坑
#
# - **对数概率没有错开一位**：给词元打分的位置已经读过它了。首个比率照样是 1，损失看着正常，却什么都学不到。
# - **求和时算进了填充。** 批次一长就偏爱短回答（或者相反），奖励竟取决于同批的其他回答。
# - **参考模型跟着一起训练了**（同一个对象，没有复制）：KL 一直恰好为零，回答却在漂移。
# - **奖励和损失里各减了一次 KL**：重复计算，策略几乎不动。
# - **把提示词或工具的词元当成动作**：模型因为不是自己写的文字得到奖励。
# - **旧的对数概率来自另一个程序**：推理引擎与训练器略有差异，首次更新时比率就不是 1。看那时的裁剪比例，应当是 0。
# - **DPO 中被选中的回答概率也在下降**：训练的只是两者之差。要看两边的隐含奖励，不能只看差值。
# - **检查点里没有价值模型**：续训后好几个小时优势都是噪声。

# %% [markdown] lang="en" part="reading"
# ## Further reading
#
# - Ouyang et al., *InstructGPT*, [arXiv:2203.02155](https://arxiv.org/abs/2203.02155): reward model and PPO on language models
# - Schulman et al., *PPO*, [arXiv:1707.06347](https://arxiv.org/abs/1707.06347), and *GAE*, [arXiv:1506.02438](https://arxiv.org/abs/1506.02438)
# - Rafailov et al., *Direct Preference Optimization*, [arXiv:2305.18290](https://arxiv.org/abs/2305.18290)
# - Shao et al., *DeepSeekMath*, [arXiv:2402.03300](https://arxiv.org/abs/2402.03300): GRPO; Zheng et al., *GSPO*, [arXiv:2507.18071](https://arxiv.org/abs/2507.18071)
# - [DPO derived](../docs/theory/dpo.md) and [advantages](../docs/theory/gae.md), step by step
# - [The guides to preferences](../docs/guides/preferences.md) and [to reinforcement learning](../docs/guides/rl.md)

# %% [markdown] lang="zh" part="reading"
# ## 延伸阅读
#
# - Ouyang 等，*InstructGPT*，[arXiv:2203.02155](https://arxiv.org/abs/2203.02155)：语言模型上的奖励模型与 PPO
# - Schulman 等，*PPO*，[arXiv:1707.06347](https://arxiv.org/abs/1707.06347)；*GAE*，[arXiv:1506.02438](https://arxiv.org/abs/1506.02438)
# - Rafailov 等，*Direct Preference Optimization*，[arXiv:2305.18290](https://arxiv.org/abs/2305.18290)
# - Shao 等，*DeepSeekMath*，[arXiv:2402.03300](https://arxiv.org/abs/2402.03300)：GRPO；Zheng 等，*GSPO*，[arXiv:2507.18071](https://arxiv.org/abs/2507.18071)
# - 逐步推导：[DPO](../docs/theory/dpo.md)、[广义优势估计](../docs/theory/gae.md)
# - [偏好优化指南](../docs/guides/preferences.md)与[强化学习指南](../docs/guides/rl.md)
