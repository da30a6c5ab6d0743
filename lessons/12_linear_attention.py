# %% [markdown] lang="en"
# # 12. Linear attention, state spaces, hybrids

# %% [markdown] lang="zh"
# # 12. 线性注意力、状态空间与混合模型

# %% [markdown] lang="en" part="question"
# ## The question
#
# Attention keeps a key and a value of every token it has read, and looks at all of them for each new one. After a million tokens that is a lot to look at. Can a layer keep a memory of
# *fixed* size instead, and what does it lose?

# %% [markdown] lang="zh" part="question"
# ## 问题
#
# 注意力为读过的每个词元保留键和值，每来一个新词元就全部看一遍。读了一百万个词元之后，要看的就太多了。
# 能不能让一个层只保留*固定*大小的记忆？又会失去什么？

# %% [markdown] lang="en" part="idea"
# ## The idea
#
# Leave out the softmax. Then the sum over the past can be done beforehand: all keys and values go into one matrix $S$, a query reads it, and the past may be forgotten:
#
# $$S_t = a_t S_{t-1} + k_t v_t^\top, \qquad o_t = S_t^\top q_t$$
#
# Written out, that is attention without a softmax and with a mask that decays:
#
# $$o_t = \sum_{s \le t} \underbrace{a_{s+1} \cdots a_t}_{L_{ts}}\, (q_t \cdot k_s)\, v_s, \qquad O = \big(L \circ (Q K^\top)\big) V$$
#
# ```
#   recurrence   S0 -> S1 -> S2 -> S3      one step after the other, constant memory: for writing
#   matrix       all pairs (t, s) at once  many products, no order: for training
#   chunks       matrix inside, state between: linear in T, and still products
# ```
#
# Who sets $a_t$ and how gives the families: a constant (RetNet), one for each channel and token (GLA, RWKV), a scalar for each head and token (Mamba-2). The **delta rule** writes only what the memory does not yet say:
#
# $$S_t = S_{t-1} + \beta_t\, k_t (v_t - S_{t-1}^\top k_t)^\top$$

# %% [markdown] lang="zh" part="idea"
# ## 思路
#
# 去掉 softmax。对过去的求和就可以提前做好：所有的键和值都写进一个矩阵 $S$，由查询读出，过去还可以逐渐遗忘：
#
# $$S_t = a_t S_{t-1} + k_t v_t^\top, \qquad o_t = S_t^\top q_t$$
#
# 展开来写，就是没有 softmax、掩码带衰减的注意力：
#
# $$o_t = \sum_{s \le t} \underbrace{a_{s+1} \cdots a_t}_{L_{ts}}\, (q_t \cdot k_s)\, v_s, \qquad O = \big(L \circ (Q K^\top)\big) V$$
#
# ```
#   recurrence   S0 -> S1 -> S2 -> S3      一步接一步，内存不变：用于生成
#   matrix       all pairs (t, s) at once  大量乘法，没有先后：用于训练
#   chunks       块内用矩阵，块间用状态：    随 T 线性增长，仍然是乘法
# ```
#
# $a_t$ 由谁决定、怎样决定，就区分出各个家族：常数（RetNet），每个通道每个词元一个（GLA、RWKV），每个头每个词元一个标量（Mamba-2）。
# **delta 规则**只写记忆里还没有的部分：
#
# $$S_t = S_{t-1} + \beta_t\, k_t (v_t - S_{t-1}^\top k_t)^\top$$

# %% [markdown] lang="en" part="code"
# ## One function, three ways
#
# The same outputs by the recurrence, by the matrix, and in chunks.

# %% [markdown] lang="zh" part="code"
# ## 一个函数，三种算法
#
# 用递推、用矩阵、分块，得到同样的输出。

# %%
import os
import time

import matplotlib.pyplot as plt
import torch
from torch import Tensor

torch.manual_seed(0)
TEST_SIZE = os.environ.get("GLASSBOX_LESSON_SIZE") == "test"


def recurrence(
    q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """q, k (T, D), v (T, E), log_a (T): outputs (T, E), and the state (D, E) at the end."""
    state = torch.zeros(k.shape[1], v.shape[1]) if state is None else state
    outputs = []
    for t in range(len(q)):
        state = log_a[t].exp() * state + torch.outer(k[t], v[t])
        outputs.append(state.T @ q[t])
    return torch.stack(outputs), state


def matrix(q: Tensor, k: Tensor, v: Tensor, log_a: Tensor) -> Tensor:
    total = log_a.cumsum(0)
    mask = (
        (total[:, None] - total[None, :]).exp().tril()
    )  # L: exponents of the lower half are at most 0
    return (mask * (q @ k.T)) @ v


def chunks(q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, size: int = 64) -> Tensor:
    state, outputs = torch.zeros(k.shape[1], v.shape[1]), []
    for first in range(0, len(q), size):
        part = slice(first, first + size)
        total = log_a[part].cumsum(0)
        before = total.exp()[:, None] * (q[part] @ state)
        outputs.append(before + matrix(q[part], k[part], v[part], log_a[part]))
        left = (total[-1] - total).exp()[:, None]
        state = total[-1].exp() * state + (left * k[part]).T @ v[part]
    return torch.cat(outputs)


T, D, E = 300, 16, 24
q, k, v = torch.randn(T, D) / 4, torch.randn(T, D) / 4, torch.randn(T, E)
log_a = -torch.rand(T) * 0.1
exact, _ = recurrence(q, k, v, log_a)
print(f"matrix and recurrence differ by {(matrix(q, k, v, log_a) - exact).abs().max():.1e}")
print(f"chunks and recurrence differ by {(chunks(q, k, v, log_a) - exact).abs().max():.1e}")
begun, state = recurrence(q[:200], k[:200], v[:200], log_a[:200])
rest, _ = recurrence(q[200:], k[200:], v[200:], log_a[200:], state)
print(
    f"gone on from the state of 200 tokens: {(torch.cat([begun, rest]) - exact).abs().max():.1e}, and the state has {state.numel()} numbers, whatever T is"
)

# %% [markdown] lang="en"
# Note the matrix's exponent: differences of sums, never a quotient of products. $e^{c_t} / e^{c_s}$ would overflow after some hundreds of tokens.
#
# ## What it costs

# %% [markdown] lang="zh"
# 注意矩阵里的指数：用的是和之差，而不是积之商。$e^{c_t} / e^{c_s}$ 几百个词元之后就会溢出。
#
# ## 代价

# %% alt_en="Log-log plot of milliseconds against the length of the text: the matrix form grows with the square, the chunked form in a straight line of slope one." alt_zh="耗时对文本长度的双对数图：矩阵形式按平方增长，分块形式是一条斜率为一的直线。"
lengths = [128, 256, 512, 1024] if TEST_SIZE else [128, 256, 512, 1024, 2048, 4096]
spent = {"matrix": [], "chunks": []}
for n in lengths:
    inputs = torch.randn(n, D), torch.randn(n, D), torch.randn(n, E), -torch.rand(n)
    for name, function in (("matrix", matrix), ("chunks", chunks)):
        function(*inputs)
        began = time.perf_counter()
        for _ in range(3):
            function(*inputs)
        spent[name].append((time.perf_counter() - began) / 3 * 1000)
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
for name, values in spent.items():
    axis.loglog(lengths, values, marker="o", label=name)
axis.set(xlabel="tokens", ylabel="milliseconds")
axis.legend(frameon=False)
plt.show()


# %% [markdown] lang="en"
# ## What it loses: recall
#
# A memory of fixed size can hold only so many pairs. We write n pairs of a key and a value, and ask for all of them again. The more pairs, the more each answer is mixed with noise of the others; softmax attention keeps every pair and
# hardly errs. Then we write *new* values under the same keys and ask for the latest. A sum never takes anything back; the delta rule replaces what the key said before, at the price of
# disturbing other pairs a little at every write.

# %% [markdown] lang="zh"
# ## 失去了什么：回忆
#
# 固定大小的记忆只能容纳有限的对。我们写入 n 对键和值，再逐一询问。对数越多，回答里混进的其他对的噪声越大；softmax 注意力保留每一对，几乎不会错。
# 然后在同样的键下写入*新的*值，询问最新的。求和从不收回任何东西；delta 规则会替换这个键原来的内容，代价是每次写入都会稍微扰动其他对。


# %%
def delta(k: Tensor, v: Tensor, beta: float = 1.0) -> Tensor:
    """The memory (D, E) after all pairs; keys have length 1."""
    memory = torch.zeros(k.shape[1], v.shape[1])
    for key, value in zip(k, v, strict=True):
        memory += beta * torch.outer(key, value - memory.T @ key)
    return memory


def recall(pairs: int, times: int = 1, size: int = 32, words: int = 64) -> dict[str, float]:
    """How often the answer is nearest to the latest value, one of 64, of its key, each written `times` times."""
    book = torch.nn.functional.normalize(torch.randn(words, size), dim=1)
    keys = torch.nn.functional.normalize(torch.randn(pairs, size), dim=1)
    right = torch.randint(words, (times, pairs))
    k, v = keys.repeat(times, 1), book[right.flatten()]
    answers = {
        "sum": keys @ (k.T @ v),
        "delta rule": keys @ delta(k, v),
        "softmax": (keys @ k.T * 20).softmax(-1) @ v,
    }
    return {
        name: ((one @ book.T).argmax(1) == right[-1]).float().mean().item()
        for name, one in answers.items()
    }


numbers, curves = [4, 8, 16, 32, 64, 128], {"sum": [], "delta rule": [], "softmax": []}
for pairs in numbers:
    found = [recall(pairs) for _ in range(5 if TEST_SIZE else 20)]
    for name in curves:
        curves[name].append(sum(one[name] for one in found) / len(found))
    print(
        f"{pairs:3} pairs: "
        + "   ".join(f"{name} {values[-1]:.2f}" for name, values in curves.items())
    )
latest = {name: [] for name in curves}
for times in (1, 2, 3, 4):
    found = [recall(8, times) for _ in range(10 if TEST_SIZE else 40)]
    for name in latest:
        latest[name].append(sum(one[name] for one in found) / len(found))
    print(
        f"8 keys written {times} times, the latest value: "
        + "   ".join(f"{name} {values[-1]:.2f}" for name, values in latest.items())
    )

# %% alt_en="Left: recall against the number of stored pairs; softmax attention stays at one, the fixed memories fall. Right: recall of the latest of several values under a key; the delta rule stays high, the sum and softmax without positions fall." alt_zh="左图：回忆正确率对存入对数；softmax 注意力保持为 1，固定大小的记忆则下降。右图：同一个键写入多次时回忆最新值的正确率；delta 规则保持很高，求和以及没有位置的 softmax 都下降。"
figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for name in curves:
    axes[0].semilogx(numbers, curves[name], marker="o", base=2, label=name)
    axes[1].plot((1, 2, 3, 4), latest[name], marker="o", label=name)
axes[0].set(xlabel="pairs stored", ylabel="right answers", ylim=(0, 1.05))
axes[1].set(xlabel="times that a key was written", ylim=(0, 1.05), xticks=(1, 2, 3, 4))
axes[0].legend(frameon=False)
plt.show()

# %% [markdown] lang="en"
# That is why **hybrids** win: most layers linear, for the cost, and every fourth or so full attention, for exact recall. Their cache is a quarter of a transformer's.
#
# ## Forgetting
#
# With $a_t = e^{-1/n}$ the memory reaches about n tokens back. A gate makes $a_t$ depend on the token: a full stop may clear the table.

# %% [markdown] lang="zh"
# 所以**混合模型**胜出：大多数层用线性的以节省代价，每隔四层左右放一层完整的注意力来精确回忆。它的缓存只有 Transformer 的四分之一。
#
# ## 遗忘
#
# 取 $a_t = e^{-1/n}$，记忆大约能看到 n 个词元之前。加上门控，$a_t$ 就取决于词元：遇到句号可以把桌面清空。

# %%
T = 40
impulse = torch.zeros(T, 1)
impulse[0] = 1  # one value, written at the first token
for reach in (2, 8, 32):
    seen, _ = recurrence(torch.ones(T, 1), torch.ones(T, 1), impulse, torch.full((T,), -1 / reach))
    print(
        f"reach {reach:2}: what is left of it after 8 tokens {seen[8, 0]:.2f}, after 32 {seen[32, 0]:.2f}"
    )

# %% [markdown] lang="en" part="real"
# ## Now open the real one
#
# - [`decayed_attention_plain`](../src/glassbox/ops/linear_attention.py) is the recurrence, [`decayed_attention`](../src/glassbox/ops/linear_attention.py) the chunks, each document of a packed row beginning anew.
# - [`delta_rule_plain`](../src/glassbox/ops/delta_rule.py) and [`delta_rule`](../src/glassbox/ops/delta_rule.py), in chunks by a triangular system.
# - [`RetentionLayer`](../src/glassbox/layers/retention.py), [`Mamba2Layer`](../src/glassbox/layers/mamba2.py), [`RwkvTimeLayer`](../src/glassbox/layers/rwkv.py), [`DeltaNetLayer`](../src/glassbox/layers/delta_net.py): the layers, each held to a reference.
#
# [The derivations](../docs/theory/linear_attention.md) are on a page of their own. `recipes/pretrain/hybrid-delta.yaml` trains a hybrid.

# %% [markdown] lang="zh" part="real"
# ## 打开真正的实现
#
# - [`decayed_attention_plain`](../src/glassbox/ops/linear_attention.py) 是递推，[`decayed_attention`](../src/glassbox/ops/linear_attention.py) 是分块形式，打包行里的每篇文档都重新开始。
# - [`delta_rule_plain`](../src/glassbox/ops/delta_rule.py) 与 [`delta_rule`](../src/glassbox/ops/delta_rule.py)，后者用三角方程组分块计算。
# - [`RetentionLayer`](../src/glassbox/layers/retention.py)、[`Mamba2Layer`](../src/glassbox/layers/mamba2.py)、[`RwkvTimeLayer`](../src/glassbox/layers/rwkv.py)、[`DeltaNetLayer`](../src/glassbox/layers/delta_net.py)：各个层，都与参考实现对照过。
#
# [推导](../docs/theory/linear_attention.md)单独有一页。`recipes/pretrain/hybrid-delta.yaml` 训练一个混合模型。

# %%
from glassbox.ops.delta_rule import delta_rule_plain
from glassbox.ops.linear_attention import decayed_attention

theirs, _ = decayed_attention(
    q[None, :, None], k[None, :, None], v[None, :, None], log_a[None, :, None]
)
print(f"decayed_attention and the recurrence differ by {(theirs[0, :, 0] - exact).abs().max():.1e}")
keys = torch.nn.functional.normalize(torch.randn(20, D), dim=1)
values = torch.randn(20, E)
_, memory = delta_rule_plain(
    keys[None, :, None], keys[None, :, None], values[None, :, None], torch.ones(1, 20, 1)
)
print(f"delta_rule_plain and ours differ by {(memory[0, 0] - delta(keys, values)).abs().max():.1e}")

# %% [markdown] lang="en" part="exercises"
# ## Exercises
#
# `glassbox lesson open 12` writes a file with the graded ones.
#
# <!-- exercise 12.1 -->
#
# <!-- exercise 12.2 -->
#
# <!-- exercise 12.3 -->
#
# **12.4 A gate** Let $a_t$ be near 0 at a separator and 1 elsewhere. Show that nothing before a separator moves the output behind it, and that this is how packed documents are kept apart.

# %% [markdown] lang="zh" part="exercises"
# ## 练习
#
# `glassbox lesson open 12` 会生成一个文件，里面是可以自动评分的题目。
#
# <!-- exercise 12.1 -->
#
# <!-- exercise 12.2 -->
#
# <!-- exercise 12.3 -->
#
# **12.4 门控** 让 $a_t$ 在分隔符处接近 0，其余为 1。证明分隔符之前的内容不会改变之后的输出，打包的文档就是这样隔开的。

# %% [markdown] lang="en" part="pitfalls"
# ## What goes wrong in practice
#
# - **Products of decays divided by each other** overflow in float32 after a few hundred tokens; work with differences of logarithms.
# - **The state in bfloat16**: small writes into a large state vanish, and the loss on long texts stops falling.
# - **A state that runs over from one document to the next** in a packed row. The loss looks a little better than it is.
# - **Keys that are not normalised** under the delta rule: with length above $\sqrt 2$ the memory grows without bound.
# - **Padding on the left** changes the state; attention masks it, a recurrence has to skip it.
# - **Chunk size chosen once for all**: inside of a chunk the cost is quadratic, between chunks it is a state each.

# %% [markdown] lang="zh" part="pitfalls"
# ## 实践中的坑
#
# - **用衰减之积相除**，几百个词元后 float32 就会溢出；要用对数之差。
# - **状态用 bfloat16**：往大的状态里写小的量会消失，长文本上的损失不再下降。
# - **打包行里，状态从一篇文档流到下一篇**。损失会比真实的略好看。
# - **delta 规则下键没有归一化**：长度超过 $\sqrt 2$，记忆会无限增长。
# - **左侧填充**会改变状态；注意力可以屏蔽它，递推必须跳过它。
# - **块大小一成不变**：块内代价是平方的，块间每块要一个状态。

# %% [markdown] lang="en" part="reading"
# ## Further reading
#
# - Katharopoulos et al., *Transformers are RNNs*, [arXiv:2006.16236](https://arxiv.org/abs/2006.16236)
# - Dao and Gu, *Transformers are SSMs* (Mamba-2), [arXiv:2405.21060](https://arxiv.org/abs/2405.21060)
# - Yang et al., *Gated Delta Networks*, [arXiv:2412.06464](https://arxiv.org/abs/2412.06464)
# - Arora et al., *Zoology: Measuring and Improving Recall in Efficient Language Models*, [arXiv:2312.04927](https://arxiv.org/abs/2312.04927)

# %% [markdown] lang="zh" part="reading"
# ## 延伸阅读
#
# - Katharopoulos 等，*Transformers are RNNs*，[arXiv:2006.16236](https://arxiv.org/abs/2006.16236)
# - Dao、Gu，*Transformers are SSMs*（Mamba-2），[arXiv:2405.21060](https://arxiv.org/abs/2405.21060)
# - Yang 等，*Gated Delta Networks*，[arXiv:2412.06464](https://arxiv.org/abs/2412.06464)
# - Arora 等，*Zoology: Measuring and Improving Recall in Efficient Language Models*，[arXiv:2312.04927](https://arxiv.org/abs/2312.04927)
