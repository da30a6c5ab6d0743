# %% [markdown] lang="en"
# # 3. Embeddings and positions

# %% [markdown] lang="zh"
# # 3. 嵌入与位置

# %% [markdown] lang="en" part="question"
# ## The question
#
# Attention is a weighted mean, and a mean does not know the order of its terms: "dog bites man" and "man bites dog" give
# it the same set. How does a model learn where a token stands, and why do models fail on texts longer than those of their training?

# %% [markdown] lang="zh" part="question"
# ## 问题
#
# 注意力是加权平均，而平均不管各项的顺序：对它来说，“狗咬人”和“人咬狗”是同一堆词。
# 模型怎样知道一个词元站在哪里？又为什么文本一旦长过训练时的长度，模型就会出错？

# %% [markdown] lang="en" part="idea"
# ## The idea
#
# A token's id picks a row of a table, its **embedding**. Its place comes in by one of four ways:
#
# ```
#   learned      x = E[id] + P[t]                a second table, with a row for each position
#   sinusoidal   x = E[id] + sin, cos of t       a fixed table: waves of many lengths
#   rotary       q, k turned by the angle t w    positions enter the product of query and key
#   ALiBi        score - slope (t - s)           the distance itself lowers the score
# ```
#
# **Rotary** positions are those of nearly all models today. Two channels of a query are a point in a plane; it is turned by its
# position times a frequency. The product of two turned vectors then depends on the difference of their positions alone:
#
# $$\langle R_{t}\, q,\; R_{s}\, k \rangle = \langle R_{t-s}\, q,\; k \rangle, \qquad
# R_t = \begin{pmatrix} \cos t\omega & -\sin t\omega \\ \sin t\omega & \cos t\omega \end{pmatrix}$$
#
# Each pair of channels has a frequency of its own, $\omega_i = b^{-2i/D}$ with base $b = 10000$: fast pairs tell neighbours apart,
# slow ones far places.

# %% [markdown] lang="zh" part="idea"
# ## 思路
#
# 词元的编号从表中取出一行，这就是它的**嵌入**。位置信息有四种加入方式：
#
# ```
#   可学习       x = E[id] + P[t]                再加一张表，每个位置一行
#   正弦         x = E[id] + sin, cos of t       一张固定的表：各种波长的正弦波
#   旋转         q, k turned by the angle t w    位置进入查询与键的点积
#   ALiBi        score - slope (t - s)           距离本身直接降低分数
# ```
#
# 如今几乎所有模型都用**旋转**位置编码（RoPE）。查询的两个通道看作平面上的一个点，按“位置乘以频率”的角度旋转。
# 旋转之后，两个向量的点积只取决于位置之差：
#
# $$\langle R_{t}\, q,\; R_{s}\, k \rangle = \langle R_{t-s}\, q,\; k \rangle, \qquad
# R_t = \begin{pmatrix} \cos t\omega & -\sin t\omega \\ \sin t\omega & \cos t\omega \end{pmatrix}$$
#
# 每对通道有自己的频率，$\omega_i = b^{-2i/D}$，底数 $b = 10000$：转得快的对分辨近邻，转得慢的对分辨远处。

# %% [markdown] lang="en" part="code"
# ## A row of a table
#
# Looking up is a product with a one-hot vector that nobody computes. Its gradient reaches only the rows that were looked up.

# %% [markdown] lang="zh" part="code"
# ## 查表
#
# 查表等价于乘以 one-hot 向量，只是没人真的去乘。梯度也只传到被查到的那些行。

# %%
import math
import os

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.nn import functional as F

torch.manual_seed(0)
TEST_SIZE = os.environ.get("GLASSBOX_LESSON_SIZE") == "test"
words = ["the", "dog", "bites", "the", "man"]
vocab = sorted(set(words))
ids = torch.tensor([vocab.index(word) for word in words])
table = torch.randn(len(vocab), 8, requires_grad=True)
print("same as one-hot:", torch.equal(table[ids], F.one_hot(ids, len(vocab)).float() @ table))
table[ids].sum().backward()
print(
    "gradient of each row:",
    {word: row[0].item() for word, row in zip(vocab, table.grad, strict=True)},
)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.T / math.sqrt(q.shape[-1])).softmax(-1) @ v


x = table.detach()[ids]
order = torch.tensor([0, 4, 2, 3, 1])  # dog and man change places
moved = (attention(x, x, x)[order] - attention(x[order], x[order], x[order])).abs().max()
print(f"without positions, swapping dog and man changes a word's output by {moved:.1e}")

# %% [markdown] lang="en"
# ## Waves
#
# Sinusoidal positions are a clock with many hands. The hand of pair i turns once in $2\pi \cdot 10000^{2i/D}$ positions.

# %% [markdown] lang="zh"
# ## 正弦波
#
# 正弦位置编码像一只有许多指针的钟：第 i 对的指针每 $2\pi \cdot 10000^{2i/D}$ 个位置转一圈。


# %%
def sinusoidal(positions: Tensor, size: int) -> Tensor:
    angles = positions.float()[:, None] / 10000 ** (torch.arange(0, size, 2) / size)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


waves = sinusoidal(torch.arange(64), 32)
alike = F.cosine_similarity(waves[:1], waves)
print(
    "similarity to position 0:", " ".join(f"{d}: {alike[d]:.2f}" for d in (0, 1, 2, 4, 8, 16, 32))
)

# %% [markdown] lang="en"
# ## Turning queries and keys
#
# Two layouts are in use: Llama pairs channel i with channel i + D / 2, GPT-J neighbours. Weights of one do not work with the code of
# the other. We check the one property that matters: equal distances give equal products.

# %% [markdown] lang="zh"
# ## 旋转查询和键
#
# 通道配对有两种布局：Llama 把通道 i 与 i + D / 2 配对，GPT-J 把相邻通道配对。一种布局的权重不能用另一种的代码来跑。
# 下面检验最关键的性质：距离相等，点积就相等。


# %%
def rotary(x: Tensor, positions: Tensor, frequencies: Tensor) -> Tensor:
    """x (T, D) turned by positions (T); channels i and i + D / 2 are a pair with frequencies (D / 2)."""
    angles = positions.float()[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


D, BASE = 64, 10000.0
frequencies = BASE ** (-torch.arange(0, D, 2) / D)
q, k = torch.randn(2, 1, D)
for t, s in ((7, 2), (107, 102), (9007, 9002)):
    product = (
        rotary(q, torch.tensor([t]), frequencies) * rotary(k, torch.tensor([s]), frequencies)
    ).sum()
    print(f"query at {t:5}, key at {s:5}: {product:.4f}")

# %% [markdown] lang="en"
# ## Beyond the length of training
#
# A model that was trained on 128 positions has never seen the angles of position 200: slow pairs have not yet been round once.
# **Linear** scaling squeezes all positions (and blurs neighbours). **YaRN** leaves fast pairs as they are, squeezes slow ones, and
# goes gradually from one to the other; it also sharpens the softmax a little. **ALiBi** has no angle at all, only a distance.

# %% [markdown] lang="zh"
# ## 超出训练长度
#
# 在 128 个位置上训练的模型从没见过位置 200 的角度：慢的那些对连一圈都还没转完。
# **线性缩放**把所有位置都压缩（近邻因此变得模糊）。**YaRN** 让快的对保持不变，只压缩慢的对，中间平滑过渡，
# 还让 softmax 略微变尖锐。**ALiBi** 根本没有角度，只看距离。


# %%
def yarn(
    frequencies: Tensor, factor: float, trained: int, fast: float = 32, slow: float = 1
) -> Tensor:
    """Pairs that turn over `fast` times within the trained length stay; those below `slow` times are divided by factor."""
    pair = torch.arange(len(frequencies)).float()

    def pair_that_turns(times: float) -> float:
        return D * math.log(trained / (times * 2 * math.pi)) / (2 * math.log(BASE))

    first, last = math.floor(pair_that_turns(fast)), math.ceil(pair_that_turns(slow))
    squeezed = ((pair - first) / (last - first)).clamp(0, 1)
    return frequencies * (1 - squeezed) + frequencies / factor * squeezed


trained, factor = 2048, 4.0
stretched = yarn(frequencies, factor, trained)
for name, i in (("fastest", 0), ("middle", D // 4), ("slowest", D // 2 - 1)):
    print(
        f"{name:8} pair: {frequencies[i] / stretched[i]:.2f} times slower with YaRN, {factor} with linear scaling"
    )

slopes = 2.0 ** (-8 * torch.arange(1, 9) / 8)
print("ALiBi's slopes for 8 heads:", slopes.tolist())

# %% alt_en="Three panels. Left: heat map of sinusoidal positions, 64 positions by 32 channels, waves that get longer to the right. Middle: product of two equal rotary vectors against their distance, highest at 0 and falling in waves. Right: how many times slower each rotary pair turns, linear scaling constant at 4, YaRN rising from 1 to 4." alt_zh="三幅图。左：正弦位置编码的热力图，64 个位置乘 32 个通道，越往右波长越长。中：两个相同向量旋转后的点积随距离变化，在 0 处最大，波动下降。右：各旋转通道对变慢的倍数，线性缩放恒为 4，YaRN 从 1 升到 4。"
figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
axes[0].imshow(waves, aspect="auto", cmap="RdBu")
axes[0].set(xlabel="channel", ylabel="position", title="sinusoidal")
ones = torch.ones(1, D) / math.sqrt(D)
distances = torch.arange(0, 128)
products = rotary(ones.expand(128, D), distances, frequencies) @ ones[0]
axes[1].plot(distances, products)
axes[1].set(xlabel="distance", ylabel="product", title="rotary: equal vectors")
axes[2].plot(torch.full((D // 2,), factor), label="linear")
axes[2].plot(frequencies / stretched, label="YaRN")
axes[2].set(xlabel="pair", ylabel="times slower", title="four times the length")
axes[2].legend()
plt.show()

# %% [markdown] lang="en" part="real"
# ## Now open the real one
#
# - [`apply_rotary_plain`](../src/glassbox/ops/rotary.py) is the rotation above for both layouts; [`apply_rotary`](../src/glassbox/ops/rotary.py) does it
#   without extra copies and turns gradients back by the same angles.
# - [`yarn_frequencies`](../src/glassbox/ops/rotary_scaling.py) and its neighbours: linear, NTK, dynamic NTK, Llama 3.
# - [`alibi_slopes`](../src/glassbox/ops/attention.py), for numbers of heads that are no power of two, too.
# - [`sinusoidal`](../src/glassbox/ops/sinusoidal.py), held to the formula as a loop.
# - [`CausalLM.embed`](../src/glassbox/models/causal_lm.py): tokens plus, where the model has them, learned positions.

# %% [markdown] lang="zh" part="real"
# ## 打开真正的实现
#
# - [`apply_rotary_plain`](../src/glassbox/ops/rotary.py) 就是上面的旋转，两种布局都支持；[`apply_rotary`](../src/glassbox/ops/rotary.py)
#   不做多余的拷贝，反向时用同样的角度转回来。
# - [`yarn_frequencies`](../src/glassbox/ops/rotary_scaling.py) 以及线性、NTK、动态 NTK、Llama 3 等缩放方法。
# - [`alibi_slopes`](../src/glassbox/ops/attention.py) 也支持头数不是 2 的幂的情形。
# - [`sinusoidal`](../src/glassbox/ops/sinusoidal.py) 与公式的循环写法对照过。
# - [`CausalLM.embed`](../src/glassbox/models/causal_lm.py)：词元嵌入，若模型有可学习的位置则再加上。

# %%
from glassbox.ops.rotary import apply_rotary, rotary_frequencies, rotary_tables
from glassbox.ops.rotary_scaling import yarn_frequencies

x, positions = torch.randn(5, D), torch.tensor([0, 1, 2, 57, 9000])
cos, sin = rotary_tables(positions, rotary_frequencies(D, BASE))
print(f"rotary: {(rotary(x, positions, frequencies) - apply_rotary(x, cos, sin)).abs().max():.1e}")
theirs = yarn_frequencies(rotary_frequencies(D, BASE), BASE, factor, trained)
print(f"YaRN: {(theirs - stretched).abs().max():.1e}")

# %% [markdown] lang="en" part="exercises"
# ## Exercises
#
# `glassbox lesson open 3` writes a file with the graded ones.
#
# <!-- exercise 3.1 -->
#
# <!-- exercise 3.2 -->
#
# <!-- exercise 3.3 -->
#
# **3.4 Two layouts** Write the permutation of channels that turns weights for neighbouring pairs into weights for halves. Check that
# the products of all queries and keys stay the same.
#
# **3.5 Half precision** Compute the angles of positions 8190 to 8192 in bfloat16. How many different angles are there?

# %% [markdown] lang="zh" part="exercises"
# ## 练习
#
# `glassbox lesson open 3` 会生成一个文件，里面是可以自动评分的题目。
#
# <!-- exercise 3.1 -->
#
# <!-- exercise 3.2 -->
#
# <!-- exercise 3.3 -->
#
# **3.4 两种布局** 写出一个通道置换，把相邻配对的权重变成前后两半配对的权重，并检验所有查询与键的点积不变。
#
# **3.5 半精度** 用 bfloat16 计算位置 8190 到 8192 的角度。有几个不同的角度？

# %% [markdown] lang="en" part="pitfalls"
# ## What goes wrong in practice
#
# - **Decoding without the position**: each new token is turned as position 0. The first token is right, the rest slowly turns to noise.
# - **Layouts mixed up** at import or export: Llama's halves and GPT-NeoX's or GPT-J's pairs. All shapes fit.
# - **The wrong base on export** (10,000 where the model has 500,000): short texts look fine.
# - **A cache that holds unrotated keys** in prefill and rotated ones in decoding.
# - **YaRN without its temperature**, or with the factor of another length.
# - **Angles in bfloat16**: beyond position 256 neighbouring positions become equal.
# - **ALiBi slopes from a wrong exponent**: for 8 heads they are 1/2 to 1/256.

# %% [markdown] lang="zh" part="pitfalls"
# ## 实践中的坑
#
# - **解码时没有传位置**：每个新词元都按位置 0 旋转。第一个词元是对的，之后慢慢变成乱码。
# - **布局混淆**：导入导出时把 Llama 的前后两半与 GPT-NeoX、GPT-J 的配对搞混。形状全都对得上。
# - **导出时底数写错**（模型是 500,000，写成 10,000）：短文本看不出问题。
# - **缓存里混着两种键**：预填充存的是未旋转的，解码存的是旋转过的。
# - **YaRN 漏了温度**，或者用了别的长度的系数。
# - **用 bfloat16 算角度**：超过位置 256，相邻位置就分不开了。
# - **ALiBi 斜率的指数写错**：8 个头时应是 1/2 到 1/256。

# %% [markdown] lang="en" part="reading"
# ## Further reading
#
# - Su et al., *RoFormer*, [arXiv:2104.09864](https://arxiv.org/abs/2104.09864): rotary positions
# - Peng et al., *YaRN*, [arXiv:2309.00071](https://arxiv.org/abs/2309.00071)
# - Press et al., *Train Short, Test Long*, [arXiv:2108.12409](https://arxiv.org/abs/2108.12409): ALiBi
# - [embeddings.py](models/embeddings.py) and [hand_written_parts.py](models/hand_written_parts.py)
# - [The guide to models](../docs/guides/models.md)

# %% [markdown] lang="zh" part="reading"
# ## 延伸阅读
#
# - Su 等，*RoFormer*，[arXiv:2104.09864](https://arxiv.org/abs/2104.09864)：旋转位置编码
# - Peng 等，*YaRN*，[arXiv:2309.00071](https://arxiv.org/abs/2309.00071)
# - Press 等，*Train Short, Test Long*，[arXiv:2108.12409](https://arxiv.org/abs/2108.12409)：ALiBi
# - [embeddings.py](models/embeddings.py) 与 [hand_written_parts.py](models/hand_written_parts.py)
# - [模型指南](../docs/guides/models.md)
