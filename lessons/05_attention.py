# %% [markdown] lang="en"
# # 5. Attention

# %% [markdown] lang="zh"
# # 5. 注意力

# %% [markdown] lang="en" part="question"
# ## The question
#
# In "the cat that chased the dogs **was** tired", the verb must agree with *cat*, five words back. How can
# a layer fetch something from another position, when how far back it lies changes from sentence to sentence?

# %% [markdown] lang="zh" part="question"
# ## 问题
#
# “小明把书还给图书馆之后，**他**回家了”，要理解“他”，就得找到前面的“小明”，而两者的距离每句话都不一样。
# 一个层怎样才能从别的位置取来它需要的信息？

# %% [markdown] lang="en" part="idea"
# ## The idea
#
# Every position writes down three vectors: a **query** (what do I look for?), a **key** (what do I offer?) and a
# **value** (what do I give, if asked?). The dot product of a query and a key says how well they fit; a softmax
# turns a query's scores into weights that sum to 1; the output is the weighted mean of the values:
#
# $$\mathrm{attention}(Q, K, V) = \mathrm{softmax}\!\left(\frac{Q K^\top}{\sqrt{D}}\right) V$$
#
# ```
#   x0      x1      x2      x3         four positions
#   k0 v0   k1 v1   k2 v2   k3 v3      each offers a key and a value
#    |       |       |       |
#   q2.k0   q2.k1   q2.k2    -         position 2 asks: its query meets every key up to its own
#    |       |       |
#   0.1     0.7     0.2      0         softmax: weights that sum to 1
#    \_______|_______/
#   0.1 v0 + 0.7 v1 + 0.2 v2           what position 2 gets
# ```
#
# Why $\sqrt{D}$? If the entries of q and k are independent with variance 1, their dot product is a sum of D such
# products and has variance D. Divided by $\sqrt{D}$ it has variance 1, whatever D is, and the softmax neither
# saturates nor flattens as heads grow.

# %% [markdown] lang="zh" part="idea"
# ## 思路
#
# 每个位置给出三个向量：**查询**（query，我要找什么）、**键**（key，我能提供什么线索）、**值**（value，被找到时给出什么）。
# 查询与键的点积表示两者有多匹配；softmax 把一个查询的所有分数变成和为 1 的权重；输出就是各个值的加权平均：
#
# $$\mathrm{attention}(Q, K, V) = \mathrm{softmax}\!\left(\frac{Q K^\top}{\sqrt{D}}\right) V$$
#
# ```
#   x0      x1      x2      x3         四个位置
#   k0 v0   k1 v1   k2 v2   k3 v3      每个位置都有一个键和一个值
#    |       |       |       |
#   q2.k0   q2.k1   q2.k2    -         位置 2 的查询与它自己及之前的每个键做点积
#    |       |       |
#   0.1     0.7     0.2      0         softmax：权重之和为 1
#    \_______|_______/
#   0.1 v0 + 0.7 v1 + 0.2 v2           位置 2 得到的结果
# ```
#
# 为什么要除以 $\sqrt{D}$？若 q 和 k 的各分量相互独立、方差为 1，点积就是 D 个这样的乘积之和，方差是 D。
# 除以 $\sqrt{D}$ 之后，无论 D 多大方差都是 1，softmax 不会随着维度增大而饱和。

# %% [markdown] lang="en" part="code"
# ## One dot product, then all of them
#
# We write it with plain torch. First for a single query, with a loop that hides nothing.

# %% [markdown] lang="zh" part="code"
# ## 从一个点积到全部点积
#
# 只用 torch。先写单个查询的版本，用循环把每一步都摆出来。

# %%
import math
import os

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

torch.manual_seed(0)
TEST_SIZE = os.environ.get("GLASSBOX_LESSON_SIZE") == "test"


def attend_slowly(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One query (D) over S keys (S, D) and values (S, Dv)."""
    scores = [torch.dot(query, key).item() / math.sqrt(len(query)) for key in keys]
    exps = [math.exp(score - max(scores)) for score in scores]
    weights = [one / sum(exps) for one in exps]
    print(
        "weights:", " ".join(f"{weight:.3f}" for weight in weights), " sum:", round(sum(weights), 6)
    )
    return sum(weight * value for weight, value in zip(weights, values, strict=True))


query, keys, values = torch.randn(8), torch.randn(4, 8), torch.randn(4, 3)
print("output: ", attend_slowly(query, keys, values))


# %% [markdown] lang="en"
# All queries at once are one matrix product. A **causal** mask sets the scores of later keys to minus infinity,
# so that their weight is exactly zero: position i predicts the token at i + 1 and must not have read it.

# %% [markdown] lang="zh"
# 所有查询一起算，就是一次矩阵乘法。**因果掩码**把后面各键的分数设成负无穷，权重因此恰好为零：
# 位置 i 要预测第 i + 1 个词元，不能事先读到它。


# %%
def attention(q: Tensor, k: Tensor, v: Tensor, see: Tensor | None = None) -> Tensor:
    """q (..., T, D), k (..., S, D), v (..., S, Dv); see (T, S) is True where a query may look."""
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (..., T, S)
    if see is not None:
        scores = scores.masked_fill(~see, -math.inf)
    return scores.softmax(dim=-1) @ v  # (..., T, Dv)


print(
    "same as the loop:",
    torch.allclose(attention(query[None], keys, values)[0], attend_slowly(query, keys, values)),
)

T = 6
causal = torch.ones(T, T, dtype=torch.bool).tril()
q, k, v = torch.randn(3, T, 8)
before = attention(q, k, v, causal)
changed_k, changed_v = k.clone(), v.clone()
changed_k[4], changed_v[4] = torch.randn(2, 8)  # another token at position 4
moved = (attention(q, changed_k, changed_v, causal) - before).abs().amax(-1) > 0
print("positions whose output changes with token 4:", moved.nonzero().flatten().tolist())

# %% [markdown] lang="en"
# The last line is the test that every attention of this project passes: **change a token, and nothing earlier
# may change**. It finds a mask that is off by one, which the training loss does not: with such a mask the loss
# looks wonderful.
#
# ## Several heads
#
# One softmax gives one pattern. A sentence needs several at once (the verb's subject, the previous word, the
# matching bracket), so the D columns are cut into H **heads** of D / H columns, each with a softmax of its own.
# Watch the axes: (B, T, D) becomes (B, T, H, Dh), then (B, H, T, Dh).

# %% [markdown] lang="zh"
# 最后一行正是本项目里每一种注意力都要通过的测试：**改动一个词元，前面的输出都不许变**。
# 它能查出错开一位的掩码，而训练损失查不出来：掩码错了，损失反而漂亮得出奇。
#
# ## 多头
#
# 一次 softmax 只能给出一种关注模式，而一句话同时需要好几种（动词的主语、前一个词、配对的括号）。
# 于是把 D 列切成 H 个**头**，每个头 D / H 列，各做各的 softmax。
# 注意各个维度：(B, T, D) 先变成 (B, T, H, Dh)，再变成 (B, H, T, Dh)。


# %%
class Attention(nn.Module):
    """Causal self-attention with num_heads query heads and num_kv_heads key/value heads."""

    def __init__(self, size: int, num_heads: int, num_kv_heads: int, window: int | None = None):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = num_heads, num_kv_heads, size // num_heads
        self.window = window
        self.q = nn.Linear(size, num_heads * self.head_dim, bias=False)
        self.k = nn.Linear(size, num_kv_heads * self.head_dim, bias=False)
        self.v = nn.Linear(size, num_kv_heads * self.head_dim, bias=False)
        self.out = nn.Linear(size, size, bias=False)

    def see(self, length: int) -> Tensor:
        """(T, T), True where a query may look: at itself and before, within the window."""
        query, key = torch.arange(length)[:, None], torch.arange(length)
        seen = key <= query
        return seen if self.window is None else seen & (key > query - self.window)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        q = self.q(x).view(B, T, self.heads, self.head_dim).transpose(1, 2)  # (B, H, T, Dh)
        k = self.k(x).view(B, T, self.kv_heads, self.head_dim).transpose(1, 2)  # (B, K, T, Dh)
        v = self.v(x).view(B, T, self.kv_heads, self.head_dim).transpose(1, 2)
        shared = self.heads // self.kv_heads  # grouped: neighbouring heads share a key/value head
        k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
        mixed = attention(q, k, v, self.see(T))  # (B, H, T, Dh)
        return self.out(mixed.transpose(1, 2).reshape(B, T, D))


for name, layer in (
    ("8 heads", Attention(64, 8, 8)),
    ("8 heads, 2 for keys and values", Attention(64, 8, 2)),
    ("8 heads, 1 for keys and values", Attention(64, 8, 1)),
):
    cached = 2 * layer.kv_heads * layer.head_dim
    print(
        f"{name:32} weights {sum(p.numel() for p in layer.parameters()):6,}   cached numbers a token {cached:4}"
    )

# %% [markdown] lang="en"
# **Grouped queries** cost little quality and save much memory: generation keeps the keys and values of all
# earlier tokens (the KV cache), and with K instead of H heads it is H / K times smaller. A **sliding window**
# bounds it altogether: a layer looks back W positions, and L layers together reach back about L (W - 1).

# %% [markdown] lang="zh"
# **分组查询**对效果影响很小，却能省下大量内存：生成时要保存前面所有词元的键和值（KV 缓存），
# 键值头从 H 个减为 K 个，缓存就缩小到 K / H。**滑动窗口**则给缓存设了上限：
# 每层只回看 W 个位置，L 层叠起来能看到约 L (W - 1) 个位置之前。

# %%
for window in (None, 3):
    print("causal" if window is None else f"window of {window}")
    for row in Attention(8, 1, 1, window).see(6):
        print("   " + " ".join("#" if seen else "." for seen in row))

# %% [markdown] lang="en"
# ## A head learns where to look
#
# In the sequences below every token repeats the one three places back. A layer that looks there predicts
# everything from position 3 on. We train one head with learned positions, and draw its weights before and after.

# %% [markdown] lang="zh"
# ## 一个头学会往哪儿看
#
# 下面的序列里，每个词元都重复它前面第三个词元。能往那里看的层，从位置 3 起就能全部预测正确。
# 我们训练一个带可学习位置的头，画出训练前后的注意力权重。

# %%
VOCAB, LENGTH, SIZE, BACK = 16, 12, 32, 3
STEPS = 30 if TEST_SIZE else 150


class OneHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, SIZE), nn.Embedding(LENGTH, SIZE)
        self.mixer, self.head = Attention(SIZE, 1, 1), nn.Linear(SIZE, VOCAB)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.mixer(self.tokens(ids) + self.positions.weight))

    def weights(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions.weight
        return attention(
            self.mixer.q(x), self.mixer.k(x), torch.eye(LENGTH), self.mixer.see(LENGTH)
        )


def draw_batch(rows: int) -> tuple[Tensor, Tensor]:
    """Inputs (rows, LENGTH) and the tokens that follow them."""
    start = torch.randint(VOCAB, (rows, BACK))
    text = start.repeat(1, LENGTH // BACK + 1)
    return text[:, :LENGTH], text[:, 1 : LENGTH + 1]


model = OneHead()
sample = draw_batch(1)[0]
first = model.weights(sample)[0].detach()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
for step in range(1, STEPS + 1):
    inputs, targets = draw_batch(64)
    known = slice(BACK - 1, None)  # the first tokens are random: nothing predicts them
    loss = F.cross_entropy(model(inputs)[:, known].flatten(0, 1), targets[:, known].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % (STEPS // 3) == 0:
        print(f"step {step:4}: loss {loss.item():.3f} (guessing: {math.log(VOCAB):.3f})")
last = model.weights(sample)[0].detach()

# %% alt_en="Two heat maps of attention weights, 12 queries by 12 keys. Before training each row is spread over all earlier keys; after training almost all weight lies on one diagonal, two keys before the query." alt_zh="两幅注意力权重热力图，12 个查询乘 12 个键。训练前每行的权重分散在之前的所有键上；训练后几乎全部集中在一条对角线上，即查询之前第二个键。"
figure, axes = plt.subplots(1, 2, figsize=(7.5, 3.4), layout="constrained")
for axis, title, weights in zip(
    axes, ("before training", f"after {STEPS} steps"), (first, last), strict=True
):
    shown = axis.imshow(weights, vmin=0, vmax=1, cmap="viridis")
    axis.set(title=title, xlabel="key", ylabel="query")
figure.colorbar(shown, ax=axes, label="weight")
plt.show()

# %% [markdown] lang="en"
# The output at position i predicts token i + 1, which repeats token i - 2: the weights lie two places left of the
# diagonal, not three. Thinking about which position predicts which token is half of the work in this course.
#
# ## How we know that it is right
#
# torch has attention of its own. Ours must give the same numbers, and the same gradients.

# %% [markdown] lang="zh"
# 位置 i 的输出预测的是第 i + 1 个词元，而它重复的是第 i - 2 个：权重落在对角线左边第二格，不是第三格。
# 想清楚“哪个位置预测哪个词元”，这门课就学会了一半。
#
# ## 怎样确认写对了
#
# torch 自带注意力。我们的结果必须与它一致，梯度也要一致。

# %%
q, k, v = (torch.randn(2, 4, 10, 16, requires_grad=True) for _ in range(3))
see = torch.ones(10, 10, dtype=torch.bool).tril()
ours, theirs = attention(q, k, v, see), F.scaled_dot_product_attention(q, k, v, is_causal=True)
target = torch.randn_like(ours)
gradients = [torch.autograd.grad((one * target).sum(), (q, k, v)) for one in (ours, theirs)]
print(f"outputs differ by {(ours - theirs).abs().max():.1e}")
for name, one, other in zip("qkv", *gradients, strict=True):
    print(f"gradients of {name} differ by {(one - other).abs().max():.1e}")

# %% [markdown] lang="en" part="real"
# ## Now open the real one
#
# - [`attention_plain`](../src/glassbox/ops/attention.py) is the function above with window, ALiBi, soft cap and
#   sinks; it is the oracle of the fast ones.
# - [`dot_product_attention`](../src/glassbox/ops/attention.py) is what models call. It hands the work to torch's
#   fused kernel where that can do it.
# - [`block_attention`](../src/glassbox/ops/block_attention.py) works through the keys in blocks and keeps a running
#   maximum and sum, so that the (T, S) table of scores never exists; keys outside a window are skipped.
# - [`GroupedQueryAttention`](../src/glassbox/layers/attention.py) is the layer: projections, rotary positions, cache.

# %% [markdown] lang="zh" part="real"
# ## 打开真正的实现
#
# - [`attention_plain`](../src/glassbox/ops/attention.py) 就是上面的函数，再加上窗口、ALiBi、soft cap 和 sink；
#   它是各个快速版本的对照基准。
# - [`dot_product_attention`](../src/glassbox/ops/attention.py) 是模型实际调用的函数，条件允许时交给 torch 的融合内核。
# - [`block_attention`](../src/glassbox/ops/block_attention.py) 把键分块处理，只维护当前的最大值与和，
#   (T, S) 的分数表从不完整出现；窗口之外的键直接跳过。
# - [`GroupedQueryAttention`](../src/glassbox/layers/attention.py) 是完整的层：投影、旋转位置编码、缓存。

# %%
from glassbox.ops.attention import attention_plain

q, k, v = torch.randn(1, 8, 20, 16), torch.randn(1, 2, 20, 16), torch.randn(1, 2, 20, 16)
window = Attention(8, 1, 1, window=5).see(20)
mine = attention(q, k.repeat_interleave(4, 1), v.repeat_interleave(4, 1), window)
print(
    f"grouped heads with a window of 5: {(mine - attention_plain(q, k, v, window=5)).abs().max():.1e}"
)

# %% [markdown] lang="en" part="exercises"
# ## Exercises
#
# `glassbox lesson open 5` writes a file with the graded ones.
#
# <!-- exercise 5.1 -->
#
# <!-- exercise 5.2 -->
#
# <!-- exercise 5.3 -->
#
# <!-- exercise 5.4 -->
#
# <!-- exercise 5.5 -->
#
# **5.6 Without the root** Leave out the division by $\sqrt{D}$ and train `OneHead` with `SIZE` 32 and 512. Print the
# largest weight of each row before training. What does it say about the gradients of the other keys?

# %% [markdown] lang="zh" part="exercises"
# ## 练习
#
# `glassbox lesson open 5` 会生成一个文件，里面是可以自动评分的题目。
#
# <!-- exercise 5.1 -->
#
# <!-- exercise 5.2 -->
#
# <!-- exercise 5.3 -->
#
# <!-- exercise 5.4 -->
#
# <!-- exercise 5.5 -->
#
# **5.6 不除以根号** 去掉 $\sqrt{D}$ 那一步，分别用 `SIZE` 32 和 512 训练 `OneHead`，打印训练前每行的最大权重。
# 这对其余各键的梯度意味着什么？

# %% [markdown] lang="en" part="pitfalls"
# ## What goes wrong in practice
#
# - **A mask off by one.** The loss falls to nearly zero in minutes and the samples are noise. Test by changing a
#   future token, never by looking at the loss.
# - **A window cut from the end of the text.** "The last W keys" are right for the last query alone; early queries
#   then see the future.
# - **Rows that may look nowhere** (padding, an empty window) filled with -1e4 attend uniformly instead of to nothing.
# - **The mask's corner in generation.** With a cache there is one query and S keys; a triangle whose corner is at
#   the first key shows the query the first key alone.
# - **Heads repeated in the wrong order**: `repeat` instead of `repeat_interleave`. All shapes fit, and a loaded Llama
#   writes nonsense.
# - **A mask rebuilt by a Python loop in every forward pass** costs more than the attention.

# %% [markdown] lang="zh" part="pitfalls"
# ## 实践中的坑
#
# - **掩码错开一位。** 损失几分钟就降到接近零，生成的却是乱码。要靠改动未来词元来测试，不能只看损失。
# - **窗口从整段文本的末尾截取。**“最后 W 个键”只对最后一个查询成立，前面的查询会看到未来。
# - **什么都看不到的行**（填充、空窗口）若用 -1e4 填充，会变成平均关注所有键，而不是什么都不看。
# - **生成时掩码的对齐。** 有缓存时只有一个查询、S 个键；三角形若从第一个键开始对齐，查询就只看得到第一个键。
# - **键值头重复的顺序错了**：用了 `repeat` 而不是 `repeat_interleave`。形状全都对得上，加载的 Llama 却输出乱码。
# - **每次前向都用 Python 循环重建掩码**，开销比注意力本身还大。

# %% [markdown] lang="en" part="reading"
# ## Further reading
#
# - Vaswani et al., *Attention Is All You Need*, [arXiv:1706.03762](https://arxiv.org/abs/1706.03762), section 3.2
# - Ainslie et al., *GQA*, [arXiv:2305.13245](https://arxiv.org/abs/2305.13245)
# - Beltagy et al., *Longformer*, [arXiv:2004.05150](https://arxiv.org/abs/2004.05150): windows
# - [sliding_window_attention.py](models/sliding_window_attention.py): four ways to compute a window, and what they cost
# - [The glossary](../docs/design/glossary.md)

# %% [markdown] lang="zh" part="reading"
# ## 延伸阅读
#
# - Vaswani 等，*Attention Is All You Need*，[arXiv:1706.03762](https://arxiv.org/abs/1706.03762)，3.2 节
# - Ainslie 等，*GQA*，[arXiv:2305.13245](https://arxiv.org/abs/2305.13245)
# - Beltagy 等，*Longformer*，[arXiv:2004.05150](https://arxiv.org/abs/2004.05150)：窗口注意力
# - [sliding_window_attention.py](models/sliding_window_attention.py)：滑动窗口的四种算法及各自的开销
# - [术语表](../docs/design/glossary.md)
