# %% [markdown] lang="en"
# # 19. Evaluation: what a score is worth

# %% [markdown] lang="zh"
# # 19. 评测：分数值多少

# %% [markdown] lang="en" part="question"
# ## The question
#
# One model answers 38% of the questions, another 41%. Is the second better? And what did we ask: the loss on a text that another tokenizer cuts otherwise, the likeliest of four
# answers of unlike length, or what the model would really say?

# %% [markdown] lang="zh" part="question"
# ## 问题
#
# 一个模型答对 38% 的题，另一个答对 41%。第二个更好吗？我们到底问了什么：是换个分词器就会变的文本损失，是四个长短不一的选项中最可能的那个，还是模型真正会说的话？

# %% [markdown] lang="en" part="idea"
# ## The idea
#
# Three kinds of figures, each with its trap.
#
# **Perplexity** is $e^{L}$ with $L$ the mean loss in nats a token. A tokenizer with longer tokens has fewer and harder ones, so models with different tokenizers are compared in **bits per byte**:
# the whole surprise divided by what is the same for both,
#
# $$\mathrm{bpb} = \frac{\sum_t -\ln p(x_t \mid x_{<t})}{\ln 2 \cdot \text{number of bytes}}$$
#
# **Multiple choice** takes the option with the highest $\log p(\text{option} \mid \text{question})$. Longer options are less probable just for being long: one divides by their length, in bytes or tokens, or takes off what the
# option is worth without the question.
#
# **A difference** needs an error bar. A share $p$ of $n$ questions has the standard error $\sqrt{p (1 - p) / n}$. But two models answer the *same* questions, and most questions are easy or hard for both. What counts is the difference
# on each question, $d_i$:
#
# ```
#   question   A   B   d = B - A
#      1       1   1      0         easy for both: says nothing about the difference
#      2       0   0      0         hard for both
#      3       0   1     +1         only these
#      4       1   0     -1         decide
# ```
#
# $$\mathrm{error}(\bar d) = \frac{s_d}{\sqrt n}, \qquad s_d^2 = \frac{1}{n - 1} \sum_i (d_i - \bar d)^2$$

# %% [markdown] lang="zh" part="idea"
# ## 思路
#
# 有三类数字，各有各的陷阱。
#
# **困惑度**是 $e^{L}$，$L$ 是每个词元的平均损失（nat）。词元更长的分词器，词元更少也更难猜，所以分词器不同的模型要用**每字节比特数**来比较：
# 把总的意外除以对双方都一样的量，
#
# $$\mathrm{bpb} = \frac{\sum_t -\ln p(x_t \mid x_{<t})}{\ln 2 \cdot \text{number of bytes}}$$
#
# **选择题**取 $\log p(\text{option} \mid \text{question})$ 最大的选项。选项越长，仅仅因为长就越不可能：于是除以长度（按字节或词元），或者减去没有问题时选项本身的值。
#
# **差异**需要误差条。$n$ 道题的正确率 $p$，标准误是 $\sqrt{p (1 - p) / n}$。但两个模型回答的是*同样*的题，多数题对两者都容易或都难。要看的是每道题上的差 $d_i$：
#
# ```
#   题目       A   B   d = B - A
#      1       1   1      0         两者都会：对差异毫无信息
#      2       0   0      0         两者都不会
#      3       0   1     +1         只有这些
#      4       1   0     -1         起决定作用
# ```
#
# $$\mathrm{error}(\bar d) = \frac{s_d}{\sqrt n}, \qquad s_d^2 = \frac{1}{n - 1} \sum_i (d_i - \bar d)^2$$

# %% [markdown] lang="en" part="code"
# ## Perplexity depends on the tokenizer, bits per byte does not
#
# The same model of characters, read twice: once a character at a time, and once two at a time, with the probability of a pair being that of its two characters. Nothing about the model has changed.

# %% [markdown] lang="zh" part="code"
# ## 困惑度取决于分词器，每字节比特数则不然
#
# 同一个字符模型，读两遍：一次一个字符，或一次两个，一对的概率就是两个字符概率之积。模型本身毫无变化。

# %%
import math
import os

import matplotlib.pyplot as plt
import torch
from torch import Tensor
import itertools

torch.manual_seed(0)
TEST_SIZE = os.environ.get("GLASSBOX_LESSON_SIZE") == "test"
WORLDS = 300 if TEST_SIZE else 3000

TEXT = "the cat sat on the mat and the dog sat on the log. " * 8
ALPHABET = sorted(set(TEXT))
table = torch.full((len(ALPHABET), len(ALPHABET)), 0.1)
for before, after in itertools.pairwise(TEXT):
    table[ALPHABET.index(before), ALPHABET.index(after)] += 1
table = (table / table.sum(1, keepdim=True)).log()

held_out = "the dog sat on the mat. the cat sat on the log."
surprise = torch.tensor(
    [-float(table[ALPHABET.index(a), ALPHABET.index(b)]) for a, b in itertools.pairwise(held_out)]
)
num_bytes = len(held_out[1:].encode())
for name, losses in (
    ("one character a token", surprise),
    ("two characters a token", surprise.view(-1, 2).sum(1)),
):
    bits = float(losses.sum()) / math.log(2) / num_bytes
    print(
        f"{name:23} {len(losses):2} tokens   perplexity {losses.mean().exp():6.2f}   bits per byte {bits:.3f}"
    )

# %% [markdown] lang="en"
# ## Choices of unlike length
#
# The right answer is the long one. Its total log-probability is lower because it has more letters to be wrong in, and only a normalisation finds it.

# %% [markdown] lang="zh"
# ## 长短不一的选项
#
# 正确答案是长的那个。它字母更多，总的对数概率因此更低，只有做了归一化才能选中它。


# %%
def log_prob(context: str, option: str) -> float:
    text = context[-1] + option
    return sum(
        float(table[ALPHABET.index(a), ALPHABET.index(b)]) for a, b in itertools.pairwise(text)
    )


question, options = "the cat sat ", ["on the mat", "om", "gt", "nnn"]
print(f"{'option':12} {'raw':>7} {'by bytes':>9} {'by what it is without the question':>36}")
for option in options:
    raw = log_prob(question, option)
    alone = log_prob(".", option)
    print(f"{option:12} {raw:7.2f} {raw / len(option.encode()):9.2f} {raw - alone:36.2f}")
for name, key in (
    ("raw", lambda o: log_prob(question, o)),
    ("by bytes", lambda o: log_prob(question, o) / len(o)),
):
    print(f"{name:9} chooses {max(options, key=key)!r}")

# %% [markdown] lang="en"
# Neither rule is *the* right one, and scores under different rules must not stand in one table: `acc` and `acc_norm` of the same model differ by ten points on some tasks.
#
# ## The error bar, tried out
#
# We make two models whose truth we know. Every question has a difficulty, both models meet the same one, and B finds every question a little easier. In each of many worlds we draw 500 questions and
# ask whether the difference is found, once as if the models had answered different questions, and once paired.

# %% [markdown] lang="zh"
# ## 试一试误差条
#
# 造两个我们知道真相的模型。每道题有自己的难度，两个模型遇到的是同一道题，B 觉得每道题都容易一点。在许多个世界里各抽 500 道题，看能否发现差异：
# 一次当作两个模型答的是不同的题，一次按配对来算。


# %%
def answers(num: int, better: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Right or wrong (num) of A and B. Most questions are clearly easy or hard."""
    ease = torch.sigmoid(torch.randn(num, generator=generator) * 4)
    luck = torch.rand(num, generator=generator)  # what A and B have in common on a question
    own = 0.1 * torch.randn(2, num, generator=generator)
    return (luck + own[0] < ease).float(), (luck + own[1] < ease + better).float()


def unpaired(a: Tensor, b: Tensor) -> tuple[float, float]:
    error = math.sqrt(float(a.var() + b.var()) / len(a))
    return float(b.mean() - a.mean()), error


def paired(a: Tensor, b: Tensor) -> tuple[float, float]:
    d = b - a
    return float(d.mean()), float(d.std()) / math.sqrt(len(d))


generator = torch.Generator().manual_seed(1)
a, b = answers(500, 0.03, generator)
for name, test in (("as if unpaired", unpaired), ("paired", paired)):
    difference, error = test(a, b)
    print(
        f"{name:15} B - A = {difference:+.3f} +- {error:.3f}   ({difference / error:+.1f} standard errors)"
    )
found = {}
for better in (0.0, 0.03):
    for name, test in (("unpaired", unpaired), ("paired", paired)):
        significant = 0
        generator = torch.Generator().manual_seed(2)
        for _ in range(WORLDS):
            difference, error = test(*answers(500, better, generator))
            significant += abs(difference) > 1.96 * error
        found[better, name] = significant / WORLDS
        print(
            f"truth: ease + {better:.2f} for B   {name:9} says so in {100 * found[better, name]:4.1f}% of {WORLDS} worlds"
        )

# %% [markdown] lang="en"
# Where there is nothing, the paired test is wrong 5% of the time, as promised; the unpaired one hardly ever speaks at all. Where there is something, the paired test finds it several times as often, from the same answers.
#
# **McNemar's test** says the same with two counts alone: $b$ questions that only B has right, $c$ that only A has. If neither is better each of these is a coin; so ask how odd it is to see so uneven a split.

# %% [markdown] lang="zh"
# 没有差异时，配对检验有 5% 的时候出错，正如承诺；不配对的几乎从不开口。有差异时，同样的答案，配对检验发现它的次数是几倍之多。
#
# **McNemar 检验**只用两个计数说同样的事：只有 B 答对的 $b$ 道，只有 A 答对的 $c$ 道。若两者一样好，每一道就像抛硬币；那么出现如此悬殊的比例有多稀奇？


# %%
def mcnemar(a: Tensor, b: Tensor) -> float:
    """Two-sided p with the mid-p correction: the observed split itself counts half."""
    gained, lost = int(((b == 1) & (a == 0)).sum()), int(((b == 0) & (a == 1)).sum())
    total, few = gained + lost, min(gained, lost)
    if total == 0 or gained == lost:
        return 1.0
    chance = [math.comb(total, k) / 2**total for k in range(few + 1)]
    return 2 * (sum(chance) - 0.5 * chance[-1])


print(
    f"only B right: {int(((b == 1) & (a == 0)).sum())}, only A right: {int(((b == 0) & (a == 1)).sum())}, p = {mcnemar(a, b):.3f}"
)

# %% alt_en="Left: bars of how often each test finds a difference, when there is none and when B is a little better; the paired test is near five percent in the first case and far above the unpaired one in the second. Right: the standard error of the difference falls with the number of questions, the paired one lying below." alt_zh="左图：没有差异时以及 B 略好时，两种检验发现差异的比例；前一种情况下配对检验约为百分之五，后一种情况下远高于不配对检验。右图：差异的标准误随题数下降，配对的更低。"
figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
names = [f"{name}\n{'no difference' if better == 0 else 'B better'}" for better, name in found]
axes[0].bar(names, list(found.values()), color=["#bbb", "#0b7a70"] * 2)
axes[0].axhline(0.05, color="black", linewidth=0.8, linestyle="--")
axes[0].set(ylabel="says: different")
axes[0].tick_params(axis="x", labelsize=7)
sizes = [50, 100, 200, 500, 1000, 2000]
for name, test, colour in (("unpaired", unpaired, "#999"), ("paired", paired, "#0b7a70")):
    generator = torch.Generator().manual_seed(3)
    axes[1].loglog(
        sizes,
        [test(*answers(n, 0.03, generator))[1] for n in sizes],
        marker="o",
        color=colour,
        label=name,
    )
axes[1].axhline(0.03, color="black", linewidth=0.8, linestyle="--")
axes[1].set(xlabel="questions", ylabel="standard error of B - A")
axes[1].legend(frameon=False)
plt.show()

# %% [markdown] lang="en"
# The error halves when the questions are four times as many. To see 1 point with certainty one needs some thousands of questions; a table of models that differ by half a point on 500 ranks noise.

# %% [markdown] lang="zh"
# 题数增加到四倍，误差减半。要可靠地看出 1 个百分点，需要几千道题；在 500 道题上给只差半个百分点的模型排名，排的是噪声。

# %% [markdown] lang="en" part="real"
# ## Now open the real one
#
# - [`score_texts`](../src/glassbox/evaluation/perplexity.py): loss, perplexity and bits per byte with errors over documents; long texts in windows that score each token once.
# - [`mcnemar`](../src/glassbox/evaluation/paired.py), [`sign_flip`](../src/glassbox/evaluation/paired.py), [`holm`](../src/glassbox/evaluation/paired.py) for many tasks at once, and
#   [`detectable`](../src/glassbox/evaluation/paired.py): the smallest difference that so many items can show.
# - [`paired_difference`](../src/glassbox/evaluation/stats.py) and [`wilson_interval`](../src/glassbox/evaluation/stats.py), which holds at 0 and 100% too.
# - [`compare`](../src/glassbox/evaluation/comparison.py) puts two result folders side by side, with the items that flipped.
#
# `glassbox eval MODEL --tasks hellaswag` and `glassbox compare A B` do it; [the guide](../docs/guides/comparing.md) has a page as an example.

# %% [markdown] lang="zh" part="real"
# ## 打开真正的实现
#
# - [`score_texts`](../src/glassbox/evaluation/perplexity.py)：损失、困惑度和每字节比特数，误差按文档计算；长文本分窗口，每个词元只计一次。
# - [`mcnemar`](../src/glassbox/evaluation/paired.py)、[`sign_flip`](../src/glassbox/evaluation/paired.py)，多个任务一起时用 [`holm`](../src/glassbox/evaluation/paired.py)，
#   还有 [`detectable`](../src/glassbox/evaluation/paired.py)：这么多题最小能看出多大的差异。
# - [`paired_difference`](../src/glassbox/evaluation/stats.py) 与 [`wilson_interval`](../src/glassbox/evaluation/stats.py)，后者在 0 和 100% 时也成立。
# - [`compare`](../src/glassbox/evaluation/comparison.py) 把两个结果文件夹并列，列出答案改变的题目。
#
# 用 `glassbox eval MODEL --tasks hellaswag` 和 `glassbox compare A B` 完成这些；[指南](../docs/guides/comparing.md)里有示例页面。

# %%
from glassbox.evaluation.paired import detectable
from glassbox.evaluation.paired import mcnemar as real_mcnemar
from glassbox.evaluation.stats import paired_difference

ours, theirs = paired(a, b), paired_difference(b.tolist(), a.tolist())
print(
    f"difference {ours[0]:+.4f} and {theirs.value:+.4f}, error {ours[1]:.5f} and {theirs.standard_error:.5f}"
)
gained, lost = int(((b == 1) & (a == 0)).sum()), int(((b == 0) & (a == 1)).sum())
print(f"McNemar: {mcnemar(a, b):.6f} and {real_mcnemar(gained, lost):.6f}")
print("detectable:", detectable.__doc__.splitlines()[0])

# %% [markdown] lang="en" part="exercises"
# ## Exercises
#
# `glassbox lesson open 19` writes a file with the graded ones.
#
# <!-- exercise 19.1 -->
#
# <!-- exercise 19.2 -->
#
# <!-- exercise 19.3 -->
#
# **19.4 Clusters** Ten questions share one passage. Make a simulation in which a model understands a passage or does not, and compare the usual standard error with one over passages.

# %% [markdown] lang="zh" part="exercises"
# ## 练习
#
# `glassbox lesson open 19` 会生成一个文件，里面是可以自动评分的题目。
#
# <!-- exercise 19.1 -->
#
# <!-- exercise 19.2 -->
#
# <!-- exercise 19.3 -->
#
# **19.4 聚类** 十道题共用一篇短文。做一个模拟，模型要么读懂这篇短文，要么没读懂，比较通常的标准误和按短文计算的标准误。

# %% [markdown] lang="en" part="pitfalls"
# ## What goes wrong in practice
#
# - **Perplexities of different tokenizers** in one table.
# - **The mean of the documents' means**: a document of three tokens counts as much as a book. Sum losses, then divide by all tokens.
# - **A space in the wrong place**: "Answer: " followed by " Paris" scores a token that no text has. The space belongs to the option.
# - **The first token without a context** scored, or left out, by one of two models that are compared.
# - **The best of several checkpoints on the test set**: the maximum of noise is reported as progress.
# - **Few-shot examples drawn anew** at each run: two points up or down by the draw alone.
# - **Test items in the training text.** Look for long common passages before you believe a jump.

# %% [markdown] lang="zh" part="pitfalls"
# ## 实践中的坑
#
# - **把不同分词器的困惑度**放进一张表。
# - **对各文档的平均再取平均**：三个词元的文档与一本书分量相同。应先把损失加起来，再除以全部词元数。
# - **空格放错了地方**：“Answer: ”后面接“ Paris”，评分的词元在任何文本里都不会出现。空格应属于选项。
# - **没有上下文的第一个词元**，两个被比较的模型一个计分，一个不计。
# - **在测试集上挑最好的检查点**：噪声的最大值被当成进步。
# - **每次重新抽取少样本示例**：仅仅因为抽签就会上下两个百分点。
# - **测试题出现在训练文本里。** 相信突然的跃升之前，先查有没有长的相同片段。

# %% [markdown] lang="en" part="reading"
# ## Further reading
#
# - Miller, *Adding Error Bars to Evals*, [arXiv:2411.00640](https://arxiv.org/abs/2411.00640): clusters, pairs, power
# - Gao et al., the [lm-evaluation-harness](https://github.com/EleutherAI/lm-evaluation-harness): what is asked, exactly
# - Card et al., *With Little Power Comes Great Responsibility*, [arXiv:2010.06595](https://arxiv.org/abs/2010.06595)
# - [The guide to evaluation](../docs/guides/evaluation.md)

# %% [markdown] lang="zh" part="reading"
# ## 延伸阅读
#
# - Miller，*Adding Error Bars to Evals*，[arXiv:2411.00640](https://arxiv.org/abs/2411.00640)：聚类、配对、功效
# - Gao 等，[lm-evaluation-harness](https://github.com/EleutherAI/lm-evaluation-harness)：问的到底是什么
# - Card 等，*With Little Power Comes Great Responsibility*，[arXiv:2010.06595](https://arxiv.org/abs/2010.06595)
# - [评测指南](../docs/guides/evaluation.md)
