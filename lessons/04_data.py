# %% [markdown] lang="en"
# # 4. Data

# %% [markdown] lang="zh"
# # 4. 数据

# %% [markdown] lang="en" part="question"
# ## The question
#
# A text is one long list of tokens; a training step wants a rectangle of them. How do we cut it so that every token is learned
# from once, no row mixes what does not belong together, and a corpus larger than memory is no problem?

# %% [markdown] lang="zh" part="question"
# ## 问题
#
# 文本是一长串词元，训练步要的却是一个矩形。怎样切分，才能让每个词元恰好学一遍、互不相干的内容不会混进同一行，
# 并且语料比内存大也没有关系？

# %% [markdown] lang="en" part="idea"
# ## The idea
#
# A row of T inputs has T targets, the same tokens one place later: **every position is an example**. A window of T + 1
# tokens holds both. Its start moves by a stride S:
#
# $$x^{(i)} = (w_{iS}, \dots, w_{iS+T-1}), \qquad y^{(i)} = (w_{iS+1}, \dots, w_{iS+T})$$
#
# ```
#   tokens    the  old  clock  had  one  owner  left        T = 3, S = 3
#   inputs   [the  old  clock]
#   targets       [old  clock  had]
#   inputs                     [had  one  owner]
#   targets                         [one  owner  left]      S = T: every token is a target once
# ```
#
# Documents are shorter or longer than rows. **Packing** lays them end to end, each followed by an end token, and a mask keeps
# attention inside a document. A loss mask says which targets count:
#
# $$L = \frac{\sum_{b,t} m_{bt}\, \ell_{bt}}{\sum_{b,t} m_{bt}}$$

# %% [markdown] lang="zh" part="idea"
# ## 思路
#
# 一行 T 个输入有 T 个目标，就是同一串词元后移一位：**每个位置都是一个样本**。T + 1 个词元的窗口正好装下两者，
# 窗口的起点每次移动步长 S：
#
# $$x^{(i)} = (w_{iS}, \dots, w_{iS+T-1}), \qquad y^{(i)} = (w_{iS+1}, \dots, w_{iS+T})$$
#
# ```
#   词元      the  old  clock  had  one  owner  left        T = 3, S = 3
#   输入     [the  old  clock]
#   目标          [old  clock  had]
#   输入                       [had  one  owner]
#   目标                            [one  owner  left]      S = T：每个词元恰好当一次目标
# ```
#
# 文档有长有短，和行长对不上。**打包**把文档首尾相接，每篇后面跟一个结束词元，再用掩码把注意力限制在文档之内。
# 损失掩码标明哪些目标计入损失：
#
# $$L = \frac{\sum_{b,t} m_{bt}\, \ell_{bt}}{\sum_{b,t} m_{bt}}$$

# %% [markdown] lang="en" part="code"
# ## Windows
#
# If a file `the-verdict.txt` (Edith Wharton's story, in the public domain) lies in the working folder, it is read; otherwise a
# short text of our own. Tokens are words and signs, so that we can read the rows.

# %% [markdown] lang="zh" part="code"
# ## 滑动窗口
#
# 当前目录里若有 `the-verdict.txt`（伊迪丝·华顿的短篇小说，已进入公有领域）就读它，否则用我们自己的一段短文。
# 词元取单词和标点，这样每一行都读得懂。

# %%
import os
import re
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

TEST_SIZE = os.environ.get("GLASSBOX_LESSON_SIZE") == "test"
STORY = """The old clockmaker had one customer left. Every spring the customer brought the same clock, and
every spring the clockmaker found nothing wrong with it. "It is slow," said the customer. "It is exact," said
the clockmaker. "It is we who hurry." In the tenth spring the customer came without the clock. "Is it broken at
last?" asked the clockmaker. "No," said the customer, and sat down. "I have stopped hurrying." So they drank
tea, and nobody in the shop looked at the time."""

file = Path("the-verdict.txt")
text = file.read_text(encoding="utf-8") if file.exists() else STORY
words = re.findall(r"\w+|[^\w\s]", text)
vocab = ["<end>", *sorted({*words, *re.findall(r"\w+|[^\w\s]", STORY)})]
number = {word: place for place, word in enumerate(vocab)}
tokens = torch.tensor([number[word] for word in words])
print(f"{len(tokens)} tokens, {len(vocab)} different")


def windows(tokens: Tensor, length: int, stride: int) -> tuple[Tensor, Tensor]:
    rows = tokens.unfold(0, length + 1, stride)  # views: no token is copied
    return rows[:, :-1], rows[:, 1:]


inputs, targets = windows(tokens, length=6, stride=6)
for x, y in zip(inputs[:2], targets[:2], strict=True):
    print("inputs ", " ".join(vocab[i] for i in x))
    print("targets", " ".join(vocab[i] for i in y))
for place in range(6):
    print(f"{' '.join(vocab[i] for i in inputs[0, : place + 1]):>40} -> {vocab[targets[0, place]]}")

# %% [markdown] lang="en"
# What the stride does: with S < T tokens are targets several times (more rows from little text, but the same tokens again);
# with S > T some never are.

# %% [markdown] lang="zh"
# 步长的作用：S < T 时一个词元会多次当目标（文本少时行数更多，但反复用的是同样的词元）；S > T 时有些词元永远轮不到。

# %% alt_en="Three bar charts of how often each token is a target, for strides 3, 6 and 9 with windows of 6: twice, once, and with gaps of three tokens that are never one." alt_zh="三幅条形图，窗口为 6，步长分别为 3、6、9 时每个词元当目标的次数：两次、一次，以及每隔一段有三个词元从未当过目标。"
figure, axes = plt.subplots(3, 1, figsize=(8, 3.6), sharex=True, layout="constrained")
for axis, stride in zip(axes, (3, 6, 9), strict=True):
    times = np.zeros(60, dtype=int)
    for start in range(0, 60 - 6, stride):
        times[start + 1 : start + 7] += 1
    axis.bar(range(60), times)
    axis.set(ylabel=f"S = {stride}", yticks=(0, 1, 2))
axes[-1].set_xlabel("token of the text")
figure.suptitle("how often a token is a target (T = 6)")
plt.show()

# %% [markdown] lang="en"
# ## A corpus larger than memory
#
# Ids below 65,536 fit in two bytes. Written to a file as they are and **memory-mapped**, they are read by the operating system page
# by page when a row touches them: opening a terabyte takes as long as opening a kilobyte. Row number and order of rows then
# are all that a resumed run has to remember.

# %% [markdown] lang="zh"
# ## 语料比内存大
#
# 小于 65,536 的编号用两个字节就能存下。原样写进文件再做**内存映射**，操作系统会在用到某一行时才逐页读入：
# 打开 1 TB 和打开 1 KB 一样快。续训时只需记住行号和行的顺序。

# %%
folder = Path(tempfile.mkdtemp())
many = np.tile(tokens.numpy().astype(np.uint16), 200 if TEST_SIZE else 20_000)
many.tofile(folder / "tokens.bin")
del many
mapped = np.memmap(folder / "tokens.bin", dtype=np.uint16, mode="r")
print(f"{len(mapped):,} tokens in a file of {(folder / 'tokens.bin').stat().st_size:,} bytes")


def row(index: int, length: int = 6) -> tuple[Tensor, Tensor]:
    start = index * length
    window = torch.from_numpy(mapped[start : start + length + 1].astype(np.int64))
    return window[:-1], window[1:]


num_rows = (len(mapped) - 1) // 6
order = np.random.default_rng(0).permutation(num_rows)  # an epoch: every row once
print(
    f"{num_rows:,} rows; the first of the epoch is row {order[0]}:",
    " ".join(vocab[i] for i in row(order[0])[0]),
)

# %% [markdown] lang="en"
# ## Packing, and masks that keep documents apart
#
# Padding every document to the longest wastes most of a batch. Packed, no place is wasted; but a position must not look into the
# document before it, and each document counts its positions from 0.

# %% [markdown] lang="zh"
# ## 打包，以及把文档隔开的掩码
#
# 把每篇文档都填充到最长，一个批次大半是浪费。打包则不浪费一个位置；但每个位置不能看到前一篇文档，
# 而且每篇文档的位置都从 0 数起。


# %%
def pack(documents: list[list[int]], length: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of tokens, of document numbers and of positions, each (N, length)."""
    stream, owner, place = [], [], []
    for index, document in enumerate(documents):
        stream += [*document, end]
        owner += [index] * (len(document) + 1)
        place += range(len(document) + 1)
    full = len(stream) // length * length
    return tuple(torch.tensor(part[:full]).view(-1, length) for part in (stream, owner, place))


documents = [
    [number[w] for w in re.findall(r"\w+|[^\w\s]", s)] for s in re.split(r"(?<=[.!?])\s", STORY)
]
packed, owner, place = pack(documents, 24, end=0)
padded = max(len(one) + 1 for one in documents) * len(documents)
print(
    f"{sum(len(one) + 1 for one in documents)} tokens: padded {padded} places, packed {packed.numel()}"
)
print(" ".join(vocab[i] for i in packed[0]))
print("documents", owner[0].tolist())
print("positions", place[0].tolist())

see = torch.ones(24, 24, dtype=torch.bool).tril() & (owner[0][:, None] == owner[0][None, :])

# %% alt_en="The 24 by 24 mask of a packed row: two triangles along the diagonal, one for each document, and nothing between them." alt_zh="一行打包数据的 24 乘 24 掩码：沿对角线有两个三角形，每篇文档一个，三角形之外全为空。"
figure, axis = plt.subplots(figsize=(3.6, 3.6), layout="constrained")
axis.imshow(see, cmap="Blues")
axis.set(xlabel="key", ylabel="query", title="what a packed row may see")
plt.show()

# %% [markdown] lang="en"
# The test of the mask: what a packed row computes for a document is what the document alone gives, to the last bit or nearly.

# %% [markdown] lang="zh"
# 检验掩码的办法：打包的一行里某篇文档的计算结果，应当与这篇文档单独计算的一致（至多差在舍入误差）。

# %%
torch.manual_seed(0)
vectors = torch.randn(len(vocab), 16)


def attend(ids: Tensor, see: Tensor) -> Tensor:
    x = vectors[ids]
    return (x @ x.T / 4).masked_fill(~see, -torch.inf).softmax(-1) @ x


second = owner[0] == 1
alone = packed[0][second]
causal = torch.ones(len(alone), len(alone), dtype=torch.bool).tril()
difference = (attend(packed[0], see)[second] - attend(alone, causal)).abs().max()
leaky = (
    (attend(packed[0], torch.ones(24, 24, dtype=torch.bool).tril())[second] - attend(alone, causal))
    .abs()
    .max()
)
print(f"packed against alone: {difference:.1e}; without the document mask: {leaky:.2f}")

# %% [markdown] lang="en" part="real"
# ## Now open the real one
#
# - [`write_shard`](../src/glassbox/data/shards.py) and [`read_shard`](../src/glassbox/data/shards.py): the memory-mapped file with checksums,
#   document offsets, and a marker that is written last, so that a killed run leaves no half file behind.
# - [`pack_best_fit`](../src/glassbox/data/packing.py) packs whole documents into rows without cutting most of them;
#   [`pack_greedy`](../src/glassbox/data/packing.py) is the plain way.
# - [`PackedRows`](../src/glassbox/data/loader.py) makes batches with documents, positions and targets.
# - [`document_mask`](../src/glassbox/ops/attention.py) is the mask above, [`masked_mean`](../src/glassbox/ops/masked.py) the mean that counts
#   no padding.

# %% [markdown] lang="zh" part="real"
# ## 打开真正的实现
#
# - [`write_shard`](../src/glassbox/data/shards.py) 与 [`read_shard`](../src/glassbox/data/shards.py)：内存映射文件，带校验和与文档偏移；
#   完成标记最后写入，中途被杀也不会留下半个文件。
# - [`pack_best_fit`](../src/glassbox/data/packing.py) 尽量整篇装入各行，大多数文档不会被切断；
#   [`pack_greedy`](../src/glassbox/data/packing.py) 是最直接的做法。
# - [`PackedRows`](../src/glassbox/data/loader.py) 生成批次，带文档编号、位置和目标。
# - [`document_mask`](../src/glassbox/ops/attention.py) 就是上面的掩码，[`masked_mean`](../src/glassbox/ops/masked.py) 是不算填充的平均。

# %%
from glassbox.data.packing import pack_best_fit
from glassbox.ops.attention import document_mask

lengths = [min(len(one) + 1, 24) for one in documents]
rows = pack_best_fit(lengths, 24)
print("best fit:", [[lengths[i] for i in row] for row in rows])
print("the same mask:", torch.equal(document_mask(owner[:1], owner[:1])[0].tril(), see))

# %% [markdown] lang="en" part="exercises"
# ## Exercises
#
# `glassbox lesson open 4` writes a file with the graded ones.
#
# <!-- exercise 4.1 -->
#
# <!-- exercise 4.2 -->
#
# <!-- exercise 4.3 -->
#
# **4.4 Validation that is training** Cut windows with stride 1, shuffle them and keep a tenth for validation. How many of its
# tokens also stand in training rows? Do it right, and say what the right order of cutting and shuffling is.

# %% [markdown] lang="zh" part="exercises"
# ## 练习
#
# `glassbox lesson open 4` 会生成一个文件，里面是可以自动评分的题目。
#
# <!-- exercise 4.1 -->
#
# <!-- exercise 4.2 -->
#
# <!-- exercise 4.3 -->
#
# **4.4 验证集就是训练集** 用步长 1 切窗口，打乱后留十分之一做验证。验证行里有多少词元也出现在训练行中？
# 改成正确的做法，并说明切分和打乱应当谁先谁后。

# %% [markdown] lang="en" part="pitfalls"
# ## What goes wrong in practice
#
# - **The end of a document is never a target**, because documents are cut before the end token is added: the model never stops.
# - **Targets shifted twice**, once in the data and once in the loss.
# - **The mean of micro-batches' means** where they have unequal numbers of tokens that count.
# - **Packing that starts later documents once for every row**, so that they are seen many times.
# - **Best-fit cropping** that throws a third of the tokens away. Count what goes in and what comes out.
# - **A resumed run that begins the epoch anew**, or skips the rest of it: the order and the row belong in the checkpoint.
# - **Positions that run on** through a packed row while generation starts at 0.

# %% [markdown] lang="zh" part="pitfalls"
# ## 实践中的坑
#
# - **文档的结尾从没当过目标**：先切分、后加结束词元，模型就永远停不下来。
# - **目标错开了两次**：数据里一次，损失里又一次。
# - **对微批次的平均值再平均**，而各微批次计入损失的词元数并不相等。
# - **打包时后面的文档在每一行都重新开头**，同样的内容看了很多遍。
# - **best-fit 裁剪**扔掉了三分之一的词元。要数一数进去多少、出来多少。
# - **续训时从头开始这一轮**，或者跳过剩下的部分：行的顺序和位置都要存进检查点。
# - **位置编号在打包的行里一直往后数**，而生成时是从 0 开始的。

# %% [markdown] lang="en" part="reading"
# ## Further reading
#
# - Raschka, *Build a Large Language Model (From Scratch)*, chapter 2: sliding windows over *The Verdict*
# - Ding et al., *Fewer Truncations Improve Language Modeling*, [arXiv:2404.10830](https://arxiv.org/abs/2404.10830): best-fit packing
# - [sliding_window_data.py](models/sliding_window_data.py): the same as a script with options
# - [The guide to data](../docs/guides/data.md)

# %% [markdown] lang="zh" part="reading"
# ## 延伸阅读
#
# - Raschka，*Build a Large Language Model (From Scratch)*，第 2 章：在 *The Verdict* 上滑动窗口
# - Ding 等，*Fewer Truncations Improve Language Modeling*，[arXiv:2404.10830](https://arxiv.org/abs/2404.10830)：best-fit 打包
# - [sliding_window_data.py](models/sliding_window_data.py)：同样的内容，带选项的脚本
# - [数据指南](../docs/guides/data.md)
