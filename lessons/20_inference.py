# %% [markdown] lang="en"
# # 20. Inference: cache, pages, batches, speculation

# %% [markdown] lang="zh"
# # 20. 推理：缓存、分页、批处理、投机解码

# %% [markdown] lang="en" part="question"
# ## The question
#
# Writing a token with the model of the last lessons means running the whole text through it again. A text of a thousand tokens costs half a million token passes, and most of them compute what was
# computed before. What can be kept, where does it fit, and can one pass give more than one token without changing what is written?

# %% [markdown] lang="zh" part="question"
# ## 问题
#
# 用前面几课的模型写一个词元，就要把整段文本重新过一遍。一千个词元的文本要算五十万个词元次，其中大部分以前都算过。
# 什么可以留下来，放在哪里，一次前向能不能给出不止一个词元，而写出的内容丝毫不变？

# %% [markdown] lang="en" part="idea"
# ## The idea
#
# **Cache.** Causal attention never changes the keys and values of earlier tokens. Keep them; a new token then needs one query, one key, one value, and reads the rest.
#
# **Pages.** How long a text will get is not known. Reserving room for the longest wastes most of it. So the cache is cut into blocks of some tokens, and each text has a table of its blocks, as a process has of its pages:
#
# ```
#   text A   table [0, 3]          block 0 |a a a a|  block 1 |b b . .|  block 2 | free |  block 3 |a a . .|
#   text B   table [1]             position 5 of A: table[5 // 4] = 3, place 5 % 4 = 1
# ```
#
# Texts that begin alike can share the blocks of the beginning, as long as nobody writes into them.
#
# **Speculation.** A pass over five tokens costs hardly more than one over one token, since the weights have to be read anyway. Let a cheap model guess four tokens, and let the large one judge all at once. A guess $x$ drawn from $q$ is accepted
# with probability
#
# $$\min\!\left(1, \frac{p(x)}{q(x)}\right), \qquad \text{else draw from } \frac{\max(0, p - q)}{\sum \max(0, p - q)}$$
#
# and what is written then has *exactly* the distribution $p$: accepted mass is $\min(p, q)$, and the rest of $p$ is what the second draw makes up for.

# %% [markdown] lang="zh" part="idea"
# ## 思路
#
# **缓存。** 因果注意力从不改变前面词元的键和值。把它们留下；新词元只需要一个查询、一个键、一个值，其余直接读。
#
# **分页。** 文本会有多长事先不知道，按最长的预留会浪费大半。于是把缓存切成每块若干词元，每段文本有一张自己的块表，就像进程有自己的页表：
#
# ```
#   text A   table [0, 3]          block 0 |a a a a|  block 1 |b b . .|  block 2 | free |  block 3 |a a . .|
#   text B   table [1]             A 的位置 5：table[5 // 4] = 3，块内第 5 % 4 = 1 个
# ```
#
# 开头相同的文本可以共用开头的块，只要没有人往里写。
#
# **投机解码。** 一次前向算五个词元，几乎不比算一个更贵，因为权重反正要读一遍。让便宜的模型猜四个词元，大模型一次全部裁判。从 $q$ 抽出的猜测 $x$ 以如下概率接受：
#
# $$\min\!\left(1, \frac{p(x)}{q(x)}\right), \qquad \text{else draw from } \frac{\max(0, p - q)}{\sum \max(0, p - q)}$$
#
# 这样写出的内容*恰好*服从分布 $p$：被接受的概率质量是 $\min(p, q)$，$p$ 剩下的部分正好由第二次抽样补上。

# %% [markdown] lang="en" part="code"
# ## The same numbers, from a cache
#
# One layer of attention with random weights. We run a text whole, and then token by token with a cache; the outputs must agree at every position.

# %% [markdown] lang="zh" part="code"
# ## 用缓存得到同样的数
#
# 一层随机权重的注意力。先把文本整段过一遍，再带着缓存逐个词元地过；每个位置的输出都必须一致。

# %%
import math
import os

import matplotlib.pyplot as plt
import torch
from torch import Tensor

torch.manual_seed(0)
TEST_SIZE = os.environ.get("GLASSBOX_LESSON_SIZE") == "test"
DRAWS = 3_000 if TEST_SIZE else 30_000
SIZE, LENGTH = 16, 12
WQ, WK, WV = torch.randn(3, SIZE, SIZE) / SIZE**0.5


def whole(x: Tensor) -> Tensor:
    """x (T, D): all positions at once."""
    q, k, v = x @ WQ, x @ WK, x @ WV
    scores = (q @ k.T / SIZE**0.5).masked_fill(
        torch.ones(len(x), len(x), dtype=torch.bool).triu(1), -math.inf
    )
    return scores.softmax(-1) @ v


def step(x: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """x (D): one new token; its key and value join the cache."""
    keys.append(x @ WK)
    values.append(x @ WV)
    scores = torch.stack(keys) @ (x @ WQ) / SIZE**0.5
    return scores.softmax(-1) @ torch.stack(values)


text = torch.randn(LENGTH, SIZE)
keys, values = [], []
stepped = torch.stack([step(x, keys, values) for x in text])
print(f"whole and step by step differ by {(whole(text) - stepped).abs().max():.1e}")
for n in (100, 1000, 10000):
    print(f"{n:6} tokens: {n * (n + 1) // 2:12,} token passes without a cache, {n:6,} with one")

# %% [markdown] lang="en"
# ## Pages
#
# The cache is now one array for all texts. A text knows its blocks alone. Note that the blocks of a text need not lie side by side, and that attention does not care.

# %% [markdown] lang="zh"
# ## 分页
#
# 现在缓存是所有文本共用的一个数组，文本只知道自己的块。注意一段文本的块不必相邻，而注意力毫不在意。

# %%
BLOCK, NUM_BLOCKS = 4, 10


class Pool:
    """Keys and values of all texts, in blocks; how often each block is used."""

    def __init__(self) -> None:
        self.keys, self.values = torch.zeros(2, NUM_BLOCKS, BLOCK, SIZE)
        self.used = [0] * NUM_BLOCKS

    def take(self) -> int:
        block = self.used.index(0)  # raises where none is free: the scheduler has to know before
        self.used[block] = 1
        return block


class Text:
    def __init__(self, pool: Pool, shared: list[int] = ()):
        self.pool, self.table, self.length = pool, list(shared), BLOCK * len(shared)
        for block in shared:
            pool.used[block] += 1

    def step(self, x: Tensor) -> Tensor:
        if self.length % BLOCK == 0:  # the last block is full
            self.table.append(self.pool.take())
        block, place = self.table[self.length // BLOCK], self.length % BLOCK
        self.pool.keys[block, place], self.pool.values[block, place] = x @ WK, x @ WV
        self.length += 1
        k = self.pool.keys[self.table].flatten(0, 1)[: self.length]  # gathered by the table
        v = self.pool.values[self.table].flatten(0, 1)[: self.length]
        return (k @ (x @ WQ) / SIZE**0.5).softmax(-1) @ v


pool = Pool()
first, other = Text(pool), Text(pool)
outputs = []
for x in text[:10]:
    outputs.append(first.step(x))
    other.step(torch.randn(SIZE))  # grows between, so that blocks of both texts alternate
print("blocks of the first text:", first.table, " of the other:", other.table)
print(f"paged and whole differ by {(torch.stack(outputs) - whole(text[:10])).abs().max():.1e}")

branch = Text(pool, shared=first.table[:2])  # the same first 8 tokens, then others
change = torch.cat([text[:8], torch.randn(2, SIZE)])
outputs = [branch.step(x) for x in change[8:]]
print(
    f"a branch uses blocks {branch.table}: {(torch.stack(outputs) - whole(change)[8:]).abs().max():.1e} off, and only one block is new"
)

# %% [markdown] lang="en"
# ## How many fit?
#
# Requests of unlike length, in a memory of 16,384 tokens. Whoever reserves the longest possible length for each fits few; with blocks only the last block of each text is partly empty.

# %% [markdown] lang="zh"
# ## 能装下多少
#
# 长短不一的请求，内存能放 16,384 个词元。给每个请求按最长预留，装不了几个；用块的话，每段文本只有最后一块有空余。

# %%
generator = torch.Generator().manual_seed(1)
wanted = (torch.distributions.LogNormal(5.5, 0.8).sample((400,))).clamp(16, 2048).long()
memory, longest = 16_384, 2048


def fits(cost: Tensor) -> int:
    return int((cost.cumsum(0) <= memory).sum())


found = {"reserved": fits(torch.full_like(wanted, longest))}
for block in (256, 64, 16, 1):
    found[f"blocks of {block}"] = fits((wanted + block - 1) // block * block)
for name, count in found.items():
    print(
        f"{name:14} {count:3} requests at a time, {100 * float(wanted[:count].sum()) / memory:4.0f}% of the memory holds tokens"
    )

# %% alt_en="Bar chart of requests that fit at a time: 8 with reserved room, more than five times as many with blocks, the more the smaller the blocks." alt_zh="同时能容纳的请求数柱状图：预留空间时为 8 个，用块时是其五倍以上，块越小越多。"
figure, axis = plt.subplots(figsize=(6, 2.6), layout="constrained")
axis.bar(list(found), list(found.values()), color="#0b7a70")
axis.set(ylabel="requests at a time")
plt.show()

# %% [markdown] lang="en"
# With pages, requests also come and go between two steps: whoever is finished gives its blocks back, and the next in the queue begins. Lesson 22 shows what that does to a server, and exercise 22.3 lets you write it.
#
# ## Speculation that changes nothing
#
# The target $p$ and a draft $q$ that is only roughly like it. We draw guesses, judge them by the rule, and count what is written.

# %% [markdown] lang="zh"
# 有了分页，请求还能在两步之间来去：写完的归还自己的块，队列里的下一个立刻开始。第 22 课会看到这对服务器意味着什么，练习 22.3 让你亲手写。
#
# ## 什么都不改变的投机
#
# 目标分布 $p$，以及一个只是大致相似的草稿 $q$。我们抽出猜测，按规则裁判，再统计写出了什么。


# %%
def judge(guess: int, p: Tensor, q: Tensor, generator: torch.Generator) -> tuple[int, bool]:
    """The token that is written, and whether it is the guess."""
    if torch.rand((), generator=generator) < p[guess] / q[guess]:
        return guess, True
    rest = (p - q).clamp(min=0)
    return int(torch.multinomial(rest, 1, generator=generator)), False


p = torch.tensor([0.40, 0.30, 0.15, 0.10, 0.05])
q = torch.tensor([0.20, 0.50, 0.10, 0.05, 0.15])
generator = torch.Generator().manual_seed(2)
guesses = torch.multinomial(q, DRAWS, replacement=True, generator=generator).tolist()
judged = [judge(guess, p, q, generator) for guess in guesses]
written = torch.bincount(torch.tensor([token for token, _ in judged]), minlength=5) / DRAWS
accepted = sum(ok for _, ok in judged) / DRAWS
error = float(((written - p).abs() / (p * (1 - p) / DRAWS).sqrt()).max())
print(
    "written:",
    [round(x, 3) for x in written.tolist()],
    f"the target's shares to {error:.1f} standard errors",
)
print(f"accepted {accepted:.3f}; sum of min(p, q) = {float(torch.minimum(p, q).sum()):.3f}")
for share in (0.5, 0.7, 0.9):
    line = ", ".join(f"{k}: {(1 - share ** (k + 1)) / (1 - share):.2f}" for k in (1, 2, 4, 8))
    print(f"acceptance {share:.1f}: tokens a pass with this many guesses  {line}")

# %% [markdown] lang="en"
# With acceptance $a$ and $k$ guesses a pass writes $1 + a + \dots + a^k = \frac{1 - a^{k+1}}{1 - a}$ tokens: at least one, since a rejected guess still yields a draw.

# %% [markdown] lang="zh"
# 接受率为 $a$、猜 $k$ 个时，一次前向写出 $1 + a + \dots + a^k = \frac{1 - a^{k+1}}{1 - a}$ 个词元：至少一个，因为猜测被拒时仍会抽出一个。

# %% alt_en="Bars of the target, the draft and what was written for five tokens: what was written equals the target although the draft differs." alt_zh="五个词元上目标、草稿与实际写出的比例的柱状图：草稿虽不同，写出的却与目标一致。"
figure, axis = plt.subplots(figsize=(6, 2.6), layout="constrained")
for number, (name, shares) in enumerate((("target p", p), ("draft q", q), ("written", written))):
    axis.bar([token + 0.27 * number for token in range(5)], shares, width=0.27, label=name)
axis.set(xlabel="token", ylabel="share", xticks=range(5))
axis.legend(frameon=False)
plt.show()

# %% [markdown] lang="en" part="real"
# ## Now open the real one
#
# - [`generate_plain`](../src/glassbox/inference/plain.py) runs the whole text for every token: the oracle of all that follows.
# - [`BlockManager`](../src/glassbox/inference/block_manager.py) hands out blocks and finds shared beginnings by a key over all tokens so far ([`block_key`](../src/glassbox/inference/block_manager.py)); pure Python, knows no tensors.
# - [`Scheduler`](../src/glassbox/inference/scheduler.py) decides who runs in a step, and preempts who no longer fits; [`Engine`](../src/glassbox/inference/engine.py) is schedule, run, postprocess.
# - [`SpeculativeDecoder`](../src/glassbox/inference/speculation/verification.py) goes a step further than the rule above: it draws from the target with the very random number that the position would have had anyway, and accepts a guess where both are the
#   same token. So a seed gives the same text with guesses and without.
# - [`DraftModel`](../src/glassbox/inference/speculation/draft_model.py) guesses by a smaller model, [`NgramProposer`](../src/glassbox/inference/speculation/proposers.py) by what followed the last words earlier in the text.

# %% [markdown] lang="zh" part="real"
# ## 打开真正的实现
#
# - [`generate_plain`](../src/glassbox/inference/plain.py) 每个词元都把整段文本过一遍：它是后面一切的对照基准。
# - [`BlockManager`](../src/glassbox/inference/block_manager.py) 分发块，并用覆盖前面所有词元的键（[`block_key`](../src/glassbox/inference/block_manager.py)）找到共同的开头；纯 Python，不碰张量。
# - [`Scheduler`](../src/glassbox/inference/scheduler.py) 决定一步里谁来运行，放不下时抢占；[`Engine`](../src/glassbox/inference/engine.py) 就是调度、运行、后处理。
# - [`SpeculativeDecoder`](../src/glassbox/inference/speculation/verification.py) 比上面的规则更进一步：它用这个位置本来就要用的那个随机数从目标分布抽样，猜测与之相同就接受。
#   因此同一个种子，有没有猜测，文本都一样。
# - [`DraftModel`](../src/glassbox/inference/speculation/draft_model.py) 用较小的模型来猜，[`NgramProposer`](../src/glassbox/inference/speculation/proposers.py) 则看最后几个词在前文出现时后面跟了什么。

# %%
import glassbox
from glassbox.inference.plain import generate_plain
from glassbox.inference.speculation.proposers import NgramProposer

torch.manual_seed(0)
shape = glassbox.LlamaShape(
    hidden_size=32, num_layers=2, num_heads=4, ffn_size=64, context_length=64
)
model = glassbox.CausalLM(shape.config(40)).eval()
prompt = [5, 9, 7, 5, 9, 7, 5, 9]
params = glassbox.SamplingParams(max_tokens=16, seed=3)
plain = generate_plain(model, prompt, params)
for name, options in (
    ("cache and pages", {}),
    ("guesses by n-grams", {"proposer": NgramProposer(), "num_drafts": 4}),
):
    engine = glassbox.Engine(model, **options)
    (completion,) = engine.generate([prompt], params)
    print(f"{name:19} the same 16 tokens as without a cache: {completion.token_ids == plain}")

# %% [markdown] lang="en" part="exercises"
# ## Exercises
#
# `glassbox lesson open 20` writes a file with the graded ones.
#
# <!-- exercise 20.1 -->
#
# <!-- exercise 20.2 -->
#
# <!-- exercise 20.3 -->
#
# **20.4 When does guessing pay?** Suppose a guess costs 0.1 of a pass of the large model. For acceptance 0.6, 0.8 and 0.95, how many guesses give the most tokens for the time?

# %% [markdown] lang="zh" part="exercises"
# ## 练习
#
# `glassbox lesson open 20` 会生成一个文件，里面是可以自动评分的题目。
#
# <!-- exercise 20.1 -->
#
# <!-- exercise 20.2 -->
#
# <!-- exercise 20.3 -->
#
# **20.4 什么时候值得猜** 假设猜一个词元的代价是大模型一次前向的 0.1。接受率为 0.6、0.8、0.95 时，各猜几个单位时间写得最多？

# %% [markdown] lang="en" part="pitfalls"
# ## What goes wrong in practice
#
# - **Positions that begin anew at the first new token**: rotary angles then belong to position 0, and the text gets worse from the second token on.
# - **Keys cached before the norm or the rotation** in one place, and behind it in another.
# - **Shared blocks that are written to**: the first text changes when the second goes on. Share full blocks only, or copy before writing.
# - **A prefix found by its own tokens alone**: the same 16 tokens behind another beginning have other keys. The block's key must cover everything before it.
# - **Greedy acceptance for sampling** ("accept if it is the likeliest"): the text becomes duller, and nobody notices at once.
# - **Rejected guesses that stay in the cache**: later tokens attend to words that were never written.
# - **Room for the prompt but not for the answer**: two half-written texts that both wait for a block, for ever. One has to be preempted.

# %% [markdown] lang="zh" part="pitfalls"
# ## 实践中的坑
#
# - **位置从第一个新词元重新数起**：旋转角度变成了位置 0 的，从第二个词元起文本越来越差。
# - **键缓存的时机不一致**：一处在归一化或旋转之前，另一处在之后。
# - **共用的块被写入**：第二段文本继续写，第一段就变了。只共用写满的块，或者写之前先复制。
# - **只按块自己的词元查找前缀**：同样的 16 个词元，前面不同，键也就不同。块的键必须覆盖它之前的一切。
# - **采样时按贪心来接受**（“是最可能的就接受”）：文本变得更无趣，而且一时看不出来。
# - **被拒的猜测还留在缓存里**：后面的词元会注意到从未写出的词。
# - **只给提示词留了位置，没给回答留**：两段写到一半的文本互相等一个块，永远等下去。必须抢占其中一个。

# %% [markdown] lang="en" part="reading"
# ## Further reading
#
# - Kwon et al., *Efficient Memory Management for Large Language Model Serving with PagedAttention*, [arXiv:2309.06180](https://arxiv.org/abs/2309.06180)
# - Leviathan et al., *Fast Inference from Transformers via Speculative Decoding*, [arXiv:2211.17192](https://arxiv.org/abs/2211.17192)
# - Chen et al., *Accelerating Large Language Model Decoding with Speculative Sampling*, [arXiv:2302.01318](https://arxiv.org/abs/2302.01318)
# - [The guide to inference](../docs/guides/inference.md)

# %% [markdown] lang="zh" part="reading"
# ## 延伸阅读
#
# - Kwon 等，*Efficient Memory Management for Large Language Model Serving with PagedAttention*，[arXiv:2309.06180](https://arxiv.org/abs/2309.06180)
# - Leviathan 等，*Fast Inference from Transformers via Speculative Decoding*，[arXiv:2211.17192](https://arxiv.org/abs/2211.17192)
# - Chen 等，*Accelerating Large Language Model Decoding with Speculative Sampling*，[arXiv:2302.01318](https://arxiv.org/abs/2302.01318)
# - [推理指南](../docs/guides/inference.md)
