# %% [markdown] lang="en"
# # 14. Scaling

# %% [markdown] lang="zh"
# # 14. 规模扩展

# %% [markdown] lang="en" part="question"
# ## The question
#
# You may use 1,000 GPUs for a month. How large should the model be, how many tokens should it read, will it fit into memory, and how do
# many processes train one model as if they were one?

# %% [markdown] lang="zh" part="question"
# ## 问题
#
# 给你一千张 GPU 用一个月。模型该多大，该读多少词元，显存放不放得下？许多进程又怎样像一个进程那样训练同一个模型？

# %% [markdown] lang="en" part="idea"
# ## The idea
#
# **Compute.** A weight of a matrix takes one multiplication and one addition per token in the forward pass, and twice that in the backward pass
# (one product for the gradient of the input, one for that of the weight). With N weights and D tokens:
#
# $$C \approx 6\, N D \ \text{FLOPs}$$
#
# **Loss.** Over many orders of magnitude it follows a sum of powers: what no model can know, what this model is too small for, and what it
# has seen too little of:
#
# $$L(N, D) = E + \frac{A}{N^{\alpha}} + \frac{B}{D^{\beta}}$$
#
# Put D = C / 6N into it and take the minimum over N: the best size for a budget.
#
# **Many processes.** Each computes the gradient of its own rows; the sum over all is the gradient of the whole batch.
#
# ```
#                       process 0                 process 1
#   data parallel       W  g  m v    <- sum g ->  W  g  m v      everything twice
#   sharded (ZeRO)      W0 g0 m0 v0               W1 g1 m1 v1    each holds half of everything
#                        \___ gather W when a layer needs it, sum g back to the owner ___/
# ```

# %% [markdown] lang="zh" part="idea"
# ## 思路
#
# **计算量。** 前向时，矩阵里的每个权重对每个词元做一次乘法、一次加法；反向是前向的两倍（一次算输入的梯度，一次算权重的梯度）。
# 设权重数为 N，词元数为 D：
#
# $$C \approx 6\, N D \ \text{FLOPs}$$
#
# **损失。** 在许多个数量级上，损失可以写成几项幂律之和：任何模型都无法预测的部分、模型太小造成的部分、数据太少造成的部分：
#
# $$L(N, D) = E + \frac{A}{N^{\alpha}} + \frac{B}{D^{\beta}}$$
#
# 代入 D = C / 6N，对 N 求最小值，就得到给定预算下的最优规模。
#
# **多个进程。** 每个进程算自己那些行的梯度；全部加起来，就是整个批次的梯度。
#
# ```
#                       进程 0                    进程 1
#   数据并行            W  g  m v    <- 求和 g -> W  g  m v      所有东西各存一份
#   分片（ZeRO）        W0 g0 m0 v0               W1 g1 m1 v1    每个进程只存一半
#                        \___ 某层要用时收集 W，再把 g 求和送回它的主人 ___/
# ```

# %% [markdown] lang="en" part="code"
# ## Counting FLOPs
#
# We count by formula and let torch count what it really multiplies. Beside the weights, attention multiplies queries with keys and weights with
# values: per token and layer 2 T D multiply-adds, which no parameter count shows.

# %% [markdown] lang="zh" part="code"
# ## 数一数 FLOPs
#
# 一边按公式算，一边让 torch 统计实际做的乘法。除权重之外，注意力还要做查询乘键、权重乘值：
# 每个词元每层 2 T D 次乘加，从参数量里看不出来。

# %%
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

torch.manual_seed(0)
TEST_SIZE = os.environ.get("GLASSBOX_LESSON_SIZE") == "test"


class Block(nn.Module):
    def __init__(self, size: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.out = (
            nn.Linear(size, 3 * size, bias=False),
            nn.Linear(size, size, bias=False),
        )
        self.up, self.down = (
            nn.Linear(size, 4 * size, bias=False),
            nn.Linear(4 * size, size, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        q, k, v = self.qkv(self.norm_1(x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(D // self.heads)
        future = torch.ones(T, T, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(future, -math.inf).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(B, T, D))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class GPT(nn.Module):
    def __init__(self, vocab: int, size: int, layers: int, heads: int):
        super().__init__()
        self.tokens, self.head = nn.Embedding(vocab, size), nn.Linear(size, vocab, bias=False)
        self.blocks = nn.ModuleList(Block(size, heads) for _ in range(layers))
        self.checkpointing = False

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointing else block(x)
        return self.head(x)


VOCAB, SIZE, LAYERS, LENGTH = 64, 64, 3, 48
model = GPT(VOCAB, SIZE, LAYERS, heads=4)
ids = torch.randint(VOCAB, (2, LENGTH + 1))
matrices = sum(
    p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "tokens" not in name
)
scores = LAYERS * 2 * LENGTH * SIZE  # multiply-adds a token: q k^T and weights v
with FlopCounterMode(display=False) as counter:
    loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    forward = counter.get_total_flops()
    loss.backward()
tokens = 2 * LENGTH
print(
    f"forward, a token:   torch {forward / tokens:,.0f}, 2 (N + scores) = {2 * (matrices + scores):,}"
)
print(
    f"with backward:      torch {counter.get_total_flops() / tokens:,.0f}, 6 (N + scores) = {6 * (matrices + scores):,}"
)

# %% [markdown] lang="en"
# Equal to the digit. (A causal kernel skips half of the scores; torch counts what a plain matrix product does.) For large models scores are small
# beside weights until T is near 6 D: GPT-3 with T = 2,048 and D = 12,288 spends about 3% on them.
#
# ## Counting bytes
#
# Adam keeps two numbers for each weight. Activations are another matter: they grow with the batch. **Checkpointing** keeps only the inputs of
# blocks and computes the inside again in the backward pass: less memory for one more forward pass, 8 N D instead of 6 N D.

# %% [markdown] lang="zh"
# 一个不差。（因果内核能跳过一半分数；torch 统计的是普通矩阵乘法。）大模型的分数部分相对权重很小，直到 T 接近 6 D 才相当：
# GPT-3 的 T = 2,048、D = 12,288，分数只占约 3%。
#
# ## 数一数字节
#
# Adam 为每个权重另存两个数。激活则是另一回事：它随批次变大。**激活检查点**只保存每个块的输入，反向时把块内再算一遍：
# 用多一次前向换内存，计算量从 6 N D 变成 8 N D。


# %%
def saved_bytes(checkpointing: bool) -> int:
    """Bytes that autograd keeps for the backward pass, parameters not counted."""
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(x: Tensor) -> Tensor:
        place = x.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = x.untyped_storage().nbytes()
        return x

    model.checkpointing = checkpointing
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    return sum(kept.values())


model.zero_grad()
all_kept = saved_bytes(checkpointing=False)
gradient = model.blocks[0].up.weight.grad.clone()
model.zero_grad()
few_kept = saved_bytes(checkpointing=True)
print(f"activations kept: {all_kept:,} bytes, with checkpointing {few_kept:,}")
print(f"gradients differ by {(gradient - model.blocks[0].up.weight.grad).abs().max():.1e}")

optimizer = torch.optim.AdamW(model.parameters())
optimizer.step()
N = sum(p.numel() for p in model.parameters())
held = {
    "weights": sum(p.nbytes for p in model.parameters()),
    "gradients": sum(p.grad.nbytes for p in model.parameters()),
    "Adam's m and v": sum(
        x.nbytes for s in optimizer.state.values() for x in s.values() if x.dim()
    ),
}
print({name: f"{n / N:.0f} bytes a weight" for name, n in held.items()})
print(f"a model of 7 billion weights: {16 * 7:,} GB before the first activation")

# %% [markdown] lang="en"
# Mixed precision does not change the sum: weights and gradients in 2 bytes, and a master copy, m and v in 4 bytes each, make 16 again.
#
# ## A law to be found
#
# We need a family of models whose loss falls by a power law and that trains in seconds. Take a world of facts: fact i is asked for with probability
# $p_i = i^{-a} - (i+1)^{-a}$, about $a\, i^{-(1+a)}$ (Zipf's law). A model of size N remembers the N facts that it saw most often among D examples; where it does not know, it pays
# 1 nat, and E = 0.5 nats are noise. This can be worked out: $\alpha = a$, and $\beta = a / (1 + a)$. We pretend not to know.

# %% [markdown] lang="zh"
# 混合精度并不改变总数：权重和梯度各 2 字节，主权重、m、v 各 4 字节，加起来还是 16。
#
# ## 找出一条规律
#
# 我们需要一族损失按幂律下降、几秒就能训练好的模型。设想一个由事实组成的世界：第 i 个事实被问到的概率 $p_i = i^{-a} - (i+1)^{-a}$，约为 $a\, i^{-(1+a)}$（齐普夫定律）。
# 规模为 N 的模型从 D 个样本里记住见得最多的 N 个事实；不知道的，付出 1 奈特；另有 E = 0.5 奈特的噪声。
# 理论上可以推出 $\alpha = a$、$\beta = a / (1 + a)$。我们先假装不知道。

# %%
A_TRUE, NOISE = 0.6, 0.5


def learn(examples: int, seed: int) -> Tensor:
    """The chances of the facts that were seen, those that were seen most often first."""
    draw = torch.Generator().manual_seed(seed)
    facts = (1 - torch.rand(examples, generator=draw, dtype=torch.float64)) ** (-1 / A_TRUE)
    facts, counts = facts.floor().unique(return_counts=True)
    facts = facts[counts.argsort(descending=True, stable=True)]
    return facts**-A_TRUE - (facts + 1) ** -A_TRUE


def loss_of_size(learned: Tensor, size: int) -> float:
    return NOISE + 1 - learned[: min(size, len(learned))].sum().item()


sizes, amounts = [2**n for n in range(4, 10)], [2**n for n in range(7, 17)]
MUCH, HUGE = 2**18 if TEST_SIZE else 2**20, 2**60
learned = learn(MUCH, seed=0)
runs = [
    (n, HUGE, loss_of_size(learned, n)) for n in sizes
]  # each of them was seen: data are no limit
for d in amounts:  # the data are the limit: any number of facts fits
    every = [loss_of_size(learn(d, seed), HUGE) for seed in range(3 if TEST_SIZE else 8)]
    runs.append((HUGE, d, sum(every) / len(every)))


def predicted(law: dict[str, float], n: float, d: float) -> float:
    return law["E"] + law["A"] * n ** -law["alpha"] + law["B"] * d ** -law["beta"]


def fit(runs: list[tuple[float, float, float]]) -> dict[str, float]:
    """E, A, B, alpha, beta by a Huber loss on log L, as for Chinchilla."""
    n, d, loss = torch.tensor(runs, dtype=torch.float64).T
    theta = torch.tensor([-1.0, 0.0, 0.0, 0.4, 0.4], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [theta], max_iter=500, line_search_fn="strong_wolfe", tolerance_change=1e-14
    )

    def closure() -> Tensor:
        log_e, log_a, log_b, alpha, beta = theta
        terms = torch.stack((log_e.expand_as(n), log_a - alpha * n.log(), log_b - beta * d.log()))
        value = F.huber_loss(terms.logsumexp(0), loss.log(), delta=1e-3, reduction="sum")
        optimizer.zero_grad()
        value.backward()
        return value

    optimizer.step(closure)
    e, a, b, alpha, beta = theta.tolist()
    return {"E": math.exp(e), "A": math.exp(a), "B": math.exp(b), "alpha": alpha, "beta": beta}


law = fit(runs)
print("found: ", {name: round(value, 3) for name, value in law.items()})
beta = A_TRUE / (1 + A_TRUE)
constant = A_TRUE ** (1 - beta) * beta / A_TRUE * math.gamma(beta)
print(
    "theory:",
    {"E": NOISE, "A": 1.0, "B": round(constant, 3), "alpha": A_TRUE, "beta": round(beta, 3)},
)

held_out = [(n, d, loss_of_size(learn(d, 9), n)) for n in sizes for d in amounts[::3]]
for n, d in ((2**11, 2**17), (2**13, 2**18)):  # larger than anything that was fitted
    size_term, data_term = (
        predicted(law, *one) - law["E"] for one in ((n, math.inf), (math.inf, d))
    )
    low, high = law["E"] + max(size_term, data_term), law["E"] + size_term + data_term
    print(
        f"N = {n:6,}, D = {d:7,}: forecast {low:.4f} (larger term) to {high:.4f} (sum); measured {loss_of_size(learn(d, 10), n):.4f}"
    )

# %% [markdown] lang="en"
# We measured each term where the other is small, and came close to the theory. Where both are of a size, the truth here is near the larger
# term alone and below the sum of both: a fact that is too rare to be stored is often one that was never seen, and the sum counts it twice. That is the
# nature of such laws: the form is an assumption, right within a factor, and a forecast should say how it was tested.

# %% [markdown] lang="zh"
# 每一项都在另一项很小时测量，结果与理论接近。两项相当时，这个世界的真实损失接近“较大的一项”，低于“两项之和”：
# 太罕见而存不下的事实，往往也正是从没见过的事实，求和就算了两次。这类规律都是如此：函数形式是一种假设，只在一定倍数内成立，
# 外推时应说明它经过怎样的检验。

# %% [markdown] lang="en"
# ## The best size for a budget
#
# With $D = C / 6N$ the derivative of $A N^{-\alpha} + B D^{-\beta}$ vanishes where $\alpha A N^{-\alpha} = \beta B D^{-\beta}$: the two shortfalls are in
# balance. So
#
# $$N^* = \left(\frac{\alpha A}{\beta B}\right)^{\frac{1}{\alpha+\beta}} \left(\frac{C}{6}\right)^{\frac{\beta}{\alpha+\beta}}, \qquad D^* = \frac{C}{6 N^*}$$

# %% [markdown] lang="zh"
# ## 给定预算的最优规模
#
# 代入 $D = C / 6N$，$A N^{-\alpha} + B D^{-\beta}$ 的导数在 $\alpha A N^{-\alpha} = \beta B D^{-\beta}$ 处为零：模型不足与数据不足恰好平衡。于是
#
# $$N^* = \left(\frac{\alpha A}{\beta B}\right)^{\frac{1}{\alpha+\beta}} \left(\frac{C}{6}\right)^{\frac{\beta}{\alpha+\beta}}, \qquad D^* = \frac{C}{6 N^*}$$


# %%
def best_size(law: dict[str, float], budget: float) -> tuple[float, float]:
    alpha, beta = law["alpha"], law["beta"]
    size = (alpha * law["A"] / (beta * law["B"])) ** (1 / (alpha + beta)) * (budget / 6) ** (
        beta / (alpha + beta)
    )
    return size, budget / 6 / size


for budget in (1e6, 1e12):
    size, amount = best_size(law, budget)
    around = [predicted(law, size * f, amount / f) for f in (0.9, 1.0, 1.1)]
    print(
        f"budget {budget:.0e}: N* = {size:,.0f}, D* = {amount:,.0f}; a minimum: {around[1] < min(around[0], around[2])}"
    )

hoffmann = {
    "E": 1.69,
    "A": 406.4,
    "B": 410.7,
    "alpha": 0.34,
    "beta": 0.28,
}  # Hoffmann et al., as printed
besiroglu = {
    "E": 1.8172,
    "A": 482.01,
    "B": 2085.43,
    "alpha": 0.3478,
    "beta": 0.3658,
}  # fitted anew to the same runs
for name, published in (("Hoffmann et al.", hoffmann), ("Besiroglu et al.", besiroglu)):
    size, amount = best_size(published, 5.76e23)  # what Gopher and Chinchilla were trained with
    print(
        f"{name:17} {size / 1e9:4.0f} billion weights, {amount / 1e12:.1f} trillion tokens, {amount / size:3.0f} tokens a weight"
    )

# %% alt_en="Left: loss against model size for four amounts of data, points measured, and bands from the larger term to the sum of both, the points lie near the lower edge; each flattens where data become the limit. Right: loss against model size for three budgets of compute; each is a valley, and a dashed line joins the minima, which move to larger models." alt_zh="左图：四种数据量下损失随模型规模的变化，点为实测，色带从较大的一项到两项之和，点靠近下缘；数据成为瓶颈后曲线变平。右图：三种计算预算下损失随模型规模的变化，每条都是一个谷，虚线连接谷底，预算越大谷底越偏向大模型。"
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for place, d in enumerate(amounts[::3]):
    mine = [(n, loss) for n, other, loss in held_out if other == d]
    axes[0].plot(*zip(*mine, strict=True), "o", color=f"C{place}", label=f"D = {d:,}")
    terms = [(predicted(law, n, HUGE), predicted(law, HUGE, d)) for n in sizes]
    larger = [max(pair) for pair in terms]
    together = [sum(pair) - law["E"] for pair in terms]
    axes[0].fill_between(sizes, larger, together, color=f"C{place}", alpha=0.2)
axes[0].set(title="measured; larger term to sum", xlabel="N", ylabel="loss", xscale="log")
axes[0].set_xticks(sizes, labels=[str(n) for n in sizes], minor=False)
axes[0].minorticks_off()
axes[0].legend(fontsize=8)
bottoms = []
for place, budget in enumerate((3e5, 3e6, 3e7)):
    n = torch.logspace(0.5, 4.5, 60).tolist()
    axes[1].plot(
        n,
        [predicted(law, one, budget / 6 / one) for one in n],
        color=f"C{place}",
        label=f"C = {budget:.0e}",
    )
    size, amount = best_size(law, budget)
    bottoms.append((size, predicted(law, size, amount)))
axes[1].plot(*zip(*bottoms, strict=True), "k--o", label="best size")
axes[1].set(title="same compute", xlabel="N", ylabel="loss", xscale="log", ylim=(0.5, 1.3))
axes[1].legend(fontsize=8)
plt.show()

# %% [markdown] lang="en"
# The last lines are a lesson in rounding: with the constants as printed one gets 32 billion weights for the budget of Chinchilla, which had 70. Besiroglu et al. fitted
# the same runs anew and get 72, or about 19 tokens a weight, which agrees with the two other methods of the Chinchilla paper. Exponents need error bars.
#
# In practice people train smaller models for far longer than that (Llama 3 8B: 15 trillion tokens, nearly 2,000 a weight), because the law counts
# the cost of training alone, and a smaller model is cheaper at every token that it writes.
#
# ## Two processes
#
# A process needs a file to start from, and a notebook has none: so the program of a worker stands in a string and is written to a
# temporary folder. Two workers meet through a file there and talk by gloo. Each runs the same training twice:
#
# - `data_parallel`: all weights in each process; gradients are summed.
# - `sharded`: each process keeps half of every matrix. `Gather` puts a matrix together in the forward pass, and in the backward pass adds up the
#   gradient and hands each process its half. Adam sees the halves alone.

# %% [markdown] lang="zh"
# 最后两行说明了舍入的影响：用论文印出来的常数，Chinchilla 的预算算出来是 320 亿参数，而它实际是 700 亿。Besiroglu 等人用同一批实验重新拟合，
# 得到 720 亿，约每个参数 19 个词元，与 Chinchilla 论文的另外两种方法一致。指数也要有误差范围。
#
# 实际训练时，人们会让更小的模型读多得多的词元（Llama 3 8B 读了 15 万亿词元，每个参数近 2,000 个），因为这条规律只算训练的开销，
# 而小模型生成每个词元都更便宜。
#
# ## 两个进程
#
# 启动进程需要一个文件，而笔记本没有文件：所以把工作进程的程序写成字符串，再存到临时目录里。两个进程通过那里的一个文件会合，
# 用 gloo 通信。每个进程把同样的训练做两遍：
#
# - `data_parallel`：每个进程都有全部权重，梯度求和。
# - `sharded`：每个进程只存每个矩阵的一半。`Gather` 在前向时把矩阵拼完整，反向时把梯度相加，再把各自的一半交还给各进程。Adam 只看得到那一半。

# %%
COMMON = """
import torch
from torch.nn import functional as F

SHAPES, STEPS = ((32, 8), (32, 32), (4, 32)), 5

def start():
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw) / shape[1] ** 0.5 for shape in SHAPES]

def batch(step):
    draw = torch.Generator().manual_seed(100 + step)
    return torch.randn(16, 8, generator=draw), torch.randint(4, (16,), generator=draw)

def loss_of(weights, x, y):
    for weight in weights[:-1]:
        x = torch.tanh(F.linear(x, weight))
    return F.cross_entropy(F.linear(x, weights[-1]), y, reduction="sum")
"""

WORKER = (
    COMMON
    + """
import datetime, json, sys
import torch.distributed as dist

folder, rank, world = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + folder + "/meeting", rank=rank,
                        world_size=world, timeout=datetime.timedelta(seconds=60))

class Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, shard):
        parts = [torch.empty_like(shard) for _ in range(world)]
        dist.all_gather(parts, shard.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)           # with nccl: reduce_scatter, half of the traffic
        return gradient.chunk(world)[rank]

def train(sharded):
    held = [w.chunk(world)[rank].clone() if sharded else w for w in start()]
    for one in held:
        one.requires_grad_()
    adam = torch.optim.AdamW(held, lr=0.01)
    for step in range(STEPS):
        x, y = batch(step)
        mine = slice(rank, None, world)     # every second row
        weights = [Gather.apply(one) for one in held] if sharded else held
        loss = loss_of(weights, x[mine], y[mine]) / len(x)   # the count of the whole batch
        adam.zero_grad()
        loss.backward()
        if not sharded:
            for one in held:
                dist.all_reduce(one.grad)
        adam.step()
    numbers = sum(one.numel() for one in held)
    state = sum(v.numel() for s in adam.state.values() for v in s.values() if v.dim())
    with torch.no_grad():
        whole = [Gather.apply(one) for one in held] if sharded else held
    return [w.detach() for w in whole], {"weights": numbers, "gradients": numbers, "m and v": state}

kept = {}
for name in ("data_parallel", "sharded"):
    weights, kept[name] = train(name == "sharded")
    torch.save(weights, f"{folder}/{name}_{rank}.pt")
json.dump(kept, open(f"{folder}/kept_{rank}.json", "w"))
dist.barrier()
dist.destroy_process_group()
"""
)


def run_workers(folder: Path, world: int = 2) -> None:
    """Start the workers and wait; raises with what they wrote if one fails."""
    (folder / "worker.py").write_text(WORKER)
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")  # this machine alone
    command = [sys.executable, str(folder / "worker.py"), folder.as_posix()]
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(world)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(world)
    ]
    try:
        errors = [worker.communicate(timeout=120)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    if any(worker.returncode for worker in workers):
        raise RuntimeError("\n".join(errors))


exec(COMMON)  # the same model and data, in this process
alone = [weight.requires_grad_() for weight in start()]
adam = torch.optim.AdamW(alone, lr=0.01)
for step in range(STEPS):
    inputs, labels = batch(step)
    adam.zero_grad()
    (loss_of(alone, inputs, labels) / len(inputs)).backward()
    adam.step()

with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary)
    run_workers(folder)
    for name in ("data_parallel", "sharded"):
        for rank in (0, 1):
            theirs = torch.load(folder / f"{name}_{rank}.pt")
            apart = max(
                (one - other).abs().max().item() for one, other in zip(alone, theirs, strict=True)
            )
            kept = json.loads((folder / f"kept_{rank}.json").read_text())[name]
            print(f"{name:14} process {rank}: {apart:.1e} from one process; numbers held: {kept}")

# %% [markdown] lang="en"
# Both end with the weights of the single process, and a sharded process holds half of all three. Traffic per step, in weights: an all-reduce is a
# reduce-scatter and an all-gather, 2 N for data parallelism. Sharding gathers in the forward pass, gathers again in the backward pass
# (we were lazy and kept the whole matrices) and reduce-scatters gradients: 3 N. That is the price of 1 / world of the memory.
#
# Note the division: by the **count of the whole batch**, before the sum. Dividing by a process's own count and averaging is the same
# only if all counts are equal, which with padding or masks they are not.

# %% [markdown] lang="zh"
# 两种做法最后的权重都与单进程一致，分片时每个进程的三样东西都只存一半。每步的通信量（以权重个数计）：all-reduce 等于一次 reduce-scatter 加一次 all-gather，
# 数据并行是 2 N。分片要在前向收集一次，反向再收集一次（我们偷懒，一直留着完整矩阵），再把梯度 reduce-scatter：3 N。
# 这就是内存降到 1 / world 的代价。
#
# 注意除数：求和之前除以**整个批次的个数**。各进程除以自己的个数再取平均，只有个数都相等时才一样，而有填充或掩码时并不相等。

# %% [markdown] lang="en" part="real"
# ## Now open the real one
#
# - [`DataParallel`](../src/glassbox/core/data_parallel.py) sums gradients in buckets while the backward pass still runs; `reduce="sum"` is for losses that are
#   divided by the weight of all ranks.
# - [`Group`](../src/glassbox/core/distributed.py) holds the sums over ranks that the loop needs; [`process_group`](../src/glassbox/core/distributed.py) joins what
#   `torchrun` sets up.
# - [`training_flops`](../src/glassbox/training/step.py) is the 6 N of the utilization that a run prints. Scores are left out, as torch's counter does too
#   where a fused kernel of the CPU computes attention.

# %% [markdown] lang="zh" part="real"
# ## 打开真正的实现
#
# - [`DataParallel`](../src/glassbox/core/data_parallel.py) 在反向还没算完时就按桶求和梯度；`reduce="sum"` 用于按所有进程的总权重相除的损失。
# - [`Group`](../src/glassbox/core/distributed.py) 提供训练循环需要的跨进程求和；[`process_group`](../src/glassbox/core/distributed.py) 加入由
#   `torchrun` 建立的进程组。
# - [`training_flops`](../src/glassbox/training/step.py) 就是训练时打印算力利用率所用的 6 N。分数不计在内；
#   注意力由 CPU 的融合内核计算时，torch 的计数器也不计这一部分。

# %%
from glassbox import CausalLM, GPT2Shape
from glassbox.training.step import training_flops

real = CausalLM(GPT2Shape(hidden_size=64, num_layers=3, num_heads=4, context_length=48).config(64))
with FlopCounterMode(display=False) as counter:
    logits = real(ids[:, :-1])
    F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
measured = counter.get_total_flops() / tokens
print(
    f"training_flops {training_flops(real):,.0f} a token; torch counts {measured:,.0f}, scores among them"
)

# %% [markdown] lang="en" part="exercises"
# ## Exercises
#
# `glassbox lesson open 14` writes a file with the graded ones.
#
# <!-- exercise 14.1 -->
#
# <!-- exercise 14.2 -->
#
# <!-- exercise 14.3 -->
#
# **14.4 A month** A GPU does 4e14 FLOPs a second in practice. What do 1,000 of them train in 30 days, by the formula for N*? How many are needed to hold the 16 bytes a weight?
#
# **14.5 Gather again** Let `Gather` save the shard alone and gather once more in the backward pass: write `F.linear` with a gathered weight as one
# `torch.autograd.Function`.

# %% [markdown] lang="zh" part="exercises"
# ## 练习
#
# `glassbox lesson open 14` 会生成一个文件，里面是可以自动评分的题目。
#
# <!-- exercise 14.1 -->
#
# <!-- exercise 14.2 -->
#
# <!-- exercise 14.3 -->
#
# **14.4 一个月** 一张 GPU 实际每秒做 4e14 次浮点运算。1,000 张跑 30 天，按 N* 的公式能训练什么？放下每个权重 16 字节又需要几张？
#
# **14.5 再收集一次** 让 `Gather` 只保存分片，反向时再收集一次：把带收集权重的 `F.linear` 写成一个 `torch.autograd.Function`。

# %% [markdown] lang="en" part="pitfalls"
# ## What goes wrong in practice
#
# - **A mean of means.** Every rank divides by its own number of tokens; the loss curve depends on how rows were dealt out, and changes with the
#   number of ranks.
# - **The same rows on every rank** (one seed, no rank in the sampler): everything runs, twice as fast, and learns as if the batch were half
#   as large.
# - **Different weights at the start**: forgotten broadcast. Ranks never agree again; the loss of rank 0 looks fine.
# - **Clipping by the local norm.** With shards the norm must be summed over ranks first, and only once for what is held twice.
# - **A hang.** One rank takes one step more, or skips a batch with an infinite loss, and the others wait in all-reduce for ever. All ranks
#   must decide together.
# - **A law fitted to runs with one schedule.** A cosine that was cut off early is not the loss of a run of that length; the exponents come
#   out wrong, and the forecast too optimistic or too bleak.
# - **Embeddings counted as N.** For small models they are half of the parameters and do no FLOPs; fits with and without them give other exponents.

# %% [markdown] lang="zh" part="pitfalls"
# ## 实践中的坑
#
# - **平均的平均。** 每个进程除以自己的词元数，损失曲线就取决于数据怎么分，换个进程数结果也变。
# - **所有进程读到同样的行**（同一个随机种子，采样时没有区分进程）：一切照跑，速度快一倍，学习效果却相当于批次只有一半。
# - **初始权重不一致**：忘了广播。各进程从此各走各的，而 0 号进程的损失看起来很正常。
# - **按本地范数裁剪梯度。** 分片时要先跨进程求和再开方，存了两份的只算一次。
# - **卡死。** 某个进程多走一步，或跳过了一个损失无穷大的批次，其余进程就在 all-reduce 里一直等。要不要跳过，必须所有进程一起决定。
# - **用同一个学习率计划的中间点来拟合。** 余弦没走完就截断，并不等于那么长的训练的损失；指数会偏，外推不是过于乐观就是过于悲观。
# - **把嵌入算进 N。** 小模型的嵌入占一半参数，却没有 FLOPs；算不算它，拟合出的指数不一样。

# %% [markdown] lang="en" part="reading"
# ## Further reading
#
# - Kaplan et al., *Scaling Laws for Neural Language Models*, [arXiv:2001.08361](https://arxiv.org/abs/2001.08361): C = 6 N D
# - Hoffmann et al., *Training Compute-Optimal Large Language Models*, [arXiv:2203.15556](https://arxiv.org/abs/2203.15556): Chinchilla
# - Besiroglu et al., *Chinchilla Scaling: A replication attempt*, [arXiv:2404.10102](https://arxiv.org/abs/2404.10102)
# - Rajbhandari et al., *ZeRO*, [arXiv:1910.02054](https://arxiv.org/abs/1910.02054): what is sharded, and the traffic of each stage
# - Li et al., *PyTorch Distributed*, [arXiv:2006.15704](https://arxiv.org/abs/2006.15704): buckets and overlap
# - Hutter, *Learning Curve Theory*, [arXiv:2102.04074](https://arxiv.org/abs/2102.04074): why remembering facts gives a power law

# %% [markdown] lang="zh" part="reading"
# ## 延伸阅读
#
# - Kaplan 等，*Scaling Laws for Neural Language Models*，[arXiv:2001.08361](https://arxiv.org/abs/2001.08361)：C = 6 N D
# - Hoffmann 等，*Training Compute-Optimal Large Language Models*，[arXiv:2203.15556](https://arxiv.org/abs/2203.15556)：Chinchilla
# - Besiroglu 等，*Chinchilla Scaling: A replication attempt*，[arXiv:2404.10102](https://arxiv.org/abs/2404.10102)
# - Rajbhandari 等，*ZeRO*，[arXiv:1910.02054](https://arxiv.org/abs/1910.02054)：分片哪些内容，各阶段的通信量
# - Li 等，*PyTorch Distributed*，[arXiv:2006.15704](https://arxiv.org/abs/2006.15704)：分桶与重叠
# - Hutter，*Learning Curve Theory*，[arXiv:2102.04074](https://arxiv.org/abs/2102.04074)：为什么记忆事实会得到幂律
