# %% [markdown] lang="en"
# # 17. Distillation

# %% [markdown] lang="zh"
# # 17. 蒸馏

# %% [markdown] lang="en" part="question"
# ## The question
#
# A large model answers well and is too slow to serve. A small one, trained on the same text, is worse. What can the large model give the
# small one that the text does not contain?

# %% [markdown] lang="zh" part="question"
# ## 问题
#
# 大模型答得好，但太慢，没法上线；小模型用同样的文本训练，效果差一截。大模型能给小模型哪些文本里没有的东西？

# %% [markdown] lang="en" part="idea"
# ## The idea
#
# A text shows **one** next token. A teacher shows the **whole distribution**: which other tokens would have done, and how well. The
# student q is trained to have the teacher's distribution p, both softened by a temperature T:
#
# $$\mathcal{L} = T^2\, \mathrm{KL}(p \,\|\, q) = T^2 \sum_y p(y) \log\frac{p(y)}{q(y)}, \qquad p = \mathrm{softmax}(z_{\mathrm{teacher}}/T),\; q = \mathrm{softmax}(z_{\mathrm{student}}/T)$$
#
# ```
#   text:      "the cat sat on the" ->  mat                      one token: about as much as log2 V bits
#   teacher:   "the cat sat on the" ->  mat .5  sofa .2  floor .2  roof .1 ...     V numbers
#
#   on whose text?   data:       the student sees good beginnings alone
#                    student's:  it learns to go on from its own mistakes (on-policy)
#                    teacher's:  as text; the vocabularies may differ (sequence-level)
# ```

# %% [markdown] lang="zh" part="idea"
# ## 思路
#
# 文本只告诉你**一个**下一个词元；教师给出**完整的分布**：别的词元里还有哪些可以，各有多合适。
# 训练学生的分布 q 去接近教师的分布 p，两者都用温度 T 软化：
#
# $$\mathcal{L} = T^2\, \mathrm{KL}(p \,\|\, q) = T^2 \sum_y p(y) \log\frac{p(y)}{q(y)}, \qquad p = \mathrm{softmax}(z_{\mathrm{teacher}}/T),\; q = \mathrm{softmax}(z_{\mathrm{student}}/T)$$
#
# ```
#   文本：     "the cat sat on the" ->  mat                      一个词元：至多 log2 V 比特
#   教师：     "the cat sat on the" ->  mat .5  sofa .2  floor .2  roof .1 ...     V 个数
#
#   用谁的文本？     数据：      学生只见过好的开头
#                    学生的：    学会从自己的错误接着往下写（在策略）
#                    教师的：    当作文本来学，词表可以不同（序列级）
# ```

# %% [markdown] lang="en" part="code"
# ## The loss, and why T squared
#
# The gradient of the loss with respect to the student's logits is $T (q - p)$: the softmax gives $(q - p) / T$, and $T^2$ times that is $T (q - p)$. At high temperature
# $q - p \approx (z_s - z_t) / (V T)$ for centred logits, so T cancels: without the factor the gradient would fade as $1/T^2$.

# %% [markdown] lang="zh" part="code"
# ## 损失，以及为什么乘 T 的平方
#
# 损失对学生 logit 的梯度是 $T (q - p)$：softmax 给出 $(q - p) / T$，乘以 $T^2$ 就是 $T (q - p)$。温度很高时，对居中的 logit 有
# $q - p \approx (z_s - z_t) / (V T)$，T 恰好抵消；若没有这个系数，梯度会按 $1/T^2$ 衰减。

# %%
import os

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

torch.manual_seed(0)
TEST_SIZE = os.environ.get("GLASSBOX_LESSON_SIZE") == "test"


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of each row, in nats."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def distill_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    log_q = (student / temperature).log_softmax(-1)
    log_p = (teacher.detach() / temperature).log_softmax(-1)
    return temperature**2 * kl(log_p, log_q).mean()


student, teacher = torch.randn(5, 8, requires_grad=True), torch.randn(5, 8)
theirs = F.kl_div(
    student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True
)
print(f"torch's kl_div differs by {(distill_loss(student, teacher) - theirs).abs().item():.1e}")
for temperature in (1.0, 4.0, 100.0):
    gradient = torch.autograd.grad(distill_loss(student, teacher, temperature), student)[0] * 5
    q, p = (student / temperature).softmax(-1), (teacher / temperature).softmax(-1)
    centred = (student - student.mean(-1, keepdim=True)) - (
        teacher - teacher.mean(-1, keepdim=True)
    )
    exact = (gradient - temperature * (q - p)).abs().max().item()
    print(
        f"T = {temperature:5.0f}: |gradient| {gradient.norm():.3f}, from T (q - p) {exact:.0e}, from matching logits {(gradient - centred / 8).norm():.3f}"
    )

# %% [markdown] lang="en"
# ## Which way round?
#
# KL is not symmetric. **Forward**, KL(p || q), punishes q small where p is large: the student must cover everything. **Reverse**, KL(q || p), punishes q large where p is small: the
# student may leave things out, but should say nothing that the teacher would not. A student that is too small for the teacher shows it: one bell against two.

# %% [markdown] lang="zh"
# ## KL 的方向
#
# KL 不对称。**正向** KL(p || q) 惩罚 p 大而 q 小的地方：学生必须覆盖全部。**反向** KL(q || p) 惩罚 q 大而 p 小的地方：学生可以漏掉一些，
# 但不该说教师不会说的。学生容量不够时差别最明显：用一个钟形去拟合两个。

# %%
places = torch.linspace(-12, 12, 241)


def bell(mean: float | Tensor, width: float | Tensor) -> Tensor:
    """Log-probabilities of a discretized normal distribution."""
    return (-((places - mean) ** 2) / (2 * width**2)).log_softmax(-1)


two_bells = torch.logaddexp(
    bell(-3.0, 0.8) + torch.tensor(0.6).log(), bell(3.0, 0.8) + torch.tensor(0.4).log()
)
fitted = {}
for name in ("forward", "reverse"):
    mean, log_width = torch.tensor(-1.5, requires_grad=True), torch.tensor(0.0, requires_grad=True)
    optimizer = torch.optim.Adam([mean, log_width], lr=0.05)
    for _ in range(300):
        q = bell(mean, log_width.exp())
        loss = kl(two_bells, q) if name == "forward" else kl(q, two_bells)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    fitted[name] = bell(mean, log_width.exp()).detach()
    print(f"{name}: mean {mean.item():5.2f}, width {log_width.exp().item():.2f}")
average = (two_bells.exp() * places).sum()
print(
    f"mean of the teacher {average:.2f}, its width {((two_bells.exp() * (places - average) ** 2).sum().sqrt()):.2f}: what forward KL matches"
)

# %% [markdown] lang="en"
# ## A teacher, a student and little data
#
# A language of twelve tokens in which the next one depends on the last two, so a network that sees two tokens is a language model. We know the true distribution, so we can say exactly how far each model
# is from the truth. The teacher is wide and has read much; the student is narrow and has only 400 tokens.

# %% [markdown] lang="zh"
# ## 一个教师、一个学生、很少的数据
#
# 设一种只有十二个词元的语言，下一个词元取决于前两个，因此看两个词元的网络就是语言模型。真实分布已知，可以精确算出每个模型离它多远。
# 教师很宽、读过很多；学生很窄，手头只有 400 个词元。

# %%
V = 12
truth = (2.0 * torch.randn(V, V, V)).log_softmax(-1)  # log p(next | two before)


def write(log_probs: Tensor, rows: int, length: int = 20) -> Tensor:
    """Sample rows from a table (V, V, V) of log-probabilities."""
    ids = torch.randint(V, (rows, 2))
    for _ in range(length - 2):
        ids = torch.cat((ids, torch.multinomial(log_probs[ids[:, -2], ids[:, -1]].exp(), 1)), dim=1)
    return ids


class Model(nn.Module):
    def __init__(self, hidden: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Embedding(V, 16),
            nn.Flatten(-2),
            nn.Linear(32, hidden),
            nn.GELU(),
            nn.Linear(hidden, V),
        )

    def forward(self, ids: Tensor) -> Tensor:
        """Rows (B, T) to logits (B, T - 2, V) of the tokens from the third on."""
        return self.net(torch.stack((ids[:, :-2], ids[:, 1:-1]), dim=-1))

    @torch.no_grad()
    def table(self) -> Tensor:
        a, b = torch.meshgrid(torch.arange(V), torch.arange(V), indexing="ij")
        return self.net(torch.stack((a, b), dim=-1)).log_softmax(-1)


often = torch.zeros(V, V).index_put(
    (*write(truth, 4000)[:, -2:].T,), torch.tensor(1.0), accumulate=True
)
often /= often.sum()  # how often each pair of tokens comes before another


def excess(model: Model) -> float:
    """KL(truth || model) of a token, in nats: the loss above the entropy of the language."""
    return (often * kl(truth, model.table())).sum().item()


def train(model: Model, loss_of, steps: int) -> Model:
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.01)
    for _ in range(steps):
        loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def hard(ids: Tensor):
    return lambda model: F.cross_entropy(model(ids).flatten(0, 1), ids[:, 2:].flatten())


STEPS = 120 if TEST_SIZE else 400
teacher = train(Model(256), lambda model: hard(write(truth, 128))(model), 3 * STEPS)
data = write(truth, 20)
results = {"teacher": teacher}
torch.manual_seed(1)
results["text alone"] = train(Model(32), hard(data), STEPS)
torch.manual_seed(1)
results["teacher's distributions"] = train(
    Model(32), lambda m: distill_loss(m(data), teacher(data)), STEPS
)
torch.manual_seed(1)
results["both, half and half"] = train(
    Model(32),
    lambda m: 0.5 * distill_loss(m(data), teacher(data), 2.0) + 0.5 * hard(data)(m),
    STEPS,
)
for name, model in results.items():
    print(f"{name:24} {excess(model):.3f} nats above the entropy")

# %% [markdown] lang="en"
# On the same 400 tokens, the distributions say far more than the tokens do. But the student still sees only the pairs that this text contains. A teacher can also judge text that does not exist yet:
#
# - **Sequence-level**: the teacher writes, the student learns the text as data. It works with any teacher, also one behind an interface.
# - **On-policy**: the student writes, and the teacher's distribution at each place says how to go on, from beginnings as the student will have them. The divergence is often the reverse one.

# %% [markdown] lang="zh"
# 同样 400 个词元，分布包含的信息比词元本身多得多。但学生见到的仍只有这段文本里的上下文。教师还可以评判尚不存在的文本：
#
# - **序列级**：教师来写，学生把它当数据学。任何教师都行，哪怕只有一个接口。
# - **在策略**：学生来写，教师在每个位置给出分布，告诉它该怎样接下去，而这些开头正是学生将来会遇到的。散度通常取反向。


# %%
@torch.no_grad()
def teacher_says(model: Model) -> float:
    """Mean log-probability, by the truth, of a token that the model writes: does it write what could have been written?"""
    ids = write(model.table(), 2000)
    return truth[ids[:, :-2], ids[:, 1:-1]].gather(-1, ids[:, 2:, None]).mean().item()


def on_policy(model: Model) -> Tensor:
    ids = write(model.table(), 32)  # sampled without gradient, as in lesson 16
    return kl(model(ids).log_softmax(-1), teacher(ids).detach().log_softmax(-1)).mean()


torch.manual_seed(1)
results["teacher's text"] = train(Model(32), lambda m: hard(write(teacher.table(), 32))(m), STEPS)
torch.manual_seed(1)
start = train(Model(32), hard(data), STEPS // 2)
results["on-policy, reverse"] = train(start, on_policy, STEPS)
for name, model in results.items():
    print(
        f"{name:24} {excess(model):6.3f} nats above the entropy; what it writes has {teacher_says(model):.2f} nats a token"
    )
real = write(truth, 2000)
print(
    f"{'the language itself':24} {0:6.3f}{'':40} {truth[real[:, :-2], real[:, 1:-1]].gather(-1, real[:, 2:, None]).mean():.2f}"
)

# %% alt_en="Two panels. Left: a teacher's distribution with two bells; the forward KL fit is one wide bell over both, the reverse KL fit a narrow bell on the left one. Right: bars of the loss above the entropy for the teacher and its students; the student from text alone is highest, those that use the teacher's distributions are lower." alt_zh="两幅图。左：教师分布有两个峰；正向 KL 拟合出一个盖住两峰的宽峰，反向 KL 拟合出左侧的窄峰。右：教师与各学生高出熵的损失柱状图；只用文本的学生最高，用教师分布的更低。"
figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
axes[0].fill_between(places, two_bells.exp(), color="lightgray", label="teacher")
for name, log_q in fitted.items():
    axes[0].plot(places, log_q.exp(), label=f"{name} KL")
axes[0].set(title="one bell for two", yticks=[], xlim=(-9, 9))
axes[0].legend(fontsize=8)
names = list(results)
axes[1].barh(
    names, [excess(results[name]) for name in names], color=["gray"] + ["C0"] * (len(names) - 1)
)
axes[1].invert_yaxis()
axes[1].set(title="distance from the truth", xlabel="nats a token")
plt.show()

# %% [markdown] lang="en"
# ## The teacher's answers on disk
#
# Running the teacher at every step costs more than training the student. Its distributions on fixed data can be computed once, but V numbers for each token are far too many for V = 150,000. Keep the **k
# most probable** and put all others into one outcome: the result is still a divergence (never negative, zero when both agree), and never more than the full one.

# %% [markdown] lang="zh"
# ## 把教师的输出存到磁盘
#
# 每一步都运行教师，比训练学生还贵。数据固定时，教师的分布算一次就够；可是词表有 15 万，每个词元存 V 个数太多了。只保留**概率最高的 k 个**，
# 其余合并成一个事件：结果仍是散度（不为负，两者一致时为零），而且不超过完整的散度。


# %%
def top_kl(student: Tensor, ids: Tensor, log_p: Tensor) -> Tensor:
    """KL over k + 1 outcomes: the teacher's top k, and the rest together."""
    log_q = student.log_softmax(-1).gather(-1, ids)
    rest_p, rest_q = (1 - x.exp().sum(-1).clamp(max=1 - 1e-7) for x in (log_p, log_q))
    return kl(log_p, log_q) + rest_p * (rest_p / rest_q).log()


said, mine = teacher(data).detach(), results["text alone"](data).detach()
whole = kl(said.log_softmax(-1), mine.log_softmax(-1)).mean().item()
for k in (1, 2, 4, 8):
    log_p, ids = said.log_softmax(-1).topk(k)
    print(
        f"top {k}: {top_kl(mine, ids, log_p).mean().item():.3f} of {whole:.3f} nats, {log_p.exp().sum(-1).mean():.0%} of the probability, {6 * k} bytes a token instead of {4 * V}"
    )

# %% [markdown] lang="en" part="real"
# ## Now open the real one
#
# - [`divergence`](../src/glassbox/tuning/distillation/divergences.py): forward, reverse and Jensen-Shannon with temperature;
#   [`top_divergence`](../src/glassbox/tuning/distillation/divergences.py) over the teacher's top k.
# - [`Distill`](../src/glassbox/tuning/distillation/objective.py) computes it in pieces, so that the logits of all positions never exist at once, and can compare hidden states too.
# - [`TeacherCache`](../src/glassbox/tuning/distillation/teacher_cache.py) is the teacher on disk.
# - [`StudentSource`](../src/glassbox/tuning/policy/rollouts.py) samples the student's answers for on-policy distillation.

# %% [markdown] lang="zh" part="real"
# ## 打开真正的实现
#
# - [`divergence`](../src/glassbox/tuning/distillation/divergences.py)：带温度的正向、反向 KL 与 Jensen-Shannon 散度；
#   [`top_divergence`](../src/glassbox/tuning/distillation/divergences.py) 只用教师的前 k 个。
# - [`Distill`](../src/glassbox/tuning/distillation/objective.py) 分块计算，所有位置的 logit 从不同时存在；还可以比较隐藏状态。
# - [`TeacherCache`](../src/glassbox/tuning/distillation/teacher_cache.py) 就是存到磁盘的教师。
# - [`StudentSource`](../src/glassbox/tuning/policy/rollouts.py) 为在策略蒸馏采样学生的回答。

# %%
from glassbox.tuning.distillation.divergences import divergence, top_divergence

one, other = mine.flatten(0, 1), said.flatten(0, 1)
ours = distill_loss(one, other, 2.0)
print(
    f"forward KL at T = 2 differs by {(divergence(one, other, temperature=2.0).mean() - ours).abs():.1e}"
)
reverse = kl(one.log_softmax(-1), other.log_softmax(-1))
print(
    f"reverse KL                     {(divergence(one, other, kind='reverse_kl') - reverse).abs().max():.1e}"
)
log_p, ids = other.log_softmax(-1).topk(4)
print(
    f"top 4                          {(top_divergence(one, ids, log_p) - top_kl(one, ids, log_p)).abs().max():.1e}"
)

# %% [markdown] lang="en" part="exercises"
# ## Exercises
#
# `glassbox lesson open 17` writes a file with the graded ones.
#
# <!-- exercise 17.1 -->
#
# <!-- exercise 17.2 -->
#
# <!-- exercise 17.3 -->
#
# **17.4 More text, same teacher** Plot the excess of hard and soft students over the amount of text, from 100 to 100,000 tokens. Where do they meet?
#
# **17.5 A bad teacher** Train the teacher for 20 steps only. When is it better to learn from the text?

# %% [markdown] lang="zh" part="exercises"
# ## 练习
#
# `glassbox lesson open 17` 会生成一个文件，里面是可以自动评分的题目。
#
# <!-- exercise 17.1 -->
#
# <!-- exercise 17.2 -->
#
# <!-- exercise 17.3 -->
#
# **17.4 数据更多，教师不变** 让文本从 100 个词元增加到 100,000 个，画出硬标签学生与软标签学生的损失。两者在哪里相遇？
#
# **17.5 差劲的教师** 教师只训练 20 步。什么时候还不如直接学文本？

# %% [markdown] lang="en" part="pitfalls"
# ## What goes wrong in practice
#
# - **Different tokenizers.** Ids mean different tokens; the loss falls nevertheless, and the student writes nonsense. Compare vocabularies, not sizes; otherwise pass text.
# - **KL the wrong way round**: torch's `kl_div(input, target)` is KL(target || input), with the input as logarithm. Swapped, it is a different, mode-seeking loss.
# - **`reduction="mean"`** divides by the vocabulary too: the loss is V times too small, and weighted against the next-token loss it does nothing.
# - **No T²**: a change of temperature silently changes the learning rate, and the balance between soft and hard loss.
# - **The teacher in training mode**: dropout makes its distributions noise. Or with gradients on: memory doubles.
# - **Top k renormalized to 1**: the student learns that all other tokens are impossible, and writes as at a low temperature.
# - **Padding rows of the vocabulary** (a size rounded up to a multiple of 64) get probability from a teacher that never trained them.

# %% [markdown] lang="zh" part="pitfalls"
# ## 实践中的坑
#
# - **分词器不同。** 同一个编号代表不同词元；损失照样下降，学生写出来的却是乱码。要比较词表内容而不只是大小；不一致就传文本。
# - **KL 的方向反了**：torch 的 `kl_div(input, target)` 是 KL(target || input)，且 input 要先取对数。写反了就成了另一种偏向单峰的损失。
# - **`reduction="mean"`** 还会除以词表大小：损失小了 V 倍，与硬标签损失加权后等于没有。
# - **漏了 T²**：换个温度就悄悄换了学习率，也改变了软硬损失的比例。
# - **教师处于训练模式**：dropout 让它的分布变成噪声；或者没关梯度，内存翻倍。
# - **前 k 个重新归一化为 1**：学生学到的是其余词元都不可能，写出来像是温度调得很低。
# - **词表的填充行**（大小凑成 64 的倍数）：教师从没训练过它们，却也分到了概率。

# %% [markdown] lang="en" part="reading"
# ## Further reading
#
# - Hinton et al., *Distilling the Knowledge in a Neural Network*, [arXiv:1503.02531](https://arxiv.org/abs/1503.02531): section 2 for T²
# - Kim and Rush, *Sequence-Level Knowledge Distillation*, [arXiv:1606.07947](https://arxiv.org/abs/1606.07947)
# - Agarwal et al., *On-Policy Distillation of Language Models*, [arXiv:2306.13649](https://arxiv.org/abs/2306.13649)
# - Gu et al., *MiniLLM*, [arXiv:2306.08543](https://arxiv.org/abs/2306.08543): reverse KL

# %% [markdown] lang="zh" part="reading"
# ## 延伸阅读
#
# - Hinton 等，*Distilling the Knowledge in a Neural Network*，[arXiv:1503.02531](https://arxiv.org/abs/1503.02531)：第 2 节讲 T²
# - Kim 与 Rush，*Sequence-Level Knowledge Distillation*，[arXiv:1606.07947](https://arxiv.org/abs/1606.07947)
# - Agarwal 等，*On-Policy Distillation of Language Models*，[arXiv:2306.13649](https://arxiv.org/abs/2306.13649)
# - Gu 等，*MiniLLM*，[arXiv:2306.08543](https://arxiv.org/abs/2306.08543)：反向 KL
