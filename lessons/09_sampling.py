# %% [markdown] lang="en"
# # 9. Sampling: from probabilities to text

# %% [markdown] lang="zh"
# # 9. 采样：从概率到文本

# %% [markdown] lang="en" part="question"
# ## The question
#
# A model gives a probability to every next token. Which one do we take? The likeliest, and the text goes round in circles; a random one, and sooner or
# later something absurd is drawn, from which the text never recovers. What lies between, and how do we know that we draw what we mean to draw?

# %% [markdown] lang="zh" part="question"
# ## 问题
#
# 模型给每个可能的下一个词元一个概率，该取哪一个？总取最可能的，文本会原地打转；随机抽取，迟早会抽到荒唐的词元，之后再也拉不回来。
# 中间有哪些办法？又怎样确认抽到的正是我们想抽的？

# %% [markdown] lang="en" part="idea"
# ## The idea
#
# Two knobs on the same distribution. **Temperature** divides the logits before the softmax:
#
# $$p_i \propto e^{z_i / \tau}$$
#
# With $\tau \to 0$ only the likeliest is left (*greedy*), $\tau = 1$ is the model's own belief, a large $\tau$ makes all alike. **Truncation** cuts the tail, where each
# token is improbable but all together are not, and divides by what is left:
#
# ```
#   sorted     0.42  0.23  0.12  0.08  0.05  0.04  0.03  0.02  0.01
#   top-k 3    #     #     #                                            the k likeliest, however sure the model is
#   top-p 0.8  #     #     #     #                                      the fewest that hold a mass of p
#   min-p 0.25 #     #     #                                            at least a share of the likeliest
# ```
#
# Why cut at all? If 5% of the mass lies on absurd tokens, a text of 50 tokens avoids them all with probability $0.95^{50} = 8\%$.
#
# **Search** asks another question: not for a typical text but for the likeliest. *Beam search* keeps the $B$ best beginnings at every step. It finds more
# probable texts than greedy, which is right for a translation, and for stories it finds the dullest one.

# %% [markdown] lang="zh" part="idea"
# ## 思路
#
# 同一个分布上有两个旋钮。**温度**在 softmax 之前除 logits：
#
# $$p_i \propto e^{z_i / \tau}$$
#
# $\tau \to 0$ 时只剩最可能的那个（*贪心*），$\tau = 1$ 是模型自己的判断，$\tau$ 很大时人人平等。**截断**则砍掉尾部：那里每个词元都不太可能，
# 加在一起却不少；剩下的再归一化：
#
# ```
#   已排序     0.42  0.23  0.12  0.08  0.05  0.04  0.03  0.02  0.01
#   top-k 3    #     #     #                                            最可能的 k 个，不管模型有多确定
#   top-p 0.8  #     #     #     #                                      累计概率达到 p 的最少几个
#   min-p 0.25 #     #     #                                            至少是最大概率的某个比例
# ```
#
# 为什么要砍？如果荒唐的词元合计占 5%，一段 50 个词元的文本全部避开它们的概率只有 $0.95^{50} = 8\%$。
#
# **搜索**问的是另一个问题：不要典型的文本，要最可能的文本。*束搜索*每一步保留最好的 $B$ 个开头。它能找到比贪心概率更高的文本，
# 对翻译很合适；对故事来说，找到的却是最无趣的那个。

# %% [markdown] lang="en" part="code"
# ## A model whose right answer we know
#
# Our model is a table: which word follows which, from a short text. It is small enough that the exact distribution over whole texts can be worked out, and
# every method be judged against it.

# %% [markdown] lang="zh" part="code"
# ## 知道正确答案的模型
#
# 我们的模型是一张表：从一段短文统计哪个词后面跟哪个词。它足够小，整段文本的精确分布都能算出来，每种方法都能与之对照。

# %%
import heapq
import itertools
import math
import os

import matplotlib.pyplot as plt
import torch
from torch import Tensor

torch.manual_seed(0)
TEST_SIZE = os.environ.get("GLASSBOX_LESSON_SIZE") == "test"
DRAWS = 2_000 if TEST_SIZE else 50_000

TEXT = """the old fox ran to the lake . the old owl saw the moon in the lake . the old tree was in the moon . the old
moon saw the fox . the old lake saw the owl . the owl flew to the old tree and the fox ran to the lake . the moon was in
the lake and the owl was in the tree . a fox is not an owl . a lake is not a moon ."""
WORDS = TEXT.split()
VOCAB = sorted(set(WORDS))
PLACE = {word: number for number, word in enumerate(VOCAB)}
counts = torch.full((len(VOCAB), len(VOCAB)), 0.05)  # a little for everything: the absurd tail
for before, after in zip(WORDS, WORDS[1:] + WORDS[:1], strict=True):
    counts[PLACE[before], PLACE[after]] += 1
TABLE = (counts / counts.sum(1, keepdim=True)).log()  # row: log p(next | word)


def next_logits(words: list[str]) -> Tensor:
    """The model: logits (V) of the word after these."""
    return TABLE[PLACE[words[-1]]]


for probability, number in zip(*next_logits(["the"]).exp().topk(5), strict=True):
    print(f"the {VOCAB[number]:6} {probability:.3f}")
print(
    f"absurd after 'the' (never in the text): {float((next_logits(['the']).exp() * (counts[PLACE['the']] < 1)).sum()):.3f} together"
)


# %% [markdown] lang="en"
# ## The knobs, each in a few lines
#
# A filter takes logits and sets to minus infinity what may not be drawn. Filters can then be chained, and the softmax divides by what is left by itself.

# %% [markdown] lang="zh"
# ## 几行代码一个旋钮
#
# 过滤器接收 logits，把不许抽的设成负无穷。这样过滤器就能串起来用，softmax 自己会对剩下的做归一化。


# %%
def with_temperature(logits: Tensor, tau: float) -> Tensor:
    return logits / tau


def top_k(logits: Tensor, k: int) -> Tensor:
    kept = logits.topk(min(k, len(logits))).indices
    return torch.full_like(logits, -math.inf).index_copy(0, kept, logits[kept])


def top_p(logits: Tensor, p: float) -> Tensor:
    order = logits.argsort(descending=True)
    mass = logits[order].softmax(-1).cumsum(-1)
    kept = order[: int((mass < p).sum()) + 1]  # the one with which p is reached counts
    return torch.full_like(logits, -math.inf).index_copy(0, kept, logits[kept])


def min_p(logits: Tensor, share: float) -> Tensor:
    return logits.masked_fill(logits < logits.max() + math.log(share), -math.inf)


def draw(logits: Tensor) -> int:
    return int(torch.multinomial(logits.softmax(-1), 1))


METHODS = {
    "temperature 1": lambda z: z,
    "temperature 0.5": lambda z: with_temperature(z, 0.5),
    "top-k 3": lambda z: top_k(z, 3),
    "top-p 0.8": lambda z: top_p(z, 0.8),
    "min-p 0.25": lambda z: min_p(z, 0.25),
}
for word in ("the", "moon"):
    for name, method in METHODS.items():
        left = method(next_logits([word])).softmax(-1)
        print(
            f"after {word!r:6} {name:15} {int((left > 0).sum()):2} words left, the likeliest has {left.max():.2f}"
        )

# %% [markdown] lang="en"
# Note how top-k keeps three words after every word, while top-p keeps few where the model is sure and many where it is not.
#
# ## Text, by each of them

# %% [markdown] lang="zh"
# 注意 top-k 在任何词之后都保留三个，而 top-p 在模型有把握时保留得少，没把握时保留得多。
#
# ## 用每种方法写一段


# %%
def write(method, length: int = 14) -> list[str]:
    words = ["the"]
    while len(words) < length:
        words.append(VOCAB[draw(method(next_logits(words)))])
    return words


def greedy(length: int = 14) -> list[str]:
    words = ["the"]
    while len(words) < length:
        words.append(VOCAB[int(next_logits(words).argmax())])
    return words


print(f"{'greedy':15}", " ".join(greedy()))
for name, method in METHODS.items():
    torch.manual_seed(4)
    print(f"{name:15}", " ".join(write(method)))


def absurd_share(method, count: int) -> float:
    """How many of the pairs in texts of 20 words are not in the model's text."""
    torch.manual_seed(0)
    pairs = [
        pair
        for _ in range(count)
        for words in [write(method, 20)]
        for pair in itertools.pairwise(words)
    ]
    return sum(counts[PLACE[a], PLACE[b]] < 1 for a, b in pairs).item() / len(pairs)


for name, method in METHODS.items():
    print(f"{name:15} absurd steps: {100 * absurd_share(method, 20 if TEST_SIZE else 200):.1f}%")

# %% [markdown] lang="en"
# ## Is what we draw what we mean to draw?
#
# A sampler that is slightly wrong still writes fluent text. So compare counts with probabilities. The **Gumbel trick** gives an independent second way: add
# $-\log(-\log u)$ with $u$ uniform to every logit and take the largest; the winner is distributed exactly as the softmax.

# %% [markdown] lang="zh"
# ## 抽到的正是想抽的吗
#
# 稍有错误的采样器照样能写出通顺的文字，所以要拿次数与概率对照。**Gumbel 技巧**提供了独立的第二种抽法：给每个 logit 加上
# $-\log(-\log u)$（$u$ 均匀分布），取最大者；胜出者的分布恰好就是 softmax。

# %%
logits = top_p(with_temperature(next_logits(["the"]), 1.3), 0.9)
expected = logits.softmax(-1)
drawn = torch.multinomial(expected, DRAWS, replacement=True)
uniform = torch.rand(DRAWS, len(VOCAB)).clamp(1e-12, 1 - 1e-7)
gumbel = (logits - (-uniform.log()).log()).argmax(-1)
for name, sample in (("multinomial", drawn), ("Gumbel", gumbel)):
    seen = torch.bincount(sample, minlength=len(VOCAB)) / DRAWS
    error = (expected * (1 - expected) / DRAWS).sqrt().clamp(min=1e-9)
    worst = float(((seen - expected) / error)[expected > 0].abs().max())
    print(
        f"{name:12} {DRAWS:,} draws: the worst word is {worst:.1f} standard errors off; {int((seen[expected == 0] > 0).sum())} forbidden words drawn"
    )

# %% alt_en="Bars of the probability of the eight likeliest words after 'the' at temperatures 0.5, 1 and 2: the lower the temperature, the more mass lies on the first words." alt_zh="“the” 之后最可能的八个词在温度 0.5、1、2 下的概率柱状图：温度越低，概率越集中在前几个词上。"
figure, axis = plt.subplots(figsize=(7, 2.8), layout="constrained")
order = next_logits(["the"]).argsort(descending=True)[:8]
for number, tau in enumerate((0.5, 1.0, 2.0)):
    shares = with_temperature(next_logits(["the"]), tau).softmax(-1)[order]
    axis.bar(
        [place + 0.27 * number for place in range(8)],
        shares,
        width=0.27,
        label=f"temperature {tau:g}",
    )
axis.set_xticks([place + 0.27 for place in range(8)], [VOCAB[one] for one in order])
axis.set(ylabel="probability")
axis.legend(frameon=False)
plt.show()


# %% [markdown] lang="en"
# ## Beam search, and the exact answer
#
# Because the model looks at one word only, the likeliest text of a given length can be found exactly (Viterbi's algorithm: the best way to each last word). So we can see what
# beams of different width find.

# %% [markdown] lang="zh"
# ## 束搜索与精确答案
#
# 这个模型只看前一个词，所以给定长度的最可能文本可以精确求出（Viterbi 算法：到每个末尾词的最佳路径）。这样就能看到不同宽度的束各找到了什么。


# %%
def beam_search(width: int, length: int) -> tuple[float, list[str]]:
    """The best text found, and its log-probability."""
    beams = [(0.0, ["the"])]
    while len(beams[0][1]) < length:
        grown = []
        for score, words in beams:
            logits = next_logits(words)
            grown += [
                (score + float(logits[n]), [*words, VOCAB[n]])
                for n in logits.topk(width).indices.tolist()
            ]
        beams = heapq.nlargest(width, grown, key=lambda one: one[0])
    return beams[0]


def likeliest(length: int) -> tuple[float, list[str]]:
    best = {word: (0.0 if word == "the" else -math.inf, ["the"]) for word in VOCAB}
    for _ in range(length - 1):
        best = {
            word: max(
                (
                    (s + float(TABLE[PLACE[w[-1]], PLACE[word]]), [*w, word])
                    for s, w in best.values()
                ),
                key=lambda one: one[0],
            )
            for word in VOCAB
        }
    return max(best.values(), key=lambda one: one[0])


for width in (1, 2, 4, 8):
    score, words = beam_search(width, 10)
    print(f"beam of {width}: {score:7.3f}  {' '.join(words)}")
score, words = likeliest(10)
print(f"the best:  {score:7.3f}  {' '.join(words)}")

# %% [markdown] lang="en"
# A beam of one is greedy. Wider beams find more probable texts, and none of these widths finds the best: its second word looked bad at first and was
# dropped at once. Nor is probability quality: the likely texts say the same thing twice. For open text people sample.

# %% [markdown] lang="zh"
# 宽度为一的束就是贪心。更宽的束能找到概率更高的文本，但这几种宽度都没有找到最好的：它的第二个词起初看着不好，立刻就被丢掉了。
# 概率也不等于质量：概率高的文本总在重复自己。写开放的文本，人们用采样。

# %% [markdown] lang="en" part="real"
# ## Now open the real one
#
# - [`top_k_filter`](../src/glassbox/inference/sampling/filters.py), [`top_p_filter`](../src/glassbox/inference/sampling/filters.py) and their siblings work on a batch whose rows
#   have settings of their own; held to transformers' processors.
# - [`draw`](../src/glassbox/inference/sampling/filters.py) takes a uniform number from outside, and [`philox`](../src/glassbox/inference/sampling/randomness.py) makes it from seed and position: a request
#   draws the same text in any batch.
# - [`draw_filtered`](../src/glassbox/inference/sampling/shortlist.py) sorts only the few hundred logits that can matter, instead of all 150,000.
# - [`beam_search`](../src/glassbox/inference/search/beam.py) and [`contrastive_search`](../src/glassbox/inference/search/contrastive.py), with the prefix shared in the cache.
# - [`choose_plain`](../src/glassbox/inference/plain.py) is the whole of it in one readable function.

# %% [markdown] lang="zh" part="real"
# ## 打开真正的实现
#
# - [`top_k_filter`](../src/glassbox/inference/sampling/filters.py)、[`top_p_filter`](../src/glassbox/inference/sampling/filters.py) 等处理一整批，每行可以有自己的设置；
#   与 transformers 的处理器对照过。
# - [`draw`](../src/glassbox/inference/sampling/filters.py) 从外部接收一个均匀随机数，[`philox`](../src/glassbox/inference/sampling/randomness.py) 由种子和位置生成它：
#   同一个请求在任何批次里抽到同样的文本。
# - [`draw_filtered`](../src/glassbox/inference/sampling/shortlist.py) 只对可能起作用的几百个 logits 排序，而不是全部 15 万个。
# - [`beam_search`](../src/glassbox/inference/search/beam.py) 与 [`contrastive_search`](../src/glassbox/inference/search/contrastive.py)，前缀在缓存中共享。
# - [`choose_plain`](../src/glassbox/inference/plain.py) 把这一切写成一个好读的函数。

# %%
from glassbox.inference.sampling.filters import min_p_filter, top_k_filter, top_p_filter

rows = torch.randn(5, 40) * 2
for name, mine, theirs in (
    ("top-k", [top_k(row, 7) for row in rows], top_k_filter(rows, torch.full((5,), 7))),
    ("top-p", [top_p(row, 0.8) for row in rows], top_p_filter(rows, torch.full((5,), 0.8))),
    ("min-p", [min_p(row, 0.1) for row in rows], min_p_filter(rows, torch.full((5,), 0.1))),
):
    print(
        f"{name}: the same words are left in all rows: {torch.equal(torch.stack(mine).isfinite(), theirs.isfinite())}"
    )

# %% [markdown] lang="en" part="exercises"
# ## Exercises
#
# `glassbox lesson open 9` writes a file with the graded ones.
#
# <!-- exercise 9.1 -->
#
# <!-- exercise 9.2 -->
#
# <!-- exercise 9.3 -->
#
# **9.4 Order matters** Temperature before top-p, or top-p before temperature? Find logits for which the two keep different words, and say which order you would want.

# %% [markdown] lang="zh" part="exercises"
# ## 练习
#
# `glassbox lesson open 9` 会生成一个文件，里面是可以自动评分的题目。
#
# <!-- exercise 9.1 -->
#
# <!-- exercise 9.2 -->
#
# <!-- exercise 9.3 -->
#
# **9.4 顺序有关系** 先温度后 top-p，还是先 top-p 后温度？找出让两者保留不同词的 logits，并说说你想要哪种顺序。

# %% [markdown] lang="en" part="pitfalls"
# ## What goes wrong in practice
#
# - **Temperature 0 as a division**: NaN. It means greedy, and has to be a case of its own.
# - **top-p that leaves out the token with which p is reached.** With one token of probability 0.95 and p = 0.9 nothing is left.
# - **Filters on probabilities instead of logits**: what was cut must be minus infinity before the softmax, not zero after it, or the rest does not sum to 1.
# - **One generator for all requests**: a text then depends on who else was in the batch, and no complaint can be reproduced.
# - **Beam scores of different length** compared as they are: every token costs, so short texts always win. Divide by the length, and say so.
# - **Penalties that count the prompt** push the model away from the words it was asked about.
# - **Judging a sampler by reading.** Count instead: ten thousand draws show what no reader sees.

# %% [markdown] lang="zh" part="pitfalls"
# ## 实践中的坑
#
# - **温度为 0 时照除不误**：得到 NaN。它的意思是贪心，要单独处理。
# - **top-p 漏掉了恰好达到 p 的那个词元。** 有一个词元概率 0.95、p = 0.9 时，一个都不剩。
# - **在概率上而不是 logits 上过滤**：砍掉的要在 softmax 之前设成负无穷，而不是之后设成零，否则剩下的和不为 1。
# - **所有请求共用一个随机数发生器**：文本取决于同批还有谁，用户报的问题也无法复现。
# - **直接比较长短不同的束得分**：每个词元都要扣分，短文本总是赢。要除以长度，并说明这一点。
# - **惩罚项把提示词也算进去**，会让模型避开被问到的那些词。
# - **靠阅读来评判采样器。** 应该去数：一万次抽样能看出读者看不出的东西。

# %% [markdown] lang="en" part="reading"
# ## Further reading
#
# - Holtzman et al., *The Curious Case of Neural Text Degeneration*, [arXiv:1904.09751](https://arxiv.org/abs/1904.09751): top-p
# - Fan et al., *Hierarchical Neural Story Generation*, [arXiv:1805.04833](https://arxiv.org/abs/1805.04833): top-k
# - Nguyen et al., *Turning Up the Heat: Min-p Sampling*, [arXiv:2407.01082](https://arxiv.org/abs/2407.01082)
# - [generate_text.py](models/generate_text.py): the same methods in one file, also on GPT-2

# %% [markdown] lang="zh" part="reading"
# ## 延伸阅读
#
# - Holtzman 等，*The Curious Case of Neural Text Degeneration*，[arXiv:1904.09751](https://arxiv.org/abs/1904.09751)：top-p
# - Fan 等，*Hierarchical Neural Story Generation*，[arXiv:1805.04833](https://arxiv.org/abs/1805.04833)：top-k
# - Nguyen 等，*Turning Up the Heat: Min-p Sampling*，[arXiv:2407.01082](https://arxiv.org/abs/2407.01082)
# - [generate_text.py](models/generate_text.py)：同样的方法写在一个文件里，也可用于 GPT-2
