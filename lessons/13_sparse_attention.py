# %% [markdown] lang="en"
# # 13. Sparse attention

# %% [markdown] lang="zh"
# # 13. 稀疏注意力

# %% [markdown] lang="en" part="question"
# ## The question
#
# At a context of 65,536 tokens every new token meets 65,536 keys, and nearly all of its weights are close to zero. Which keys can be
# left out, and how can a layer know that before it has computed their scores?

# %% [markdown] lang="zh" part="question"
# ## 问题
#
# 上下文长到 65,536 个词元时，每生成一个词元都要与 65,536 个键做点积，而绝大多数权重都接近零。
# 哪些键可以不算？在算出分数之前，又怎么知道可以不算？

# %% [markdown] lang="en" part="idea"
# ## The idea
#
# Query t attends to a **set** $\mathcal{S}_t$ of earlier positions instead of to all of them:
#
# $$o_t = \sum_{s \in \mathcal{S}_t} \frac{\exp(q_t \cdot k_s / \sqrt{D})}{\sum_{r \in \mathcal{S}_t} \exp(q_t \cdot k_r / \sqrt{D})}\, v_s$$
#
# The methods differ in who chooses the set:
#
# ```
#   window    . . . . . . . . . . . . # # # #    the last W keys, whatever they are
#
#   NSA       [  m0  ][  m1  ][  m2  ][  m3  ]   1. attend to one summary for each block
#              # # # #          # # # #          2. attend to all keys of the blocks that got most weight
#                                  . # # # #     3. a window; three gates add up the three results
#
#   DSA       . # . . # . . . . # # . . . # #    a small indexer scores every key; the k best are read
# ```
#
# A **window** costs nothing to choose, and what lies outside it is lost to this layer. **NSA** (native sparse attention) finds blocks by attention to their
# summaries, so a query reads T / d summaries instead of T keys. **DSA** (DeepSeek sparse attention) looks at every key, but with a few small
# heads at low precision, and reads in full only those that it picks.

# %% [markdown] lang="zh" part="idea"
# ## 思路
#
# 查询 t 不再关注之前的全部位置，只关注其中一个**子集** $\mathcal{S}_t$：
#
# $$o_t = \sum_{s \in \mathcal{S}_t} \frac{\exp(q_t \cdot k_s / \sqrt{D})}{\sum_{r \in \mathcal{S}_t} \exp(q_t \cdot k_r / \sqrt{D})}\, v_s$$
#
# 各种方法的区别在于由谁来选这个子集：
#
# ```
#   窗口      . . . . . . . . . . . . # # # #    最后 W 个键，不管内容
#
#   NSA       [  m0  ][  m1  ][  m2  ][  m3  ]   1. 先关注每个块的摘要
#              # # # #          # # # #          2. 再关注得分最高的几个块里的全部键
#                                  . # # # #     3. 外加一个窗口；三个门控把三路结果加起来
#
#   DSA       . # . . # . . . . # # . . . # #    小型索引器给每个键打分，只读取最好的 k 个
# ```
#
# **窗口**的选择不花任何代价，但窗口之外的内容，这一层就看不到了。**NSA**（原生稀疏注意力）通过关注块的摘要来找块，
# 每个查询只读 T / d 个摘要，而不是 T 个键。**DSA**（DeepSeek 稀疏注意力）每个键都看，
# 但只用几个低精度的小头去看，选中的才完整读取。

# %% [markdown] lang="en" part="code"
# ## A text that returns to its topics
#
# To compare the three we need attention whose weights are not all near the query. We write documents of short paragraphs, each about one of
# twelve topics, which come back later; a token's vector is its topic's plus noise. Queries and keys match within a topic. Four query heads
# share one key/value head, as in [lesson 5](05_attention.py).

# %% [markdown] lang="zh" part="code"
# ## 一段反复回到旧话题的文本
#
# 要比较这三种方法，注意力的权重就不能全集中在查询附近。我们造一些由短段落组成的文档，每段属于十二个话题之一，话题之后还会再出现；
# 词元的向量等于话题向量加噪声，同一话题的查询与键相互匹配。四个查询头共用一个键值头，与[第 5 课](05_attention.py)一样。

# %%
import math
import os

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

torch.manual_seed(0)
TEST_SIZE = os.environ.get("GLASSBOX_LESSON_SIZE") == "test"

T, D, HEADS, TOPICS = 256, 32, 4, 12
CENTRES = torch.randn(TOPICS, D)
TURNS = torch.eye(D) + 0.05 * torch.randn(HEADS, D, D)  # each query head looks a little differently


def write_document(seed: int) -> tuple[Tensor, Tensor]:
    """Hidden states (T, D) and the topic of every token (T)."""
    draw = torch.Generator().manual_seed(seed)
    topics: list[int] = []
    while len(topics) < T:
        topic, length = (
            torch.randint(TOPICS, (), generator=draw),
            6 + torch.randint(14, (), generator=draw),
        )
        topics += [int(topic)] * int(length)
    number = torch.tensor(topics[:T])
    return CENTRES[number] + 0.5 * torch.randn(T, D, generator=draw), number


def project(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q (H, T, D), k (T, D), v (T, D)."""
    return x @ TURNS, x, x.roll(1, dims=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, see: Tensor) -> tuple[Tensor, Tensor]:
    """Output and weights; see (T, S) is True where a query may look. Rows that may look nowhere give zeros."""
    scores = (q @ k.T / math.sqrt(q.shape[-1])).masked_fill(~see, -math.inf)
    weights = scores.softmax(dim=-1).nan_to_num(0.0)  # (H, T, S)
    return weights @ v, weights


x, topics = write_document(seed=1)
q, k, v = project(x)
causal = torch.ones(T, T, dtype=torch.bool).tril()
dense, weights = attend(q, k, v, causal)
mass = weights.mean(0)  # (T, T), over heads
late = mass[T // 2 :]
for count in (8, 32, 64):
    best = late.topk(count).values.sum(-1).mean()
    near = torch.stack([row[max(0, t + 1 - count) : t + 1].sum() for t, row in enumerate(mass)])
    print(
        f"{count:3} keys of {T}: the best hold {best:.0%} of the weight, the nearest {near[T // 2 :].mean():.0%}"
    )

# %% [markdown] lang="en"
# So a few keys do hold nearly everything, but they are not the nearest ones. Someone has to find them.
#
# ## NSA: blocks found by their summaries
#
# For simplicity a summary here is the mean of a block's keys (or values), blocks do not overlap, and blocks to summarize and blocks to select
# are the same. The paper learns the summary with a small MLP, lets summaries overlap, and gives each branch its own keys and values.
#
# The causal rule has a new form. A summary contains all tokens of its block, so a query may see it only **when the block is complete**: the
# block's last position must not be after the query.

# %% [markdown] lang="zh"
# 可见少数几个键确实占了几乎全部权重，但它们并不是最近的那些。总得有人把它们找出来。
#
# ## NSA：靠摘要找块
#
# 为简单起见，这里的摘要就是块内各键（或值）的平均，块与块不重叠，用来压缩的块和用来选择的块相同。
# 论文中的摘要由一个小 MLP 学出来，摘要之间有重叠，三个分支各有自己的键和值。
#
# 因果约束在这里有了新的形式：摘要包含了块内所有词元，因此**块完整之后**查询才能看它，也就是块的最后一个位置不能在查询之后。


# %%
def summarize(x: Tensor, block: int) -> Tensor:
    """(T, D) to (C, D): the mean of every complete block."""
    whole = len(x) // block
    return x[: whole * block].view(whole, block, -1).mean(dim=1)


def compressed(q: Tensor, k: Tensor, v: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Attention to the summaries of complete blocks: output (H, T, D), weights (H, T, C)."""
    keys, values = summarize(k, block), summarize(v, block)
    last = torch.arange(1, len(keys) + 1) * block - 1
    return attend(q, keys, values, last <= torch.arange(q.shape[1])[:, None])


def select(importance: Tensor, block: int, count: int) -> Tensor:
    """Which blocks each query reads, (T, blocks): the first, its own, and those of highest importance (T, C)."""
    length = len(importance)
    blocks = math.ceil(length / block)
    number, own = torch.arange(blocks), torch.arange(length)[:, None] // block
    scores = F.pad(importance, (0, blocks - importance.shape[1]))
    scores = scores.masked_fill((number == 0) | (number == own), math.inf)
    scores = scores.masked_fill(number > own, -math.inf)
    order = scores.sort(dim=-1, descending=True, stable=True).indices[:, :count]
    return torch.zeros(length, blocks, dtype=torch.bool).scatter(1, order, True) & (number <= own)


def block_mask(chosen: Tensor, block: int) -> Tensor:
    """Blocks (T, blocks) as keys (T, T), none of them after the query."""
    length = len(chosen)
    return (
        chosen.repeat_interleave(block, dim=1)[:, :length]
        & torch.ones(length, length, dtype=torch.bool).tril()
    )


def window_mask(length: int, window: int) -> Tensor:
    see = torch.ones(length, length, dtype=torch.bool)
    return see.tril() & see.triu(1 - window)


def nsa(
    q: Tensor, k: Tensor, v: Tensor, gates: Tensor, block: int, count: int, window: int
) -> Tensor:
    """gates (H, T, 3), each between 0 and 1."""
    coarse, weights = compressed(q, k, v, block)
    chosen = select(
        weights.sum(0).detach(), block, count
    )  # summed over heads: they share keys, so they share blocks
    fine, _ = attend(q, k, v, block_mask(chosen, block))
    near, _ = attend(q, k, v, window_mask(len(k), window))
    return (torch.stack((coarse, fine, near), dim=-1) * gates[..., None, :]).sum(-1)


BLOCK = 8
gates = torch.rand(HEADS, T, 3)
chosen = select(compressed(q, k, v, BLOCK)[1].sum(0), BLOCK, 4)
print(
    "query 150 is about topic",
    int(topics[150]),
    "and reads the blocks",
    chosen[150].nonzero().flatten().tolist(),
)
print(
    "whose topics are",
    [
        sorted(set(topics[b * BLOCK : (b + 1) * BLOCK].tolist()))
        for b in chosen[150].nonzero().flatten()
    ],
)

all_blocks, _ = attend(
    q, k, v, block_mask(select(compressed(q, k, v, BLOCK)[1].sum(0), BLOCK, T), BLOCK)
)
print(f"all blocks selected: {(all_blocks - dense).abs().max():.1e} from dense attention")
print(f"window of T:         {(attend(q, k, v, window_mask(T, T))[0] - dense).abs().max():.1e}")

other = x.clone()
other[100] = torch.randn(D)
moved = (nsa(*project(other), gates, BLOCK, 4, 16) - nsa(q, k, v, gates, BLOCK, 4, 16)).abs().amax(
    (0, 2)
) > 0
print("changing token 100 first changes the output at", int(moved.nonzero()[0]))

# %% [markdown] lang="en"
# Three checks: with everything selected the branches are dense attention to the last digit, and the future stays unseen. A summary of an
# incomplete block breaks the third: token 100 lies in block 12, positions 96 to 103, and query 96 would move.
#
# Why are blocks chosen **per group of heads**? Heads that share keys load them together. If each of four heads chose blocks of its own, up to four times as many keys would be read
# from memory, and memory traffic is what limits decoding.
#
# ## DSA: a small indexer
#
# The indexer has a few heads of a few dimensions, and one key per token for all of them:
#
# $$I_{ts} = \sum_{j} w_{tj}\, \mathrm{ReLU}(q^I_{tj} \cdot k^I_s)$$
#
# The k keys with the highest $I_{ts}$ are read. Choosing the top k passes no gradient, so the language model's loss cannot train the
# indexer. It gets a loss of its own: its softmax should be the main attention's weights, averaged over heads, $p_t$:
#
# $$\mathcal{L}_I = \sum_t \mathrm{KL}\big(p_t \,\|\, \mathrm{softmax}(I_t)\big)$$

# %% [markdown] lang="zh"
# 三项检查：全部选中时，两个分支与稠密注意力完全一致；未来仍然看不见。若摘要用了不完整的块，第三项就通不过：
# 第 100 个词元在第 12 块（位置 96 到 103），查询 96 的输出就会变。
#
# 为什么要**按头的分组**来选块？共用键的头会一起读取这些键。若四个头各选各的块，要从内存读取的键最多会变成四倍，
# 而解码的瓶颈正是访存。
#
# ## DSA：小型索引器
#
# 索引器只有几个头，每个头只有几维，所有头共用每个词元的一个键：
#
# $$I_{ts} = \sum_{j} w_{tj}\, \mathrm{ReLU}(q^I_{tj} \cdot k^I_s)$$
#
# 读取 $I_{ts}$ 最高的 k 个键。取 top-k 这一步不传梯度，语言模型的损失因此训练不了索引器。它有自己的损失：
# 让它的 softmax 去逼近主注意力在各头上平均的权重 $p_t$：
#
# $$\mathcal{L}_I = \sum_t \mathrm{KL}\big(p_t \,\|\, \mathrm{softmax}(I_t)\big)$$


# %%
class Indexer(nn.Module):
    def __init__(self, heads: int = 4, size: int = 8):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.w = nn.Linear(D, heads * size), nn.Linear(D, size), nn.Linear(D, heads)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (T, T) of hidden states (T, D)."""
        q = self.q(x).view(len(x), self.heads, -1)
        products = torch.einsum("tjd,sd->tjs", q, self.k(x)).relu()
        return torch.einsum("tj,tjs->ts", self.w(x), products)


def highest(scores: Tensor, count: int) -> Tensor:
    """True at the `count` best keys of each query's past, all of them where there are fewer."""
    hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
    order = scores.masked_fill(hidden, -math.inf).topk(min(count, scores.shape[1])).indices
    return torch.zeros_like(hidden).scatter(1, order, True) & ~hidden


indexer = Indexer()
STEPS = 120 if TEST_SIZE else 600
optimizer = torch.optim.Adam(indexer.parameters(), lr=1e-2)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
for step in range(1, STEPS + 1):
    hidden, _ = write_document(seed=1000 + step)
    target = attend(*project(hidden), causal)[1].mean(
        0
    )  # the main attention: nothing flows back into it
    guess = (
        indexer(hidden).masked_fill(~causal, -math.inf).log_softmax(-1).masked_fill(~causal, 0.0)
    )
    loss = (torch.special.xlogy(target, target) - target * guess).sum(-1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    if step % (STEPS // 3) == 0:
        print(f"step {step:4}: KL {loss.item():.3f} nats")

new, new_topics = write_document(seed=2)
new_q, new_k, new_v = project(new)
with torch.no_grad():
    scores = indexer(new)
everything, _ = attend(new_q, new_k, new_v, highest(scores, T))
print(
    f"k = T: {(everything - attend(new_q, new_k, new_v, causal)[0]).abs().max():.1e} from dense attention"
)

indexer.zero_grad()
leaf = (
    new.clone().requires_grad_()
)  # a loss on the output reaches the hidden states, but not the indexer
attend(*project(leaf), highest(indexer(leaf), 32))[0].square().sum().backward()
print(
    f"gradient of the hidden states {leaf.grad.norm():.0f}, of the indexer's keys {indexer.k.weight.grad}"
)

# %% [markdown] lang="en"
# ## What each finds
#
# On a document that no one has trained on: how much of the dense attention's weight lies on the keys that were read? (With 16 keys NSA has two
# blocks, the first and the query's own, and nothing to choose.)

# %% [markdown] lang="zh"
# ## 各自找到了什么
#
# 换一篇没有训练过的文档：稠密注意力的权重，有多少落在被读取的键上？（只读 16 个键时，NSA 只有两个块：第一块和查询自己的块，没有选择余地。）

# %%
new_weights = attend(new_q, new_k, new_v, causal)[1].mean(0)
importance = compressed(new_q, new_k, new_v, BLOCK)[1].sum(0)
counts = (16, 32, 64, 128)


def kept(see: Tensor) -> float:
    """Share of the weight on keys that are seen, for the document's second half."""
    return (new_weights * see).sum(-1)[T // 2 :].mean().item()


found = {
    "best possible": [kept(highest(new_weights, n)) for n in counts],
    "indexer (DSA)": [kept(highest(scores, n)) for n in counts],
    "blocks (NSA)": [
        kept(block_mask(select(importance, BLOCK, n // BLOCK), BLOCK)) for n in counts
    ],
    "window": [kept(window_mask(T, n)) for n in counts],
}
print("keys read      ", "".join(f"{n:>8}" for n in counts))
for name, shares in found.items():
    print(f"{name:15}", "".join(f"{share:8.0%}" for share in shares))

# %% alt_en="Three square masks of 256 queries by 256 keys with 32 keys read in each row: a window is a thin band along the diagonal; NSA shows vertical pieces of eight keys, DSA single keys, both far from the diagonal where earlier paragraphs have the same topic. A fourth panel shows the share of weight kept against keys read: the indexer is close to the best possible, blocks follow, the window is far below." alt_zh="三幅 256 个查询乘 256 个键的掩码图，每行读取 32 个键：窗口是贴着对角线的一条窄带；NSA 是一段段八个键，DSA 是零散的单个键，二者都远离对角线，落在更早的同话题段落上。第四幅是保留的权重比例随读取键数的变化：索引器接近最优，块选择次之，窗口低得多。"
figure, axes = plt.subplots(1, 4, figsize=(11.5, 3.1), layout="constrained")
masks = {
    "window": window_mask(T, 32),
    "blocks (NSA)": block_mask(select(importance, BLOCK, 4), BLOCK),
    "indexer (DSA)": highest(scores, 32),
}
for axis, (name, mask) in zip(axes[:3], masks.items(), strict=True):
    axis.imshow(mask, cmap="Blues", interpolation="nearest")
    axis.set(title=f"{name}, 32 keys", xlabel="key", ylabel="query")
for name, shares in found.items():
    axes[3].plot(counts, shares, marker="o", label=name)
axes[3].set(title="weight kept", xlabel="keys read", ylim=(0, 1.02), xticks=counts)
axes[3].legend(fontsize=8)
plt.show()

# %% [markdown] lang="en"
# ## What it costs
#
# Keys read by one new token, with the sizes of the papers. For NSA: summaries of 32 tokens, one every 16; 16 blocks of 64; a window of 512. These are
# the numbers of the paper's table 4. DSA reads 2,048 keys in full, and every key once more in the indexer, which is small: the cost is still
# linear in the context, with a smaller factor.

# %% [markdown] lang="zh"
# ## 代价如何
#
# 用论文里的配置，算一算一个新词元要读多少个键。NSA：摘要长 32、每隔 16 个词元一个，选 16 个长 64 的块，窗口 512；
# 结果与论文表 4 一致。DSA 完整读取 2,048 个键，另外索引器要把每个键看一遍，但它很小：
# 代价仍随上下文线性增长，只是系数小得多。


# %%
def keys_read(context: int) -> dict[str, int]:
    return {
        "dense": context,
        "window": min(context, 4096),
        "NSA": context // 16 + 16 * 64 + 512,
        "DSA": min(context, 2048),
    }


published = {8192: 2048, 16384: 2560, 32768: 3584, 65536: 5632}
for context, paper in published.items():
    read = keys_read(context)
    print(
        f"{context:6} tokens: "
        + "  ".join(f"{name} {n:6,}" for name, n in read.items())
        + f"   NSA in the paper {paper:,}"
    )
    assert read["NSA"] == paper

# %% [markdown] lang="en" part="real"
# ## Now open the real one
#
# - [`native_sparse_plain`](../src/glassbox/ops/native_sparse.py) is NSA query by query, equations 5 to 12 of the paper: overlapping summaries,
#   selection blocks that are larger than summaries. [`compressed_attention`](../src/glassbox/ops/native_sparse.py) computes it without ever
#   holding all scores.
# - [`selected_attention`](../src/glassbox/ops/selected_blocks.py) multiplies each block with all queries that chose it, instead of masking a
#   T by T table as we did: our masks show what is read, but save no time.
# - [`index_scores`](../src/glassbox/ops/indexer.py), [`choose`](../src/glassbox/ops/indexer.py) and
#   [`indexer_divergence`](../src/glassbox/ops/indexer.py) are the indexer, its choice in pieces, and its loss.
# - [`NativeSparseAttention`](../src/glassbox/layers/native_sparse.py) and [`IndexerLayer`](../src/glassbox/layers/indexer.py) are the layers.

# %% [markdown] lang="zh" part="real"
# ## 打开真正的实现
#
# - [`native_sparse_plain`](../src/glassbox/ops/native_sparse.py) 逐个查询地实现 NSA，对应论文公式 5 到 12：摘要可以重叠，
#   选择块可以大于摘要块。[`compressed_attention`](../src/glassbox/ops/native_sparse.py) 计算同样的结果，但从不保存全部分数。
# - [`selected_attention`](../src/glassbox/ops/selected_blocks.py) 让每个块与所有选中它的查询相乘，而不是像我们这样在 T 乘 T 的表上加掩码：
#   我们的掩码只展示读了什么，并不省时间。
# - [`index_scores`](../src/glassbox/ops/indexer.py)、[`choose`](../src/glassbox/ops/indexer.py)、
#   [`indexer_divergence`](../src/glassbox/ops/indexer.py) 分别是索引器的打分、分块选择和损失。
# - [`NativeSparseAttention`](../src/glassbox/layers/native_sparse.py) 与 [`IndexerLayer`](../src/glassbox/layers/indexer.py) 是完整的层。

# %%
from glassbox.ops.indexer import highest as real_highest
from glassbox.ops.indexer import index_scores
from glassbox.ops.native_sparse import SparseSizes, native_sparse_plain

short = slice(0, 100)  # 100 is no multiple of 8: the last block is incomplete
q, k, v = q[:, short], k[short], v[short]
sizes = SparseSizes(
    block_size=8, stride=8, selection_size=8, num_selected=4, num_first=1, num_local=1, window=16
)
pair = (k[None, None], v[None, None])
theirs = native_sparse_plain(
    q[None],
    pair,
    pair,
    pair,
    gates[None, :, short],
    sizes,
    lambda block, _: block.mean(0),
    lambda block, _: block.mean(0),
)
ours = nsa(q, k, v, gates[:, short], 8, 4, 16)
print(f"NSA differs by {(ours - theirs[0]).abs().max():.1e}")

with torch.no_grad():
    hidden = new[short]
    real = index_scores(
        indexer.q(hidden).view(1, 100, 4, 8), indexer.w(hidden)[None], indexer.k(hidden)[None]
    )
    past = real.masked_fill(torch.ones(100, 100, dtype=torch.bool).triu(1), -math.inf)
    same = real_highest(past, 20)[0] & torch.ones(100, 100, dtype=torch.bool).tril()
    print(
        f"index scores differ by {(real[0] - indexer(hidden)).abs().max():.1e};",
        "same choice:",
        torch.equal(same, highest(indexer(hidden), 20)),
    )

# %% [markdown] lang="en" part="exercises"
# ## Exercises
#
# `glassbox lesson open 13` writes a file with the graded ones.
#
# <!-- exercise 13.1 -->
#
# <!-- exercise 13.2 -->
#
# <!-- exercise 13.3 -->
#
# **13.4 A summary that hides** Double the noise in `write_document`, then let every paragraph be 3 tokens long. Which of NSA and DSA suffers more, and why?
#
# **13.5 Choose per head** Let `select` choose for each head by itself. How many different keys do the four heads read together?

# %% [markdown] lang="zh" part="exercises"
# ## 练习
#
# `glassbox lesson open 13` 会生成一个文件，里面是可以自动评分的题目。
#
# <!-- exercise 13.1 -->
#
# <!-- exercise 13.2 -->
#
# <!-- exercise 13.3 -->
#
# **13.4 摘要掩盖了什么** 先把 `write_document` 的噪声加倍，再让每段只有 3 个词元。NSA 与 DSA 谁受的影响更大？为什么？
#
# **13.5 各头各选** 让 `select` 为每个头单独选块。四个头合起来一共读了多少个不同的键？

# %% [markdown] lang="en" part="pitfalls"
# ## What goes wrong in practice
#
# - **The summary of an incomplete block.** The training loss is far too good and generation is poor: within a block every query has read the
#   tokens that it is to predict. Change a token and look at the positions just before it in its block.
# - **Selected blocks that are the window again.** Without fixed blocks counted in, the highest importance is often the nearest blocks; perplexity is fine and
#   retrieval over a long context is as bad as with a window. Print which blocks are read.
# - **An indexer trained by the language model's loss.** Its weights never move, as the choice has no gradient; quality stays that of a random
#   choice. Look at the gradient's norm: it is zero.
# - **Switching a dense model to top-k at once.** The loss jumps. First train the indexer alone beside dense attention (the dense warm-up), then all together.
# - **A sparse mask on a dense kernel** is as slow as dense attention. Only kernels that skip keys save time; measure it.
# - **Ties in top-k.** ReLU makes many scores exactly zero; which of them are taken must not depend on the length of the batch, or
#   the output differs with and without a cache.

# %% [markdown] lang="zh" part="pitfalls"
# ## 实践中的坑
#
# - **用了不完整块的摘要。** 训练损失好得离谱，生成却很差：块内每个查询都读到了它要预测的词元。
#   改动一个词元，看看同一块里它前面的位置变不变。
# - **选出的块又是窗口。** 若不把固定块计入名额，重要性最高的往往就是最近的块；困惑度没问题，长上下文检索却和窗口一样差。
#   把读取的块打印出来看看。
# - **指望语言模型的损失来训练索引器。** 选择没有梯度，索引器的权重从不更新，效果始终等于随机选。看一眼梯度范数就知道：它是零。
# - **稠密模型直接切换到 top-k。** 损失会突然跳高。应先在稠密注意力旁单独训练索引器（稠密预热），再一起训练。
# - **稠密内核加稀疏掩码**，速度与稠密注意力一样。只有真正跳过键的内核才省时间，要实测。
# - **top-k 的并列。** ReLU 会让许多分数恰好为零；取哪几个不能取决于批次长度，否则有缓存和没缓存的输出会不一致。

# %% [markdown] lang="en" part="reading"
# ## Further reading
#
# - Yuan et al., *Native Sparse Attention*, [arXiv:2502.11089](https://arxiv.org/abs/2502.11089): section 3, and table 4 for the keys read
# - DeepSeek-AI, *DeepSeek-V3.2*, [arXiv:2512.02556](https://arxiv.org/abs/2512.02556): section 2, the indexer and its two stages of training
# - Lu et al., *MoBA: Mixture of Block Attention*, [arXiv:2502.13189](https://arxiv.org/abs/2502.13189): blocks chosen by their mean key
# - Beltagy et al., *Longformer*, [arXiv:2004.05150](https://arxiv.org/abs/2004.05150): windows and a few global tokens

# %% [markdown] lang="zh" part="reading"
# ## 延伸阅读
#
# - Yuan 等，*Native Sparse Attention*，[arXiv:2502.11089](https://arxiv.org/abs/2502.11089)：第 3 节；读取的键数见表 4
# - DeepSeek-AI，*DeepSeek-V3.2*，[arXiv:2512.02556](https://arxiv.org/abs/2512.02556)：第 2 节，索引器及其两阶段训练
# - Lu 等，*MoBA: Mixture of Block Attention*，[arXiv:2502.13189](https://arxiv.org/abs/2502.13189)：按平均键来选块
# - Beltagy 等，*Longformer*，[arXiv:2004.05150](https://arxiv.org/abs/2004.05150)：窗口加少量全局词元
