# %% [markdown] lang="en"
# # 15. Fine-tuning, LoRA, QLoRA

# %% [markdown] lang="zh"
# # 15. 微调、LoRA、QLoRA

# %% [markdown] lang="en" part="question"
# ## The question
#
# A model of 7 billion weights needs 112 GB to train ([lesson 14](14_scaling.py)). You have one GPU of 24 GB and a few hundred examples of
# how it should answer. How can the model be taught?

# %% [markdown] lang="zh" part="question"
# ## 问题
#
# 训练 70 亿参数的模型需要 112 GB（[第 14 课](14_scaling.py)）。你只有一张 24 GB 的 GPU，和几百条“应该怎样回答”的样例。怎样教会它？

# %% [markdown] lang="en" part="idea"
# ## The idea
#
# **Fine-tuning** goes on with the same loss, the next token, but counts **the answer's tokens alone**: the model should learn to
# answer, not to ask.
#
# **LoRA** freezes every weight W and adds a product of two thin matrices; only these are trained:
#
# $$y = W x + \frac{\alpha}{r}\, B A x, \qquad A \in \mathbb{R}^{r \times I},\; B \in \mathbb{R}^{O \times r},\; B = 0 \text{ at first}$$
#
# ```
#   x (I) ---------------- W, frozen (O x I) ----------------> + --> y (O)
#     \                                                       /
#      \---- A (r x I) ----> r numbers ---- B (O x r) ---- alpha / r
# ```
#
# Gradients and Adam's numbers exist for A and B alone. What is left is W itself, 2 bytes a weight. **QLoRA** stores it in 4 bits: a code
# for each weight, one scale for 64 of them, and 16 levels placed where a normal distribution has equal shares.

# %% [markdown] lang="zh" part="idea"
# ## 思路
#
# **微调**沿用同样的损失（预测下一个词元），但**只计算回答部分的词元**：模型要学的是回答，不是提问。
#
# **LoRA** 冻结所有权重 W，加上两个瘦矩阵的乘积，只训练这两个矩阵：
#
# $$y = W x + \frac{\alpha}{r}\, B A x, \qquad A \in \mathbb{R}^{r \times I},\; B \in \mathbb{R}^{O \times r},\; B = 0 \text{ at first}$$
#
# ```
#   x (I) ---------------- W，冻结 (O x I) ------------------> + --> y (O)
#     \                                                       /
#      \---- A (r x I) ----> r 个数 ------- B (O x r) ---- alpha / r
# ```
#
# 梯度和 Adam 的状态只需为 A 和 B 保存，剩下的就是 W 本身，每个权重 2 字节。**QLoRA** 用 4 位来存它：
# 每个权重一个编码，每 64 个共用一个缩放系数，16 个量化级按正态分布的等概率位置来放。

# %% [markdown] lang="en" part="code"
# ## A base model
#
# The model of [lesson 6](06_gpt.py), small. It has learned one thing: to write every letter's successor ("cab>dbc."). We shall teach it
# to go three letters on instead.

# %% [markdown] lang="zh" part="code"
# ## 基座模型
#
# 用[第 6 课](06_gpt.py)的模型，规模很小。它只学过一件事：写出每个字母的下一个字母（“cab>dbc.”）。我们要教它改成往后数三个。

# %%
import copy
import math
import os

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

torch.manual_seed(0)
TEST_SIZE = os.environ.get("GLASSBOX_LESSON_SIZE") == "test"

LETTERS, WORD = 12, 5
ARROW, STOP, VOCAB = LETTERS, LETTERS + 1, LETTERS + 2
LENGTH = 2 * WORD + 2


def examples(rows: int, shift: int) -> Tensor:
    """Rows of WORD letters, ">", the same letters `shift` further on, "."."""
    word = torch.randint(LETTERS, (rows, WORD))
    arrow, stop = torch.full((rows, 1), ARROW), torch.full((rows, 1), STOP)
    return torch.cat((word, arrow, (word + shift) % LETTERS, stop), dim=1)


def spell(ids: Tensor) -> str:
    return "".join("abcdefghijkl>."[i] for i in ids)


class Block(nn.Module):
    def __init__(self, size: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.q, self.k, self.v, self.out = (nn.Linear(size, size) for _ in range(4))
        self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        normed = self.norm_1(x)
        q, k, v = (
            f(normed).view(B, T, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(B, T, D))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class GPT(nn.Module):
    def __init__(self, size: int = 64, layers: int = 2, heads: int = 4):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, size), nn.Embedding(LENGTH, size)
        self.blocks = nn.ModuleList(Block(size, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(size), nn.Linear(size, VOCAB, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def answer_loss(logits: Tensor, ids: Tensor, prompt: int = WORD + 1) -> Tensor:
    """Mean over the answer's tokens: position t predicts token t + 1, and the first answer token is number `prompt`."""
    return F.cross_entropy(logits[:, prompt - 1 : -1].flatten(0, 1), ids[:, prompt:].flatten())


@torch.no_grad()
def right(model: nn.Module, shift: int) -> float:
    """Share of letters that are answered rightly."""
    ids = examples(200, shift)
    guess = model(ids)[:, WORD : 2 * WORD].argmax(-1)
    return (guess == ids[:, WORD + 1 : 2 * WORD + 1]).float().mean().item()


base = GPT()
optimizer = torch.optim.AdamW(base.parameters(), lr=3e-3)
STEPS = 110 if TEST_SIZE else 400
for _ in range(STEPS):
    ids = examples(64, shift=1)
    loss = answer_loss(base(ids), ids)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"base model: {right(base, 1):.0%} of the letters one on, {right(base, 3):.0%} three on")

# %% [markdown] lang="en"
# Why count answers alone? The prompts here are random letters, and no model can do better on them than $\ln 12 = 2.48$. Counted in, they hide the part that
# matters, and their gradient is noise.

# %% [markdown] lang="zh"
# 为什么只算回答？这里的提示词是随机字母，任何模型在上面的损失都不可能低于 $\ln 12 = 2.48$。把它们算进来，
# 真正重要的部分就被掩盖了，而且带来的梯度只是噪声。

# %%
ids = examples(64, shift=1)
logits = base(ids)
everything = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
print(f"answers alone {answer_loss(logits, ids).item():.3f}, with prompts {everything.item():.3f}")

# %% [markdown] lang="en"
# ## LoRA
#
# B begins at zero, so the adapted model begins as the base model. It also means that in the first step only B has a gradient: the one of A
# is multiplied by B.

# %% [markdown] lang="zh"
# ## LoRA
#
# B 从零开始，所以加上适配器的模型一开始与基座完全相同。这也意味着第一步只有 B 有梯度：A 的梯度要乘上 B。


# %%
class Lora(nn.Module):
    def __init__(self, base: nn.Module, inputs: int, outputs: int, rank: int, alpha: float):
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), alpha / rank
        self.A = nn.Parameter(torch.empty(rank, inputs).uniform_(-1, 1) / math.sqrt(inputs))
        self.B = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * (x @ self.A.T) @ self.B.T


def with_lora(model: GPT, rank: int, alpha: float, quantize=lambda linear: linear) -> GPT:
    """A copy of a model whose linear layers in the blocks have adapters; all else is frozen."""
    adapted = copy.deepcopy(model).requires_grad_(False)
    for block in adapted.blocks:
        for name, linear in list(block.named_children()):
            if isinstance(linear, nn.Linear):
                setattr(
                    block,
                    name,
                    Lora(quantize(linear), linear.in_features, linear.out_features, rank, alpha),
                )
    return adapted


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


lora = with_lora(base, rank=4, alpha=8.0)
ids = examples(4, shift=3)
print("begins as the base model:", torch.equal(lora(ids), base(ids)))
answer_loss(lora(ids), ids).backward()
one = lora.blocks[0].up
print(f"first gradients: A {one.A.grad.norm():.3f}, B {one.B.grad.norm():.3f}")
total, few = sum(p.numel() for p in base.parameters()), sum(p.numel() for p in trained(lora))
print(f"trained: {few:,} of {total:,} ({few / total:.1%})")


def tune(model: nn.Module, rate: float, shift: int = 3) -> list[float]:
    """Train what is trainable on 256 examples; the losses."""
    torch.manual_seed(1)
    data, losses = examples(256, shift), []
    optimizer = torch.optim.AdamW(trained(model), lr=rate, weight_decay=0.0)
    for _ in range(TUNE_STEPS):
        rows = data[torch.randint(len(data), (32,))]
        loss = answer_loss(model(rows), rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


TUNE_STEPS = 70 if TEST_SIZE else 300
full = copy.deepcopy(base)
curves = {"all weights": tune(full, 1e-3), "LoRA": tune(lora, 1e-2)}
for name, model in (("all weights", full), ("LoRA", lora)):
    print(
        f"{name:12} three on: {right(model, 3):.0%}, one on (what it could before): {right(model, 1):.0%}"
    )

# %% [markdown] lang="en"
# Both learn the new thing and unlearn the old: nothing in the data says that it should be kept. With LoRA the old model is still there; take the adapter off. Or
# **merge** it, $W + \frac{\alpha}{r} B A$, and the model is as fast as before.

# %% [markdown] lang="zh"
# 两种做法都学会了新任务，也都忘了旧任务：数据里没有什么要求它保留。而用 LoRA 时旧模型还在，摘下适配器就是。
# 也可以把它**合并**进去，$W + \frac{\alpha}{r} B A$，推理就和原来一样快。

# %%
one = lora.blocks[1].down
merged = one.base.weight + one.scale * one.B @ one.A
x = torch.randn(5, merged.shape[1])
apart = (F.linear(x, merged, one.base.bias) - one(x)).abs().max().item()
change = torch.linalg.svdvals(merged - one.base.weight)
print(
    f"merged differs by {apart:.1e}; the change has rank {int((change > 1e-5 * change[0]).sum())}"
)

# %% [markdown] lang="en"
# ## Four bits: where to put sixteen levels
#
# Trained weights are roughly normal. Equally spaced levels waste codes on the rare ends. **NF4** puts them at quantiles, so that each code is used
# about equally often. One level is exactly zero (padding and pruned weights stay zero), 7 are below and 8 above; the outermost quantile
# cannot be 1, as its value would be infinite, so it begins at 0.9677: halfway between $1 - \frac{1}{32}$ and $1 - \frac{1}{30}$.

# %% [markdown] lang="zh"
# ## 四位：十六个量化级放在哪里
#
# 训练好的权重大致服从正态分布。等间距的量化级会把编码浪费在罕见的两端。**NF4** 把它们放在分位点上，让每个编码用得差不多一样多。
# 其中一个恰好是零（填充和剪掉的权重仍是零），7 个在下、8 个在上；最外侧的分位不能取 1，否则值是无穷大，
# 因此取 0.9677，即 $1 - \frac{1}{32}$ 与 $1 - \frac{1}{30}$ 的中点。

# %%
edge = (1 - 1 / 32 + 1 - 1 / 30) / 2
above = torch.special.ndtri(torch.linspace(edge, 0.5, 9, dtype=torch.float64)[:-1])
below = -torch.special.ndtri(torch.linspace(edge, 0.5, 8, dtype=torch.float64)[:-1])
NF4 = torch.cat((below, torch.zeros(1, dtype=torch.float64), above)).sort().values
NF4 = (NF4 / NF4.max()).float()
INT4 = torch.linspace(-1, 1, 15)  # equally spaced, with zero: -7 to 7
print("levels:", " ".join(f"{level:.3f}" for level in NF4.tolist()))

BLOCK = 64


def quantize(x: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (numbers) and one scale for each block of 64: the level nearest to x / largest |x|."""
    blocks = x.reshape(-1, BLOCK)
    scales = blocks.abs().amax(dim=1, keepdim=True)
    middles = (levels[:-1] + levels[1:]) / 2
    return torch.bucketize(blocks / scales.clamp(min=1e-38), middles).to(torch.uint8), scales


def dequantize(codes: Tensor, scales: Tensor, levels: Tensor, shape: torch.Size) -> Tensor:
    return (levels[codes.long()] * scales).view(shape)


weights = torch.randn(1000, BLOCK)
for name, levels in (("NF4", NF4), ("equally spaced", INT4)):
    codes, scales = quantize(weights, levels)
    error = (dequantize(codes, scales, levels, weights.shape) - weights).square().mean().sqrt()
    used = codes.long().flatten().bincount(minlength=len(levels)) / codes.numel()
    entropy = -(used * used.clamp(min=1e-9).log2()).sum()
    print(f"{name:15} error {error:.4f} of 1, {entropy:.2f} bits of information in each code")

packed = codes[:, ::2] << 4 | codes[:, 1::2]
print(f"two codes a byte: {packed.numel()} bytes for {weights.numel()} weights")
print(
    f"bits a weight: {4 + 32 / 64:.3f} with a float for each scale, {4 + 8 / 64 + 32 / (64 * 256):.3f} with scales in 8 bits"
)

# %% [markdown] lang="en"
# The last line is QLoRA's **double quantization**: scales are quantized too, in blocks of 256.
#
# ## QLoRA
#
# The frozen weight is kept as bytes and turned into numbers at every use. Gradients flow through it to the input, none to it.

# %% [markdown] lang="zh"
# 最后一行就是 QLoRA 的**双重量化**：缩放系数自己也量化，每 256 个一块。
#
# ## QLoRA
#
# 冻结的权重以字节形式保存，每次用到时再还原。梯度穿过它传给输入，但不传给它。


# %%
class Nf4Linear(nn.Module):
    def __init__(self, linear: nn.Linear):
        super().__init__()
        codes, scales = quantize(linear.weight.detach(), NF4)
        self.shape = linear.weight.shape
        self.register_buffer(
            "codes", codes[:, ::2] << 4 | codes[:, 1::2]
        )  # buffers: saved with the model
        self.register_buffer("scales", scales)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        codes = torch.stack((self.codes >> 4, self.codes & 15), dim=-1).flatten(1)
        return F.linear(x, dequantize(codes, self.scales, NF4, self.shape), self.bias)


def bytes_to_train(model: nn.Module) -> int:
    """Weights, buffers, and 12 bytes for each trained weight: gradient, m and v."""
    kept = sum(x.nbytes for x in (*model.parameters(), *model.buffers()))
    return kept + 12 * sum(p.numel() for p in trained(model))


qlora = with_lora(base, rank=4, alpha=8.0, quantize=Nf4Linear)
print(f"quantized base: {right(qlora, 1):.0%} one on, without training")
curves["QLoRA"] = tune(qlora, 1e-2)
models = {"all weights": full, "LoRA": lora, "QLoRA": qlora}
for name, model in models.items():
    print(f"{name:12} {bytes_to_train(model):9,} bytes, three on: {right(model, 3):.0%}")

# %% alt_en="Three panels. Left: the density of a normal distribution with the NF4 levels as ticks, close together in the middle and far apart at the ends, above equally spaced ones. Middle: losses of fine-tuning all weights, LoRA and QLoRA, which all fall to nearly zero. Right: bars of the bytes needed to train; all weights need most, QLoRA least." alt_zh="三幅图。左：正态密度曲线，下方标出 NF4 量化级，中间密、两端疏，再下方是等间距的量化级。中：全参微调、LoRA、QLoRA 的损失，都降到接近零。右：训练所需字节数的柱状图，全参最多，QLoRA 最少。"
figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
grid = torch.linspace(-3, 3, 200)
top = weights.abs().amax(dim=1).mean()  # the typical scale of a block
axes[0].plot(grid, torch.exp(-grid.square() / 2) / math.sqrt(2 * math.pi), color="black")
for height, levels, name in ((-0.03, NF4, "NF4"), (-0.09, INT4, "equally spaced")):
    axes[0].plot(levels * top, torch.full_like(levels, height), "|", markersize=12, label=name)
axes[0].set(title="levels", xlabel="weight", yticks=[])
axes[0].legend(fontsize=8)
for name, losses in curves.items():
    axes[1].plot(losses, label=name)
axes[1].set(title="fine-tuning", xlabel="step", ylabel="loss of answers", yscale="log")
axes[1].legend(fontsize=8)
axes[2].bar(
    list(models),
    [bytes_to_train(model) / 1e6 for model in models.values()],
    color=["C0", "C1", "C2"],
)
axes[2].set(title="memory to train", ylabel="MB")
plt.show()

# %% [markdown] lang="en"
# With embeddings and vectors in full precision, this tiny model shows only part of the gain. For 7 billion weights: 112 GB for all weights, about 14 GB in bf16 with LoRA,
# about 4 GB with QLoRA, and activations on top.

# %% [markdown] lang="zh"
# 这个小模型的嵌入和向量仍是全精度，只能看到部分收益。对 70 亿参数：全参训练 112 GB，LoRA 配 bf16 约 14 GB，QLoRA 约 4 GB，激活另算。

# %% [markdown] lang="en" part="real"
# ## Now open the real one
#
# - [`Lora`](../src/glassbox/adapters/lora.py) is the spec (targets, rank, alpha, DoRA, rank-stabilized), [`LowRank`](../src/glassbox/adapters/lora.py) the
#   layer; it also knows fused matrices.
# - [`attach`](../src/glassbox/adapters/attach.py) puts adapters onto a model, [`quantize`](../src/glassbox/adapters/attach.py) its base into
#   4 bits, [`bake`](../src/glassbox/adapters/attach.py) merges.
# - [`quantize_nf4`](../src/glassbox/ops/quantization.py) gives bitsandbytes' codes, with double quantization; [`Nf4Linear`](../src/glassbox/layers/quantized.py) keeps no
#   whole weight for the backward pass.
# - [The guide to fine-tuning](../docs/guides/finetuning.md) has the commands.

# %% [markdown] lang="zh" part="real"
# ## 打开真正的实现
#
# - [`Lora`](../src/glassbox/adapters/lora.py) 是配置（目标层、秩、alpha、DoRA、rsLoRA），[`LowRank`](../src/glassbox/adapters/lora.py) 是对应的层，
#   也能处理融合矩阵。
# - [`attach`](../src/glassbox/adapters/attach.py) 给模型挂上适配器，[`quantize`](../src/glassbox/adapters/attach.py) 把基座量化成 4 位，
#   [`bake`](../src/glassbox/adapters/attach.py) 负责合并。
# - [`quantize_nf4`](../src/glassbox/ops/quantization.py) 给出的编码与 bitsandbytes 完全一致，含双重量化；
#   [`Nf4Linear`](../src/glassbox/layers/quantized.py) 不为反向保留完整权重。
# - 命令见[微调指南](../docs/guides/finetuning.md)。

# %%
from glassbox import CausalLM, GPT2Shape
from glassbox.adapters.attach import attach
from glassbox.adapters.lora import Lora as RealLora
from glassbox.ops.quantization import dequantize_nf4, nf4_table, quantize_nf4

print(f"levels differ by {(NF4 - nf4_table()).abs().max():.1e}")
weight = base.blocks[0].up.weight.detach()
theirs = quantize_nf4(weight)
codes, scales = quantize(weight, NF4)
ours = (codes[:, ::2] << 4 | codes[:, 1::2]).flatten()
print("same codes:", torch.equal(ours, theirs.codes))
double = dequantize_nf4(theirs, tuple(weight.shape)) - dequantize(codes, scales, NF4, weight.shape)
print(
    f"double quantization changes weights by {double.abs().max():.1e}, of at most {weight.abs().max():.2f}"
)

real = CausalLM(
    GPT2Shape(hidden_size=64, num_layers=2, num_heads=4, context_length=16).config(VOCAB)
)
attach(real, RealLora(rank=4, alpha=8.0))
print(
    f"the real one trains {sum(p.numel() for p in trained(real)):,} weights, ours {few:,}: q, k and v are one matrix there and three here"
)

# %% [markdown] lang="en" part="exercises"
# ## Exercises
#
# `glassbox lesson open 15` writes a file with the graded ones.
#
# <!-- exercise 15.1 -->
#
# <!-- exercise 15.2 -->
#
# <!-- exercise 15.3 -->
#
# **15.4 How much rank?** Plot the letters answered rightly over the rank (1, 2, 4, 8, 16), with alpha = 2 r and with alpha fixed at 8. Which of them needs a new learning rate for each rank?
#
# **15.5 Keep the old** Mix examples with shift 1 into the fine-tuning, with a fourteenth letter in front that says which is meant. How many are needed?

# %% [markdown] lang="zh" part="exercises"
# ## 练习
#
# `glassbox lesson open 15` 会生成一个文件，里面是可以自动评分的题目。
#
# <!-- exercise 15.1 -->
#
# <!-- exercise 15.2 -->
#
# <!-- exercise 15.3 -->
#
# **15.4 秩要多大？** 画出正确率随秩（1、2、4、8、16）的变化，一组取 alpha = 2 r，一组 alpha 固定为 8。哪一组每换一个秩就要重调学习率？
#
# **15.5 保住旧能力** 在微调数据里混入 shift 为 1 的样例，并在开头加一个新符号说明要哪一种。需要混入多少条？

# %% [markdown] lang="en" part="pitfalls"
# ## What goes wrong in practice
#
# - **The first answer token is never trained**, because the mask is shifted and the targets are not (or the other way round). The model answers well
#   once it has begun, and begins badly.
# - **Another template at inference than in training**, a space or a newline too much: the loss was fine, the answers are those of the
#   base model.
# - **Truncation that cuts the answer.** Long prompts leave rows without a target; the mean over zero tokens is NaN, or such rows are dropped unseen.
# - **A and B both zero** at the start: no gradient reaches either, and the loss does not move at all. Both random: the first step starts from a
#   damaged model.
# - **A rate for full fine-tuning used for LoRA**: ten times too small, and it seems that LoRA cannot learn the task.
# - **Merging into a 4-bit base and quantizing again**: the small update is lost in the rounding. Merge into the weights in higher precision.
# - **Scales that are no buffers**: the saved model has codes and no scales, and does not load.

# %% [markdown] lang="zh" part="pitfalls"
# ## 实践中的坑
#
# - **回答的第一个词元从没训练过**：掩码移了一位而目标没移（或者反过来）。模型一旦开了头就答得不错，但开头总是很糟。
# - **推理时的对话模板与训练时不同**，多一个空格或换行：损失很好看，回答却还是基座模型的样子。
# - **截断切掉了回答。** 提示词太长，整行没有目标；对零个词元求平均得到 NaN，或者这些行被悄悄丢掉。
# - **A 和 B 都初始化为零**：两者都没有梯度，损失纹丝不动。都随机初始化：第一步就从一个被破坏的模型开始。
# - **LoRA 用了全参微调的学习率**：小了十倍，看起来像是 LoRA 学不会。
# - **合并到 4 位基座后再量化一次**：微小的更新被舍入吃掉。应合并到更高精度的权重上。
# - **缩放系数没有注册为 buffer**：保存的模型只有编码没有缩放系数，加载不了。

# %% [markdown] lang="en" part="reading"
# ## Further reading
#
# - Hu et al., *LoRA*, [arXiv:2106.09685](https://arxiv.org/abs/2106.09685)
# - Dettmers et al., *QLoRA*, [arXiv:2305.14314](https://arxiv.org/abs/2305.14314): section 3, and appendix E for the levels; [their derivation](../docs/theory/nf4.md)
# - Kalajdzievski, *A Rank Stabilization Scaling Factor for LoRA*, [arXiv:2312.03732](https://arxiv.org/abs/2312.03732)
# - Liu et al., *DoRA*, [arXiv:2402.09353](https://arxiv.org/abs/2402.09353)

# %% [markdown] lang="zh" part="reading"
# ## 延伸阅读
#
# - Hu 等，*LoRA*，[arXiv:2106.09685](https://arxiv.org/abs/2106.09685)
# - Dettmers 等，*QLoRA*，[arXiv:2305.14314](https://arxiv.org/abs/2305.14314)：第 3 节；量化级见附录 E，[推导](../docs/theory/nf4.md)
# - Kalajdzievski，*A Rank Stabilization Scaling Factor for LoRA*，[arXiv:2312.03732](https://arxiv.org/abs/2312.03732)
# - Liu 等，*DoRA*，[arXiv:2402.09353](https://arxiv.org/abs/2402.09353)
