# %% [markdown] lang="en"
# # 24. Music recommendation: playlists as sentences

# %% [markdown] lang="zh"
# # 24. 音乐推荐：把歌单当作句子

# %% [markdown] lang="en" part="question"
# ## The question
#
# Somebody has a playlist of five songs. Which sixth one fits, when nobody has told us what any song sounds like, and all
# we have is other people's lists? Language models learned what words mean from the words beside them. Songs stand beside songs in
# the same way.

# %% [markdown] lang="zh" part="question"
# ## 问题
#
# 一个歌单里有五首歌，第六首放什么合适？没有人告诉我们每首歌听起来怎样，手头只有别人的歌单。
# 语言模型从一个词周围的词学到了它的意思，而歌单里的歌，周围也总有别的歌。

# %% [markdown] lang="en" part="idea"
# ## The idea
#
# Read a playlist as a sentence and a song as a word. **Skip-gram** gives every song two vectors, $v$ as a centre and $u$ as a
# neighbour, and wants $v_c \cdot u_n$ to be large for songs that stand near each other. A softmax over all songs would say that exactly, and
# would cost a pass over all of them for each pair. **Negative sampling** asks an easier question instead: is this pair real, or was
# the neighbour drawn at random? For a pair $(c, n)$ and $K$ drawn songs $n_1 \dots n_K$:
#
# $$\mathcal{L} = -\log \sigma(v_c \cdot u_n) - \sum_{k=1}^{K} \log \sigma(-v_c \cdot u_{n_k})$$
#
# ```
#   playlist:   s0   s1   s2   s3   s4        window 2
#                     \___ s2 ___/            centre s2: neighbours s0 s1 s3 s4
#   real pair   (s2, s3)     v2 . u3  up
#   drawn       (s2, s17)    v2 . u17 down    s17 from p(s) ~ count(s)^0.75
# ```
#
# What does it learn? At the optimum $v_c \cdot u_n = \log \frac{p(n \mid c)}{K\,q(n)}$ with $q$ the distribution that songs are drawn from: how much
# likelier a song is beside $c$ than by chance. To rank songs by $p(n \mid c)$ the factor $q(n)$ has to be put back: add $\log q(n)$.

# %% [markdown] lang="zh" part="idea"
# ## 思路
#
# 把歌单当作句子，歌当作词。**skip-gram** 给每首歌两个向量：作为中心的 $v$ 和作为邻居的 $u$，希望相邻的歌之间 $v_c \cdot u_n$ 大。
# 对全部歌做 softmax 才是精确的做法，但每一对都要遍历所有歌。**负采样**换了一个更容易的问题：这一对是真的，还是邻居是随机抽来的？
# 对一对 $(c, n)$ 和随机抽出的 $K$ 首歌 $n_1 \dots n_K$：
#
# $$\mathcal{L} = -\log \sigma(v_c \cdot u_n) - \sum_{k=1}^{K} \log \sigma(-v_c \cdot u_{n_k})$$
#
# ```
#   歌单：      s0   s1   s2   s3   s4        窗口为 2
#                     \___ s2 ___/            中心 s2：邻居是 s0 s1 s3 s4
#   真实的对    (s2, s3)     v2 . u3  增大
#   抽来的      (s2, s17)    v2 . u17 减小    s17 按 p(s) ~ count(s)^0.75 抽取
# ```
#
# 它学到了什么？最优时 $v_c \cdot u_n = \log \frac{p(n \mid c)}{K\,q(n)}$，其中 $q$ 是抽样分布：一首歌出现在 $c$ 旁边，比随机出现可能多少倍。
# 要按 $p(n \mid c)$ 排序，就得把因子 $q(n)$ 补回来：加上 $\log q(n)$。

# %% [markdown] lang="en" part="code"
# ## Playlists whose right answer we know
#
# We make the lists ourselves, so that we can tell afterwards whether the vectors found what is there: 120 songs of four genres, some of them
# much more popular than others. Most lists keep to one genre; about one song in twelve is of another. The last song of each list is
# left out and has to be found.

# %% [markdown] lang="zh" part="code"
# ## 知道正确答案的歌单
#
# 歌单由我们自己生成，事后才能判断向量有没有发现其中的规律：120 首歌，四种风格，有些歌热门得多。
# 一个歌单基本只有一种风格，大约每十二首里有一首属于别的风格。每个歌单的最后一首留出来，作为要找的答案。

# %%
import math
import os

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.nn import functional as F

torch.manual_seed(0)
TEST_SIZE = os.environ.get("GLASSBOX_LESSON_SIZE") == "test"
NUM_SONGS, NUM_GENRES = 120, 4
NUM_LISTS, EPOCHS = (400, 6) if TEST_SIZE else (1500, 15)
DIMENSION, WINDOW, NEGATIVES = 12, 3, 5

genre = torch.arange(NUM_SONGS) % NUM_GENRES
popularity = (
    1 / (1 + torch.arange(NUM_SONGS) // NUM_GENRES).float() ** 0.7
)  # as Zipf found for words


def make_list(generator: torch.Generator) -> list[int]:
    """6 to 12 songs without repetition, mostly of one genre, popular ones more often."""
    wanted = torch.randint(NUM_GENRES, (), generator=generator)
    weight = popularity * torch.where(genre == wanted, 1.0, 0.03)
    length = int(torch.randint(6, 13, (), generator=generator))
    return torch.multinomial(weight, length, generator=generator).tolist()


generator = torch.Generator().manual_seed(1)
lists = [make_list(generator) for _ in range(NUM_LISTS)]
known, answers = [one[:-1] for one in lists], [one[-1] for one in lists]
print("a list:", known[0], "  genres:", genre[known[0]].tolist(), "  left out:", answers[0])


# %% [markdown] lang="en"
# ## Pairs and the loss
#
# Every song of a list is a centre once, and looks at most `WINDOW` places to each side. Neighbours belong to the same list: pairs must never
# reach over its end into the next one.

# %% [markdown] lang="zh"
# ## 词对与损失
#
# 歌单中的每首歌轮流做中心，向两边各看最多 `WINDOW` 个位置。邻居必须在同一个歌单里，绝不能越过末尾连到下一个歌单。


# %%
def pairs_of(one: list[int], window: int) -> list[tuple[int, int]]:
    """(centre, neighbour) of all songs at most `window` places apart."""
    found = []
    for place, centre in enumerate(one):
        places = range(max(0, place - window), min(len(one), place + window + 1))
        found += [(centre, one[other]) for other in places if other != place]
    return found


def loss_of(v: Tensor, u: Tensor, centres: Tensor, neighbours: Tensor, drawn: Tensor) -> Tensor:
    """Mean negative-sampling loss; centres and neighbours (B), drawn (B, K)."""
    real = (v[centres] * u[neighbours]).sum(-1)  # (B)
    fake = (v[centres][:, None] * u[drawn]).sum(-1)  # (B, K)
    valid = drawn != neighbours[:, None]  # a drawn song may be the real one: that teaches nothing
    return -(F.logsigmoid(real) + (F.logsigmoid(-fake) * valid).sum(-1)).mean()


print(pairs_of([7, 8, 9], 1))
pairs = torch.tensor([pair for one in known for pair in pairs_of(one, WINDOW)])
counts = torch.bincount(torch.tensor([song for one in known for song in one]), minlength=NUM_SONGS)
noise = counts.float() ** 0.75
print(f"{len(pairs):,} pairs; the most popular song is drawn {100 * float(noise.max() / noise.sum()):.1f}% of the time, "
      f"and is {100 * float(counts.max() / counts.sum()):.1f}% of all songs")  # fmt: skip

# %%
v = ((torch.rand(NUM_SONGS, DIMENSION) - 0.5) / DIMENSION).requires_grad_()
u = torch.zeros(NUM_SONGS, DIMENSION, requires_grad=True)
start = v.detach().clone()
optimizer = torch.optim.Adam([v, u], lr=0.02)
for epoch in range(EPOCHS):
    total, count = 0.0, 0
    for part in torch.randperm(len(pairs)).split(512):
        drawn = torch.multinomial(noise, len(part) * NEGATIVES, replacement=True)
        loss = loss_of(v, u, pairs[part, 0], pairs[part, 1], drawn.view(len(part), NEGATIVES))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total, count = total + loss.item() * len(part), count + len(part)
    if epoch in (0, EPOCHS // 2, EPOCHS - 1):
        print(
            f"epoch {epoch + 1:2}: loss {total / count:.3f}   (no idea: {(1 + NEGATIVES) * math.log(2):.3f})"
        )

# %% [markdown] lang="en"
# The genre was never told. Drawn in the plane of the two largest principal components, songs of a genre lie together:

# %% [markdown] lang="zh"
# 风格从未告诉过模型。投影到两个最大主成分的平面上，同一风格的歌聚在了一起：

# %% alt_en="Two scatter plots of 120 songs coloured by genre. Before training the four colours are mixed; after training each colour forms a cluster of its own." alt_zh="两幅散点图，120 首歌按风格着色。训练前四种颜色混在一起；训练后每种颜色各成一簇。"
figure, axes = plt.subplots(1, 2, figsize=(7.5, 3.3), layout="constrained")
for axis, title, vectors in zip(
    axes, ("before", "after training"), (start, v.detach()), strict=True
):
    centred = F.normalize(vectors, dim=1)
    centred = centred - centred.mean(0)
    flat = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
    axis.scatter(*flat.T, c=genre, cmap="tab10", vmax=9, s=14)
    axis.set(title=title, xticks=[], yticks=[])
plt.show()
nearest = (
    (F.normalize(v.detach(), dim=1) @ F.normalize(v.detach(), dim=1).T).fill_diagonal_(-1).argmax(1)
)
print(
    f"the nearest song is of the same genre: {100 * float((genre[nearest] == genre).float().mean()):.0f}%  (chance 24%)"
)

# %% [markdown] lang="en"
# ## Is it any good? Rank everything
#
# The honest test: score **all** songs as the continuation of each list, take out those that the list has, and see at which rank the
# song stands that was left out. **Recall@10** is the share of lists whose answer is among the first ten; **NDCG@10** counts an answer at rank
# $r$ as $1 / \log_2(1 + r)$, so that the first place is worth more than the tenth. Popularity alone is a strong opponent, and a recommender that
# does not beat it is worth nothing.

# %% [markdown] lang="zh"
# ## 到底好不好：给所有歌排序
#
# 诚实的检验方法：对每个歌单给**全部**歌打分，去掉歌单里已有的，看留出的那首排第几。
# **Recall@10** 是答案进入前十的歌单比例；**NDCG@10** 把排在第 $r$ 位的答案计为 $1 / \log_2(1 + r)$，第一名比第十名值钱。
# 只按热门程度推荐就是很强的对手，连它都赢不了的推荐系统没有价值。


# %%
def ranks_of(scores: Tensor) -> Tensor:
    """The rank, from 1, of each list's answer; scores (L, N) are changed: songs of the list are out."""
    for row, one in zip(scores, known, strict=True):
        row[one] = -math.inf
    own = scores.gather(1, torch.tensor(answers)[:, None])
    return 1 + (scores > own).sum(1)


with torch.no_grad():
    log_noise = (noise / noise.sum()).clamp(min=1e-9).log()
    recent = torch.stack([v[one[-3:]].mean(0) for one in known])
    ranked = {
        "skip-gram": ranks_of(recent @ u.T + log_noise),
        "without log q": ranks_of(recent @ u.T),
        "popularity": ranks_of(counts.float().repeat(len(known), 1)),
        "chance": ranks_of(torch.rand(len(known), NUM_SONGS)),
    }
recall = {}
for name, rank in ranked.items():
    hits = (rank <= 10).float()
    recall[name] = float(hits.mean())
    error = float(hits.std() / len(hits) ** 0.5)
    ndcg = float(torch.where(rank <= 10, 1 / torch.log2(1 + rank.float()), torch.zeros(())).mean())
    print(f"{name:14} recall@10 {recall[name]:.3f} +- {error:.3f}   NDCG@10 {ndcg:.3f}")

# %% [markdown] lang="en"
# The second line shows what the factor is for: without $\log q$ the scores say what is *typical* of a list, not what is *likely*, and rare songs
# crowd the top. Both are useful: the first finds the hidden answer, the second is what people call discovery.

# %% [markdown] lang="zh"
# 第二行说明了那个因子的作用：不加 $\log q$，分数反映的是什么歌对这个歌单*有代表性*，而不是什么歌*更可能*出现，冷门歌会占满前列。
# 两者都有用：前者能找到被留出的答案，后者就是人们说的“发现新歌”。

# %% alt_en="Bar chart of recall at 10: skip-gram highest, then skip-gram without log q and popularity, chance lowest." alt_zh="Recall@10 的柱状图：skip-gram 最高，其次是不加 log q 的 skip-gram 和热门程度，随机最低。"
figure, axis = plt.subplots(figsize=(6, 2.4), layout="constrained")
axis.barh(list(recall)[::-1], list(recall.values())[::-1], color="#0b7a70")
axis.set(xlabel="recall@10")
plt.show()

# %% [markdown] lang="en" part="real"
# ## Now open the real one
#
# - [`negative_sampling_loss`](../src/glassbox/recommend/item_vectors.py) is the loss above, and [`sgd_step`](../src/glassbox/recommend/item_vectors.py)
#   does one step on it with the gradients written by hand, several times faster and with the same bits for any number of threads. Both are
#   held to gensim.
# - [`window_pairs`](../src/glassbox/recommend/item_vectors.py) makes all pairs of a distance at once; as in word2vec each centre draws how far it
#   looks, so that near songs count more. [`keep_probability`](../src/glassbox/recommend/item_vectors.py) drops some of the very frequent ones.
# - [`rank_metrics`](../src/glassbox/recommend/ranking.py) takes the mean over all orders of songs with equal scores, which counts have many of.
# - [`Continuation`](../src/glassbox/recommend/continuation.py) trains the transformer of this course on playlists instead.
#
# `glassbox recommend` does all of it; [the guide](../docs/guides/recommend.md) has the table for MovieLens.

# %% [markdown] lang="zh" part="real"
# ## 打开真正的实现
#
# - [`negative_sampling_loss`](../src/glassbox/recommend/item_vectors.py) 就是上面的损失；[`sgd_step`](../src/glassbox/recommend/item_vectors.py)
#   用手写的梯度走一步，快好几倍，而且线程数不同时结果逐位相同。两者都与 gensim 对照过。
# - [`window_pairs`](../src/glassbox/recommend/item_vectors.py) 一次生成某个距离上的所有词对；和 word2vec 一样，每个中心随机决定看多远，
#   因此近处的歌权重更大。[`keep_probability`](../src/glassbox/recommend/item_vectors.py) 会丢掉一部分过于常见的歌。
# - [`rank_metrics`](../src/glassbox/recommend/ranking.py) 遇到分数相同的歌，取所有排列的平均；按次数打分时这种情况很多。
# - [`Continuation`](../src/glassbox/recommend/continuation.py) 则用本课程的 Transformer 来续写歌单。
#
# 这些都由 `glassbox recommend` 完成；[指南](../docs/guides/recommend.md)里有 MovieLens 上的结果表。

# %%
from glassbox.recommend.item_vectors import negative_sampling_loss
from glassbox.recommend.ranking import rank_metrics

some = pairs[:64]
drawn = torch.multinomial(noise, 64 * NEGATIVES, replacement=True).view(64, NEGATIVES)
targets = torch.cat([some[:, 1:], drawn], dim=1)
valid = torch.cat([torch.ones(64, 1, dtype=torch.bool), drawn != some[:, 1:]], dim=1)
with torch.no_grad():
    mine = loss_of(v, u, some[:, 0], some[:, 1], drawn) * 64
    theirs = negative_sampling_loss(v, u, some[:, :1], targets, valid)
print(f"losses differ by {abs(float(mine - theirs)):.1e}")
scores = (recent @ u.T + log_noise).detach()
for row, one in zip(scores, known, strict=True):
    row[one] = -math.inf
found = rank_metrics(scores.double().numpy(), torch.tensor(answers).numpy())
print(
    f"recall@10 by rank_metrics: {found['recall@10'].mean():.3f}, by hand: {recall['skip-gram']:.3f}"
)

# %% [markdown] lang="en" part="exercises"
# ## Exercises
#
# `glassbox lesson open 24` writes a file with the graded ones.
#
# <!-- exercise 24.1 -->
#
# <!-- exercise 24.2 -->
#
# <!-- exercise 24.3 -->
#
# **24.4 Bags** CBOW predicts a song from the *mean* of its neighbours. Change `loss_of` to take a list of neighbours as the input and the centre as
# the target. Which of the two is better for rare songs, and why?

# %% [markdown] lang="zh" part="exercises"
# ## 练习
#
# `glassbox lesson open 24` 会生成一个文件，里面是可以自动评分的题目。
#
# <!-- exercise 24.1 -->
#
# <!-- exercise 24.2 -->
#
# <!-- exercise 24.3 -->
#
# **24.4 词袋** CBOW 用邻居的*平均*来预测中心的歌。改写 `loss_of`，以一组邻居为输入、以中心为目标。对冷门歌来说哪一种更好，为什么？

# %% [markdown] lang="en" part="pitfalls"
# ## What goes wrong in practice
#
# - **Ranking against a sample.** "Answer among 100 random songs" makes every model look good and can turn their order round. Rank all.
# - **Songs of the list in the ranking.** They score highest of all, and push the answer down; or the answer itself is masked, when a song
#   stands in a list twice.
# - **A split that looks ahead**: random songs left out instead of the last. The model then knows what was played later.
# - **No popularity baseline**, or one that counts the songs left out too.
# - **Pairs across lists**: one long stream of songs without borders. Nothing breaks, the vectors just get worse.
# - **Both sides from one table.** With $u = v$ a song is its own best neighbour, since $v \cdot v$ is never negative.
# - **New songs** have no vector. Say so, instead of recommending with the random one they started with.

# %% [markdown] lang="zh" part="pitfalls"
# ## 实践中的坑
#
# - **只在抽样里排序。**“答案在 100 首随机歌中排第几”让每个模型都好看，甚至能颠倒名次。要给全部歌排序。
# - **歌单里的歌参与了排序。** 它们得分最高，会把答案挤下去；或者一首歌在歌单里出现两次，答案自己被屏蔽了。
# - **划分偷看了未来**：随机留出一首，而不是最后一首，模型就知道了后来放过什么。
# - **没有热门程度这个基线**，或者统计热门程度时把留出的歌也算了进去。
# - **跨歌单的词对**：把所有歌连成一条没有边界的长流。程序不会报错，只是向量变差。
# - **两边共用一张表。** 若 $u = v$，每首歌最好的邻居就是它自己，因为 $v \cdot v$ 从不为负。
# - **新歌**没有向量。要直说，不要拿随机初始化的向量去推荐。

# %% [markdown] lang="en" part="reading"
# ## Further reading
#
# - Mikolov et al., *Distributed Representations of Words and Phrases*, [arXiv:1310.4546](https://arxiv.org/abs/1310.4546): negative sampling, the exponent 0.75
# - Levy and Goldberg, *Neural Word Embedding as Implicit Matrix Factorization*, NIPS 2014: what it converges to
# - Barkan and Koenigstein, *Item2Vec*, [arXiv:1603.04259](https://arxiv.org/abs/1603.04259)
# - Krichene and Rendle, *On Sampled Metrics for Item Recommendation*, KDD 2020: why to rank everything
# - [music.py](models/music.py): the same in one file, for playlists of your own

# %% [markdown] lang="zh" part="reading"
# ## 延伸阅读
#
# - Mikolov 等，*Distributed Representations of Words and Phrases*，[arXiv:1310.4546](https://arxiv.org/abs/1310.4546)：负采样，以及 0.75 这个指数
# - Levy、Goldberg，*Neural Word Embedding as Implicit Matrix Factorization*，NIPS 2014：它收敛到什么
# - Barkan、Koenigstein，*Item2Vec*，[arXiv:1603.04259](https://arxiv.org/abs/1603.04259)
# - Krichene、Rendle，*On Sampled Metrics for Item Recommendation*，KDD 2020：为什么要给全部物品排序
# - [music.py](models/music.py)：同样的内容写在一个文件里，可以用自己的歌单
