# %% [markdown] lang="en"
# # 6. A GPT in 100, 200 and 300 lines

# %% [markdown] lang="zh"
# # 6. 100、200、300 行写一个 GPT

# %% [markdown] lang="en" part="question"
# ## The question
#
# We have characters, positions and attention. What else does it take to make a language model that writes, and how much code is
# that, when nothing is left out?

# %% [markdown] lang="zh" part="question"
# ## 问题
#
# 字符、位置、注意力都有了。要让语言模型写出文字，还差什么？一样不落地写下来，一共要多少代码？

# %% [markdown] lang="en" part="idea"
# ## The idea
#
# A **residual stream**: a vector for each position, to which every layer adds something. Attention moves information between positions;
# a feed-forward network works on each position by itself. Both read a normalized copy and add to the original:
#
# $$x \leftarrow x + \mathrm{attention}(\mathrm{norm}(x)), \qquad x \leftarrow x + \mathrm{mlp}(\mathrm{norm}(x))$$
#
# ```
#   ids --> token rows + position rows --> x
#                                          |----> norm -> attention ---+
#                                          x <-------------------------+
#                                          |----> norm -> mlp ---------+     L blocks of this
#                                          x <-------------------------+
#   logits <-- token table (again) <-- norm <-- x
# ```
#
# Because the stream is only ever added to, the gradient has a straight way from the loss to the first layer. The last step asks, by dot
# products with the rows of the token table itself (**tied** weights), which token x looks most like.

# %% [markdown] lang="zh" part="idea"
# ## 思路
#
# **残差流**：每个位置一个向量，每一层都往上加一点东西。注意力在位置之间搬运信息，前馈网络在每个位置上单独加工。
# 两者都读取归一化后的副本，再加回原向量：
#
# $$x \leftarrow x + \mathrm{attention}(\mathrm{norm}(x)), \qquad x \leftarrow x + \mathrm{mlp}(\mathrm{norm}(x))$$
#
# ```
#   编号 --> 词元嵌入 + 位置嵌入 --> x
#                                    |----> norm -> attention ---+
#                                    x <-------------------------+
#                                    |----> norm -> mlp ---------+     这样的块有 L 个
#                                    x <-------------------------+
#   logits <-- 还是那张词元表 <-- norm <-- x
# ```
#
# 残差流只加不改，梯度因而能从损失一路直达第一层。最后一步用 x 与词元表的各行做点积（**权重共享**），看 x 最像哪个词元。

# %% [markdown] lang="en" part="code"
# ## The model
#
# Everything of GPT-2 is here, only smaller: the sizes are five numbers.

# %% [markdown] lang="zh" part="code"
# ## 模型
#
# GPT-2 的全部部件都在这里，只是小一些：规模由五个数决定。

# %%
import math
import os
import random
import time

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

torch.manual_seed(0)
TEST_SIZE = os.environ.get("GLASSBOX_LESSON_SIZE") == "test"


class Block(nn.Module):
    def __init__(self, size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, D)
        x = x + self.attention(self.norm_1(x))
        return x + self.down(F.gelu(self.up(self.norm_2(x)), approximate="tanh"))

    def attention(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        q, k, v = (
            self.qkv(x).view(B, T, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        )  # each (B, H, T, Dh)
        scores = q @ k.transpose(-2, -1) / math.sqrt(D // self.num_heads)
        future = torch.ones(T, T, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(future, -math.inf).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(B, T, D))


class GPT(nn.Module):
    def __init__(self, vocab: int, context: int, size: int, num_layers: int, num_heads: int):
        super().__init__()
        self.context = context
        self.tokens, self.positions = nn.Embedding(vocab, size), nn.Embedding(context, size)
        self.blocks = nn.ModuleList(Block(size, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(size)
        for (
            name,
            weight,
        ) in (
            self.named_parameters()
        ):  # GPT-2's start: small, and smaller on the way back to the stream
            if weight.dim() == 2:
                branch = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / (math.sqrt(2 * num_layers) if branch else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(self, ids: Tensor) -> Tensor:  # (B, T) -> (B, T, V)
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.tokens.weight.T


with torch.device("meta"):  # shapes without memory
    gpt2 = GPT(vocab=50257, context=1024, size=768, num_layers=12, num_heads=12)
print(f"GPT-2 small has {sum(p.numel() for p in gpt2.parameters()):,} parameters")

# %% [markdown] lang="en"
# That number, 124,439,808, is the published one: a check of every shape at once. Two more checks before training: the loss of a new
# model is $\ln V$ (it knows nothing), and no position sees the future.

# %% [markdown] lang="zh"
# 124,439,808 正是公布的参数量：一个数就核对了所有形状。训练之前再做两项检查：新模型的损失应为 $\ln V$（它一无所知），
# 以及没有哪个位置能看到未来。


# %%
def write_text(sentences: int, seed: int) -> str:
    draw = random.Random(seed)
    animals, places = ["cat", "gull", "hen", "otter", "seal"], ["barn", "beach", "harbour", "hill"]
    lines = []
    for _ in range(sentences):
        one, other = draw.sample(animals, 2)
        place = draw.choice(places)
        lines.append(
            f"the {one} met the {other} at the {place}. the {other} left the {place} and the {one} stayed."
        )
    return "\n".join(lines) + "\n"


text, held_out = write_text(2000, seed=1), write_text(100, seed=2)
characters = sorted(set(text))
number = {character: place for place, character in enumerate(characters)}
data, unseen = (torch.tensor([number[c] for c in one]) for one in (text, held_out))
V, CONTEXT = len(characters), 96
model = GPT(V, CONTEXT, size=64, num_layers=2, num_heads=4)
print(f"{V} characters, {sum(p.numel() for p in model.parameters()):,} parameters")


def loss_of(rows: Tensor) -> Tensor:
    """Rows of CONTEXT + 1 ids: every position predicts the next id."""
    return F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


rows = data[: 8 * (CONTEXT + 1)].view(8, -1)
print(f"loss of the new model {loss_of(rows).item():.3f}, ln V = {math.log(V):.3f}")
ids = rows[:1, :-1]
changed = ids.clone()
changed[0, 50] = (changed[0, 50] + 1) % V
moved = (model(ids) - model(changed)).abs().amax(-1)[0] > 1e-6
print("changing id 50 changes the logits from position", moved.nonzero()[0].item())

# %% [markdown] lang="en"
# ## Training and writing
#
# The sentences have something to learn beyond spelling: who stayed is decided by a word eleven words back. A bigram model cannot know;
# attention can look.

# %% [markdown] lang="zh"
# ## 训练与生成
#
# 这些句子除了拼写还有别的可学：最后留下的是谁，取决于十几个词之前的那个词。二元模型无从知道，注意力却可以去看。

# %%
STEPS = 12 if TEST_SIZE else 500
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
curve, start = [], time.perf_counter()
for step in range(1, STEPS + 1):
    for group in optimizer.param_groups:  # warm up, then a cosine down to a tenth
        warm = min(1.0, step / (STEPS * 0.05))
        group["lr"] = 3e-3 * warm * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / STEPS)))
    begins = torch.randint(len(data) - CONTEXT, (16, 1))
    loss = loss_of(data[begins + torch.arange(CONTEXT + 1)])
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    curve.append(loss.item())
    if step % max(1, STEPS // 4) == 0:
        print(f"step {step:4}: loss {loss.item():.3f}")


@torch.no_grad()
def write(prompt: str, length: int, temperature: float = 0.5) -> str:
    ids = torch.tensor([[number[c] for c in prompt]])
    for _ in range(length):
        logits = model(ids[:, -CONTEXT:])[:, -1] / temperature
        ids = torch.cat((ids, torch.multinomial(logits.softmax(-1), 1)), dim=1)
    return "".join(characters[i] for i in ids[0])


with torch.no_grad():
    count = len(unseen) // (CONTEXT + 1)
    new_text = loss_of(unseen[: count * (CONTEXT + 1)].view(count, -1)).item()
print(f"new text: {new_text:.3f} nats a character")
print(write("the hen met the seal at the hill. the", 120))

# %% alt_en="Training loss against steps: it begins at ln V, falls below the dotted line of a bigram model within the first steps, and flattens far below it." alt_zh="训练损失随步数的变化：从 ln V 开始，几步之内降到虚线（二元模型）以下，最后在远低于它的地方变平。"
pairs = torch.zeros(V, V).index_put(
    (data[:-1], data[1:]), torch.ones(len(data) - 1), accumulate=True
)
table = pairs / pairs.sum(1, keepdim=True)
bigram = -table[data[:-1], data[1:]].log().mean().item()
figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
axis.plot(curve, label="GPT")
axis.axhline(math.log(V), color="gray", linewidth=1, label="ln V")
axis.axhline(bigram, color="black", linestyle=":", label="bigram, counted")
axis.set(xlabel="step", ylabel="nats a character", ylim=(0, None))
axis.legend()
plt.show()

# %% [markdown] lang="en"
# ## 100, 200, 300 lines
#
# Three programs of this repository are this lesson, each in one file that needs torch alone:
#
# - [minimal_llm.py](models/minimal_llm.py), about a hundred lines: the model above, with Adam written out, on a text in the file.
# - [simple_llm.py](models/simple_llm.py), two hundred and fifty: every shape explained, validation, top-k, a checkpoint that resumes to the
#   same bits.
# - [modern_llm.py](models/modern_llm.py), four hundred and fifty (about 350 of code): RMSNorm, rotary positions, grouped queries, SwiGLU, a
#   KV cache, mixed precision; it opens published weights.

# %% [markdown] lang="zh"
# ## 100、200、300 行
#
# 仓库里有三个程序就是这一课，各是一个文件，只依赖 torch：
#
# - [minimal_llm.py](models/minimal_llm.py)，一百来行：就是上面的模型，Adam 也是手写的，训练文本就在文件里。
# - [simple_llm.py](models/simple_llm.py)，二百五十行：每个形状都有说明，有验证、top-k，检查点续训能逐位复现。
# - [modern_llm.py](models/modern_llm.py)，四百五十行（代码约 350 行）：RMSNorm、旋转位置编码、分组查询、SwiGLU、KV 缓存、混合精度，
#   还能打开公开发布的权重。

# %% [markdown] lang="en" part="real"
# ## Now open the real one
#
# - [`CausalLM`](../src/glassbox/models/causal_lm.py): one class for all families; what differs is data ([`ModelConfig`](../src/glassbox/models/config.py)).
# - [`Block`](../src/glassbox/models/block.py): a mixer and a feed-forward on the residual stream, with the norm before, after or beside.
# - [`layer_norm_plain`](../src/glassbox/ops/norms.py) and [`cross_entropy`](../src/glassbox/ops/cross_entropy.py): the pieces of the exercises.
# - [`generate_plain`](../src/glassbox/inference/plain.py) is the loop of `write`; the engine adds the cache and the batch.
#
# The cell below gives our weights to the package's GPT-2 and compares the logits.

# %% [markdown] lang="zh" part="real"
# ## 打开真正的实现
#
# - [`CausalLM`](../src/glassbox/models/causal_lm.py)：所有模型家族共用一个类，差别只在数据（[`ModelConfig`](../src/glassbox/models/config.py)）。
# - [`Block`](../src/glassbox/models/block.py)：残差流上的一个混合层加一个前馈网络，归一化可以在前、在后或并行。
# - [`layer_norm_plain`](../src/glassbox/ops/norms.py) 与 [`cross_entropy`](../src/glassbox/ops/cross_entropy.py)：练习里的部件。
# - [`generate_plain`](../src/glassbox/inference/plain.py) 就是 `write` 里的循环；推理引擎在此之上加了缓存和批处理。
#
# 下面的单元把我们的权重交给本项目的 GPT-2，比较两者的 logit。

# %%
from glassbox import CausalLM, GPT2Shape

real = CausalLM(
    GPT2Shape(hidden_size=64, num_layers=2, num_heads=4, context_length=CONTEXT).config(V)
)
names = {
    "norm_1": "mixer_norm",
    "qkv": "mixer.qkv",
    "out": "mixer.output",
    "norm_2": "ffn_norm",
    "up": "ffn.up",
    "down": "ffn.down",
    "tokens": "embedding",
    "positions": "position_embedding",
    "norm": "final_norm",
}
renamed = {}
for name, weight in model.state_dict().items():
    *front, part, kind = name.split(".")
    renamed[".".join([*front, names[part], kind])] = weight
real.load_state_dict(renamed)
with torch.no_grad():
    ours, theirs = model(ids), real(ids)
print(f"logits differ by {(ours - theirs).abs().max():.1e}, of at most {ours.abs().max():.1f}")

# %% [markdown] lang="en" part="exercises"
# ## Exercises
#
# `glassbox lesson open 6` writes a file with the graded ones.
#
# <!-- exercise 6.1 -->
#
# <!-- exercise 6.2 -->
#
# <!-- exercise 6.3 -->
#
# **6.4 Count on paper** Write the number of parameters as a formula of V, C, D and L, and check it with GPT-2's 124,439,808.
#
# **6.5 What each part is worth** Train without positions, without the mlp, without the norms, with the norm behind the addition. How
# much does each lose on new text?

# %% [markdown] lang="zh" part="exercises"
# ## 练习
#
# `glassbox lesson open 6` 会生成一个文件，里面是可以自动评分的题目。
#
# <!-- exercise 6.1 -->
#
# <!-- exercise 6.2 -->
#
# <!-- exercise 6.3 -->
#
# **6.4 在纸上数参数** 用 V、C、D、L 写出参数量的公式，并用 GPT-2 的 124,439,808 核对。
#
# **6.5 每个部件值多少** 分别去掉位置、前馈网络、归一化，或者把归一化放到相加之后，再训练。新文本上的损失各差多少？

# %% [markdown] lang="en" part="pitfalls"
# ## What goes wrong in practice
#
# - **A first loss far from ln V**: logits are too large (no final norm, a start that is too wide), or the targets are wrong.
# - **A residual from the normalized copy** (`x = norm(x); x = x + f(x)`): it trains, but the straight way is gone.
# - **Weight tying lost when loading**: two tables that drift apart; the saved file is larger than it should be.
# - **GELU exact or by tanh**: the published GPT-2 needs the tanh form; with the other the logits are off in the third digit.
# - **Decay on norms and biases**, which pulls gains to zero. Decay matrices alone.
# - **Context overrun**: positions beyond the table raise an error, or worse, wrap around. Cut the prompt, and say so.

# %% [markdown] lang="zh" part="pitfalls"
# ## 实践中的坑
#
# - **初始损失远离 ln V**：logit 太大（漏了最后的归一化，或初始化方差太大），或者目标取错了。
# - **残差加在了归一化后的副本上**（`x = norm(x); x = x + f(x)`）：也能训练，但直通的路没有了。
# - **加载后权重不再共享**：两张表各走各的，保存的文件也比应有的大。
# - **GELU 用精确式还是 tanh 近似**：公开的 GPT-2 要用 tanh 近似，用错了 logit 在第三位数字上就不一样。
# - **对归一化参数和偏置也做权重衰减**：增益会被拉向零。只衰减矩阵。
# - **超出上下文长度**：位置超出表就会报错，更糟的是绕回开头。要截断提示词，并告诉用户。

# %% [markdown] lang="en" part="reading"
# ## Further reading
#
# - Radford et al., *Language Models are Unsupervised Multitask Learners* (2019): GPT-2
# - Xiong et al., *On Layer Normalization in the Transformer Architecture*, [arXiv:2002.04745](https://arxiv.org/abs/2002.04745): norm before or after
# - [The reading order of our source](../docs/design/reading_order.md)
# - [Lesson 5](05_attention.py): attention by itself

# %% [markdown] lang="zh" part="reading"
# ## 延伸阅读
#
# - Radford 等，*Language Models are Unsupervised Multitask Learners*（2019）：GPT-2
# - Xiong 等，*On Layer Normalization in the Transformer Architecture*，[arXiv:2002.04745](https://arxiv.org/abs/2002.04745)：归一化在前还是在后
# - [源码阅读顺序](../docs/design/reading_order.md)
# - [第 5 课](05_attention.py)：单独讲注意力
