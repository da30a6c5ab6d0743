# %% [markdown] lang="en"
# # 1. Characters to ids, and a bigram model

# %% [markdown] lang="zh"
# # 1. 从字符到编号，再到二元模型

# %% [markdown] lang="en" part="question"
# ## The question
#
# A language model computes with numbers and says which piece of text comes next. What is the least that does both:
# turns text into numbers and back, gives every next character a probability, and can be told how good it is?

# %% [markdown] lang="zh" part="question"
# ## 问题
#
# 语言模型用数字计算，预测接下来是哪一段文本。要做到这些，最少需要什么？把文本变成数字再变回来，
# 给每个可能的下一个字符一个概率，还要能衡量它预测得好不好。

# %% [markdown] lang="en" part="idea"
# ## The idea
#
# Number the different characters. Then count, for every character a, which b comes right after it: a **bigram** model.
# A row of the table, divided by its sum, is a distribution of the next character:
#
# $$p(b \mid a) = \frac{n_{ab} + \alpha}{\sum_{c} (n_{ac} + \alpha)}$$
#
# ```
#   text      t   h   e   _   c   a   t
#   ids       7   4   3   0   2   1   7
#             |___|   |   |   |   |   |
#             (7,4) (4,3) (3,0) ...        T ids make T - 1 pairs: current -> next
# ```
#
# How good is it? Ask which probability it gave to what really came, and take the mean of the negative logarithms:
#
# $$L = -\frac{1}{T-1} \sum_{t=1}^{T-1} \ln p(x_{t+1} \mid x_t)$$
#
# The unit is the nat. A model that knows nothing has $L = \ln V$ for V characters, a perfect one has 0. Everything
# after this lesson is a better way to compute $p$; the loss stays.

# %% [markdown] lang="zh" part="idea"
# ## 思路
#
# 给每个不同的字符编号，再统计每个字符 a 后面紧跟着哪个 b，这就是**二元**（bigram）模型。
# 表中的一行除以该行之和，就是下一个字符的分布：
#
# $$p(b \mid a) = \frac{n_{ab} + \alpha}{\sum_{c} (n_{ac} + \alpha)}$$
#
# ```
#   文本      t   h   e   _   c   a   t
#   编号      7   4   3   0   2   1   7
#             |___|   |   |   |   |   |
#             (7,4) (4,3) (3,0) ...        T 个编号有 T - 1 对：当前 -> 下一个
# ```
#
# 预测得好不好？看它给真正出现的字符多大的概率，取负对数再平均：
#
# $$L = -\frac{1}{T-1} \sum_{t=1}^{T-1} \ln p(x_{t+1} \mid x_t)$$
#
# 单位是奈特。一无所知的模型，V 个字符的损失是 $L = \ln V$；完美的模型是 0。
# 后面的课都是在用更好的办法计算 $p$，损失始终是这一个。

# %% [markdown] lang="en" part="code"
# ## Text to ids and back
#
# A small grammar writes our text: as much as we like, always the same, and free of charge.

# %% [markdown] lang="zh" part="code"
# ## 文本变成编号，再变回来
#
# 文本由一个小语法生成：想要多少有多少，每次都一样。

# %%
import math
import os
import random
from itertools import pairwise

import matplotlib.pyplot as plt
import torch
from torch import Tensor

TEST_SIZE = os.environ.get("GLASSBOX_LESSON_SIZE") == "test"


def write_text(sentences: int, seed: int) -> str:
    draw = random.Random(seed)
    animals, places = ["cat", "gull", "hen", "otter", "seal"], ["barn", "beach", "harbour", "hill"]
    deeds = ["sleeps in", "runs to", "looks at", "sings near", "never leaves"]
    lines = [
        f"the {draw.choice(animals)} {draw.choice(deeds)} the {draw.choice(places)}."
        for _ in range(sentences)
    ]
    return "\n".join(lines) + "\n"


text, held_out = write_text(300 if TEST_SIZE else 3000, seed=1), write_text(200, seed=2)
characters = sorted(set(text))
number = {character: place for place, character in enumerate(characters)}


def encode(text: str) -> Tensor:
    return torch.tensor([number[character] for character in text])


def decode(ids: list[int]) -> str:
    return "".join(characters[i] for i in ids)


ids = encode(text)
V = len(characters)
print(f"{len(text):,} characters, {V} different: {decode(range(V))!r}")
print("the cat ->", encode("the cat").tolist(), "->", decode(encode("the cat")))

# %% [markdown] lang="en"
# What about a character that the table does not have? `number["é"]` raises a KeyError, which is honest; real tokenizers
# have a token for the unknown or, better, fall back to bytes, of which there are always 256 (lesson 2).
#
# ## Count, divide, and the model is done

# %% [markdown] lang="zh"
# 表里没有的字符怎么办？`number["é"]` 会抛出 KeyError，至少不会悄悄出错；真正的分词器有一个表示未知的词元，
# 或者更好的办法是退回到字节，字节总共就 256 种（第 2 课）。
#
# ## 数一数，除一除，模型就有了

# %%
counts = torch.zeros(V, V)
for first, second in pairwise(ids):
    counts[first, second] += 1
probs = (counts + 0.01) / (counts + 0.01).sum(1, keepdim=True)


def loss_of(probs: Tensor, text: str) -> float:
    ids = encode(text)
    return -probs[ids[:-1], ids[1:]].log().mean().item()


for name, table in (("uniform", torch.full((V, V), 1 / V)), ("bigram", probs)):
    print(
        f"{name:8} loss on new text {loss_of(table, held_out):.3f} nats (ln V = {math.log(V):.3f})"
    )


def sample(probs: Tensor, length: int, seed: int = 0) -> str:
    draw = torch.Generator().manual_seed(seed)
    out = [number["\n"]]
    for _ in range(length):
        out.append(torch.multinomial(probs[out[-1]], 1, generator=draw).item())
    return decode(out[1:])


print(sample(probs, 120))

# %% [markdown] lang="en"
# Almost words. It knows that h follows t, and forgets at once which t it was: one character is all its memory. Longer
# memories by counting fail quickly (V to the power of the length rows), and that is why models learn instead.
#
# ## The same table, learned
#
# Give every pair a free number (a **logit**), turn each row into probabilities by a softmax, and go down the gradient of the
# loss. It must arrive at the counted table: no bigram model has a lower loss on the training text.

# %% [markdown] lang="zh"
# 差一点就是单词了。它知道 t 后面常是 h，却立刻忘了是哪个 t：它的记忆只有一个字符。
# 靠计数延长记忆很快就行不通（行数是 V 的长度次方），所以模型要靠学习。
#
# ## 同一张表，用学的
#
# 给每一对一个自由的数（**logit**），每行做 softmax 变成概率，再沿损失的梯度下降。
# 最后必然得到数出来的那张表：在训练文本上，没有哪个二元模型的损失更低。

# %%
STEPS = 40 if TEST_SIZE else 300
logits = torch.zeros(V, V, requires_grad=True)
optimizer = torch.optim.Adam([logits], lr=0.2)
current, following = ids[:-1], ids[1:]
floor = (
    -((counts / len(current)) * (counts / counts.sum(1, keepdim=True)).clamp(min=1e-30).log())
    .sum()
    .item()
)
curve = []
for _ in range(STEPS):
    loss = torch.nn.functional.cross_entropy(logits[current], following)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    curve.append(loss.item())
print(f"learned {curve[-1]:.4f}, counted {floor:.4f} nats on the training text")
print("largest difference of the probabilities:", f"{(logits.softmax(1) - probs).abs().max():.3f}")

# %% alt_en="Left: heat map of the bigram table, rows are current and columns next characters, a few bright cells in each row. Right: the loss of the learned table falls from ln V to the dashed line of the counted table." alt_zh="左图：二元表的热力图，行是当前字符，列是下一个字符，每行只有几个亮格。右图：学习得到的表的损失从 ln V 下降到虚线，即计数表的损失。"
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
names = [{"\n": "\\n", " ": "_"}.get(one, one) for one in characters]
left.imshow(probs, cmap="viridis")
left.set(
    xticks=range(V), yticks=range(V), xlabel="next", ylabel="current", title="p(next | current)"
)
left.set_xticklabels(names)
left.set_yticklabels(names)
right.plot(curve, label="learned")
right.axhline(floor, linestyle="--", color="black", label="counted")
right.set(xlabel="step", ylabel="loss (nats)", title="training text")
right.legend()
plt.show()

# %% [markdown] lang="en" part="real"
# ## Now open the real one
#
# - [`train_characters`](../src/glassbox/tokenizers/characters.py) numbers characters, with special tokens and an unknown one.
# - [`cross_entropy_plain`](../src/glassbox/ops/cross_entropy.py) is the loss from logits; [`cross_entropy`](../src/glassbox/ops/cross_entropy.py)
#   gives the same without ever storing the logits of all positions, which for V = 128,000 are the largest tensor of a training step.
# - [`score_texts`](../src/glassbox/evaluation/perplexity.py) measures a model on text: nats a token, perplexity, bits a byte.

# %% [markdown] lang="zh" part="real"
# ## 打开真正的实现
#
# - [`train_characters`](../src/glassbox/tokenizers/characters.py) 给字符编号，并支持特殊词元和未知词元。
# - [`cross_entropy_plain`](../src/glassbox/ops/cross_entropy.py) 由 logit 计算损失；[`cross_entropy`](../src/glassbox/ops/cross_entropy.py)
#   结果相同，但从不保存所有位置的 logit：V = 128,000 时，那是一个训练步里最大的张量。
# - [`score_texts`](../src/glassbox/evaluation/perplexity.py) 在文本上评测模型：每词元奈特数、困惑度、每字节比特数。

# %%
from glassbox.ops.cross_entropy import cross_entropy_plain

with torch.no_grad():
    total, weight = cross_entropy_plain(logits[current], following), len(current)
print(
    f"ours {loss.item():.4f} before the last step, the package's after it {float(total.sum()) / weight:.4f}"
)

# %% [markdown] lang="en" part="exercises"
# ## Exercises
#
# `glassbox lesson open 1` writes a file with the graded ones.
#
# <!-- exercise 1.1 -->
#
# <!-- exercise 1.2 -->
#
# <!-- exercise 1.3 -->
#
# **1.4 A trigram** Count which character follows each pair. How many of the V * V rows are empty? Compare its loss on the
# held-out text with that of the bigram, for alpha 0.01 and 1.
#
# **1.5 Bits a character** Convert the loss to bits. How many bits does zip need for a character of this text?

# %% [markdown] lang="zh" part="exercises"
# ## 练习
#
# `glassbox lesson open 1` 会生成一个文件，里面是可以自动评分的题目。
#
# <!-- exercise 1.1 -->
#
# <!-- exercise 1.2 -->
#
# <!-- exercise 1.3 -->
#
# **1.4 三元模型** 统计每两个字符后面跟着哪个字符。V * V 行里有多少行是空的？
# 分别取 alpha 为 0.01 和 1，与二元模型比较留出文本上的损失。
#
# **1.5 每字符比特数** 把损失换算成比特。zip 压缩这段文本，每个字符要用多少比特？

# %% [markdown] lang="en" part="pitfalls"
# ## What goes wrong in practice
#
# - **Targets that are not shifted.** The loss goes to zero within a few steps: the model is asked for what it was given.
# - **A mean of means.** The losses of unequal batches are averaged without their weights; long texts then count less.
# - **A zero probability.** One pair that was never seen makes the whole loss infinite. Smooth, or compute from logits.
# - **log(softmax(x))** in two steps underflows for unlikely characters; log_softmax takes the maximum off first.
# - **Validation text that is training text.** Cut before you shuffle.
# - **Losses compared across tokenizers.** Nats a token of different vocabularies say nothing; bits a byte do.

# %% [markdown] lang="zh" part="pitfalls"
# ## 实践中的坑
#
# - **目标没有错开一位。** 损失几步之内就降到零：模型被要求回答的正是它看到的。
# - **平均值的平均。** 把大小不等的批次的平均损失直接再平均，长文本的权重就变小了。
# - **概率为零。** 只要有一对没见过，整个损失就是无穷大。要么平滑，要么从 logit 计算。
# - **分两步算 log(softmax(x))** 时，小概率会下溢；log_softmax 会先减去最大值。
# - **验证文本就是训练文本。** 先切分，再打乱。
# - **跨分词器比较损失。** 词表不同，每词元的奈特数没有可比性，应当比较每字节比特数。

# %% [markdown] lang="en" part="reading"
# ## Further reading
#
# - Shannon, *A Mathematical Theory of Communication* (1948), section 3: text from counted pairs, before computers
# - Bengio et al., *A Neural Probabilistic Language Model* (2003): why learning beats counting
# - [minimal_llm.py](models/minimal_llm.py): the same characters, with attention
# - [The guide to evaluation](../docs/guides/evaluation.md)

# %% [markdown] lang="zh" part="reading"
# ## 延伸阅读
#
# - Shannon，*A Mathematical Theory of Communication*（1948），第 3 节：计算机出现之前用计数生成的文本
# - Bengio 等，*A Neural Probabilistic Language Model*（2003）：为什么学习胜过计数
# - [minimal_llm.py](models/minimal_llm.py)：同样的字符，加上注意力
# - [评测指南](../docs/guides/evaluation.md)
