# %% [markdown] lang="en"
# # 23. Looking inside: lens, heads, probes

# %% [markdown] lang="zh"
# # 23. 看进模型内部：透镜、注意力头、探针

# %% [markdown] lang="en" part="question"
# ## The question
#
# A model predicts the right token. How? The weights are all there, millions of numbers, and none of them says "I continue repetitions".
# Which part of the model does the work, when does it know the answer, and how would we notice if our explanation were wrong?

# %% [markdown] lang="zh" part="question"
# ## 问题
#
# 模型预测对了。它是怎么做到的？权重全摆在那里，几百万个数，没有一个写着“我负责续写重复的内容”。
# 到底是哪个部分在起作用，它什么时候知道了答案？如果我们的解释是错的，又怎样才能发现？

# %% [markdown] lang="en" part="idea"
# ## The idea
#
# A transformer is a **sum**. The embedding writes to the residual stream, every head and feed-forward $p$ adds its $y_p$ to it, and the output reads the total:
#
# $$x_L = x_0 + \sum_{p} y_p, \qquad \mathrm{logit}(t) = w_t \cdot \mathrm{norm}(x_L)$$
#
# So three kinds of questions have answers:
#
# ```
#   look     logit lens        read the stream with the output matrix after each layer: when does it know?
#            attention         where does each head look?
#   split    attribution       with the norm's scale held, a logit is a sum over the parts: who said it?
#   change   ablation          take a part out: does the behaviour go with it?
#   ask      probe             train a linear map on the stream: is a fact there to be read?
# ```
#
# Looking suggests a story; only **changing** the model tests it. A head may look at the right place and matter not at all.

# %% [markdown] lang="zh" part="idea"
# ## 思路
#
# Transformer 是一个**和**。嵌入写入残差流，每个头和前馈层 $p$ 往上加自己的 $y_p$，输出层读取总和：
#
# $$x_L = x_0 + \sum_{p} y_p, \qquad \mathrm{logit}(t) = w_t \cdot \mathrm{norm}(x_L)$$
#
# 因此有几类问题可以回答：
#
# ```
#   看      logit lens    每层之后都用输出矩阵读一次残差流：它什么时候知道答案？
#           注意力        每个头在看哪里？
#   拆      归因          固定归一化的尺度，logit 就是各部分之和：是谁说的？
#   改      消融          去掉一个部分：这个行为随之消失吗？
#   问      探针          在残差流上训练一个线性映射：某个事实能从中读出来吗？
# ```
#
# 观察只能提出猜想，**改动**模型才能检验猜想。一个头可以看着正确的位置，却毫无作用。

# %% [markdown] lang="en" part="code"
# ## A model small enough to understand
#
# Two layers of attention, no feed-forward. It is trained on sequences that repeat with a period that changes from row to row, so that positions alone
# do not help: to predict the next token it must find where this token stood before, and say what followed it there.

# %% [markdown] lang="zh" part="code"
# ## 小到能看懂的模型
#
# 两层注意力，没有前馈层。训练序列以某个周期重复，而周期每行不同，只靠位置没有用：
# 要预测下一个词元，就得找到当前词元上次出现的地方，再说出那里后面跟的是什么。

# %%
import math
import os

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

torch.manual_seed(0)
TEST_SIZE = os.environ.get("GLASSBOX_LESSON_SIZE") == "test"
STEPS = 60 if TEST_SIZE else 800
VOCAB, LENGTH, PERIOD, SIZE, HEADS = 20, 24, 12, 64, 4


class Layer(nn.Module):
    """Causal attention that keeps what each head looked at and what it added."""

    def __init__(self):
        super().__init__()
        self.norm = nn.RMSNorm(SIZE)
        self.qkv = nn.Linear(SIZE, 3 * SIZE, bias=False)
        self.out = nn.Linear(SIZE, SIZE, bias=False)
        self.off: set[int] = set()  # heads that are switched off

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).view(B, T, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(SIZE // HEADS)  # (B, H, T, T)
        scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -math.inf)
        self.weights = scores.softmax(-1)
        mixed = self.weights @ v  # (B, H, T, Dh)
        columns = self.out.weight.view(SIZE, HEADS, -1)  # each head has columns of its own
        self.added = torch.einsum("bhtd,ohd->bhto", mixed, columns)  # (B, H, T, D)
        kept = [head for head in range(HEADS) if head not in self.off]
        return self.added[:, kept].sum(1)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCAB, SIZE), nn.Embedding(LENGTH, SIZE)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.5)
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.norm, self.head = nn.RMSNorm(SIZE), nn.Linear(SIZE, VOCAB, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        self.stream = [x]  # before the first layer, and after each
        for layer in self.layers:
            x = x + layer(x)
            self.stream.append(x)
        return self.head(self.norm(x))


def draw(rows: int, period: int | None = None) -> tuple[Tensor, Tensor]:
    """Rows (rows, LENGTH + 1) that repeat after their period, and which positions can be predicted."""
    periods = (
        torch.randint(4, PERIOD + 1, (rows, 1)) if period is None else torch.full((rows, 1), period)
    )
    ids = torch.randint(VOCAB, (rows, PERIOD)).gather(1, torch.arange(LENGTH + 1) % periods)
    return ids, torch.arange(LENGTH) >= periods


def loss_of(model: Model, ids: Tensor, known: Tensor) -> Tensor:
    return F.cross_entropy(model(ids[:, :-1])[known], ids[:, 1:][known])


model = Model()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
for step in range(1, STEPS + 1):
    loss = loss_of(model, *draw(64))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step in (1, STEPS // 4, STEPS // 2, STEPS):
        print(f"step {step:4}: loss {loss.item():.3f}  (guessing {math.log(VOCAB):.3f})")
model.requires_grad_(False)

# %% [markdown] lang="en"
# ## Look: where do the heads look?
#
# On rows of period 12 the second half repeats the first. Two offsets are worth measuring: one back (the previous token), and 11 back, where
# the token stands that *followed* the present one last time.

# %% [markdown] lang="zh"
# ## 看：各个头在看哪里
#
# 在周期为 12 的行里，后一半重复前一半。有两个距离值得测量：往前 1 个（前一个词元），以及往前 11 个，
# 那里正是当前词元上次出现时*后面跟着的*词元。

# %%
ids, known = draw(64, PERIOD)
logits = model(ids[:, :-1])
scores = {}
for name, back in (("previous token", 1), ("what followed last time", PERIOD - 1)):
    print(name)
    for number, layer in enumerate(model.layers):
        looked = layer.weights[:, :, PERIOD:].diagonal(PERIOD - back, dim1=-2, dim2=-1).mean((0, 2))
        scores[name, number] = looked
        print(f"   layer {number}: " + "  ".join(f"{value:.2f}" for value in looked))
first = int(scores["previous token", 0].argmax())
second = int(scores["what followed last time", 1].argmax())

# %% alt_en="Two heat maps of attention weights. The previous-token head of layer 0 has its weight on the diagonal one place back; the induction head of layer 1 has it, in the second half, on the diagonal eleven places back." alt_zh="两幅注意力热力图。第 0 层的“前一词元”头，权重集中在往前一格的对角线上；第 1 层的归纳头，在后半段集中在往前十一格的对角线上。"
figure, axes = plt.subplots(1, 2, figsize=(7.5, 3.5), layout="constrained")
for axis, number, head in ((axes[0], 0, first), (axes[1], 1, second)):
    shown = axis.imshow(model.layers[number].weights[0, head], vmin=0, vmax=1, cmap="viridis")
    axis.set(title=f"layer {number}, head {head}", xlabel="key", ylabel="query")
figure.colorbar(shown, ax=axes, label="weight")
plt.show()

# %% [markdown] lang="en"
# The two belong together. Layer 0 writes into every position *which token came before it*. Layer 1 asks "where was the token that I am,
# as somebody's predecessor?", finds the place behind it, and copies what stands there. That pair is called an **induction head**, and large models have
# it too.
#
# ## Look: when does the model know?
#
# The **logit lens** reads the stream after every layer as if it were the last.

# %% [markdown] lang="zh"
# 这两个头是一套。第 0 层给每个位置写上*它前面是哪个词元*。第 1 层则问：“我这个词元，曾经是谁的前一个？”
# 找到它后面的位置，把那里的词元抄过来。这一对叫作**归纳头**（induction head），大模型里也有。
#
# ## 看：它什么时候知道答案
#
# **logit lens** 在每一层之后，都把残差流当作最后一层来读。


# %%
def lens(model: Model, stream: Tensor) -> Tensor:
    """Log-probabilities (..., V) of what the model would say from this stream (..., D)."""
    return model.head(model.norm(stream)).log_softmax(-1)


for number, stream in enumerate(model.stream):
    right = lens(model, stream).gather(-1, ids[:, 1:, None])[..., 0][known]
    print(f"after {number} layers: the right token has probability {right.exp().mean():.3f}")

# %% [markdown] lang="en"
# ## Split: who said it?
#
# With the norm's scale held at what it was, the logit of the right token is a sum over the embedding and the eight heads, to the last digit.

# %% [markdown] lang="zh"
# ## 拆：是谁说的
#
# 把归一化的尺度固定为当时的值，正确词元的 logit 就是嵌入与八个头的贡献之和，分毫不差。

# %%
parts = {"embedding": model.stream[0]}
for number, layer in enumerate(model.layers):
    parts |= {f"layer {number}, head {head}": layer.added[:, head] for head in range(HEADS)}
total = model.stream[-1]
scale = total.pow(2).mean(-1, keepdim=True).add(torch.finfo(torch.float32).eps).rsqrt()
direction = model.head.weight[ids[:, 1:]] * model.norm.weight  # (B, T, D)
share = {
    name: (part * scale * direction).sum(-1)[known].mean().item() for name, part in parts.items()
}
right_logit = logits.gather(-1, ids[:, 1:, None])[..., 0][known].mean().item()
for name, value in share.items():
    print(f"{name:16} {value:+7.2f}")
print(f"{'sum':16} {sum(share.values()):+7.2f}   the model's logit {right_logit:+.2f}")

# %% [markdown] lang="en"
# The heads of layer 1 say it. Layer 0 says almost nothing *directly*, and yet the story claims that nothing works without it. That is
# a prediction, and it can be tested.
#
# ## Change: take a head out

# %% [markdown] lang="zh"
# 答案是第 1 层的头说的。第 0 层*直接*说的几乎没有，可我们的解释却声称没有它就不行。这是一个可以检验的预测。
#
# ## 改：去掉一个头

# %%
test_ids, test_known = draw(256)
base = loss_of(model, test_ids, test_known).item()
damage = torch.zeros(2, HEADS)
for number, layer in enumerate(model.layers):
    for head in range(HEADS):
        layer.off = {head}
        damage[number, head] = loss_of(model, test_ids, test_known).item() - base
        layer.off = set()
print(f"loss {base:.3f}; more without")
for number in range(2):
    print(f"   layer {number}: " + "  ".join(f"{value:+.2f}" for value in damage[number]))

# %% alt_en="Bar chart of the damage by each of eight heads: the previous-token head of layer 0 does by far the most." alt_zh="八个头各自去掉后损失增加量的柱状图：第 0 层的“前一词元”头造成的损失最大。"
figure, axis = plt.subplots(figsize=(6, 2.4), layout="constrained")
axis.bar([f"{n}.{h}" for n in range(2) for h in range(HEADS)], damage.flatten(), color="#0b7a70")
axis.set(xlabel="layer.head taken out", ylabel="more loss, nats")
plt.show()

# %% [markdown] lang="en"
# The previous-token head is the one that the model cannot do without; the induction heads of layer 1 stand in for each other, since all four do the
# same. So a part can matter without saying anything (the first), and say much without mattering alone (the second): no single
# number is "importance".
#
# ## Ask: is the previous token in the stream?
#
# A **probe** is a linear map trained on the frozen stream. Here it has to read which token came before, and it is judged on rows that it was not trained on.

# %% [markdown] lang="zh"
# 模型离不开的是“前一词元”头；第 1 层的四个归纳头做的是同一件事，可以互相替代。
# 可见一个部分可以什么都不说却至关重要（前者），也可以说了很多，单独去掉却无妨（后者）：没有哪一个数字就叫“重要性”。
#
# ## 问：前一个词元在残差流里吗
#
# **探针**是在冻结的残差流上训练的线性映射。这里要它读出前一个词元是什么，并在没训练过的行上评判。


# %%
def probe_accuracy(number: int) -> float:
    """How often a ridge regression on the stream after `number` layers names the previous token."""
    held = {}
    for split in ("train", "test"):
        ids, _ = draw(200)
        model(ids[:, :-1])
        held[split] = model.stream[number][:, 1:].flatten(0, 1), ids[:, :-2].flatten()
    x, y = held["train"]
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    weights = torch.linalg.solve(
        x.T @ x + 1.0 * torch.eye(SIZE + 1), x.T @ F.one_hot(y, VOCAB).float()
    )
    x, y = held["test"]
    guess = (torch.cat([x, torch.ones(len(x), 1)], dim=1) @ weights).argmax(-1)
    return (guess == y).float().mean().item()


for number in range(3):
    print(
        f"after {number} layers: {100 * probe_accuracy(number):.0f}%   (chance {100 / VOCAB:.0f}%)"
    )

# %% [markdown] lang="en"
# Nothing before layer 0, nearly everything after it: exactly what the story said that this head writes. Four methods agree, and one of them could have
# refuted it.

# %% [markdown] lang="zh"
# 第 0 层之前几乎读不出，之后几乎全能读出：正是我们所说的那个头写进去的东西。四种方法一致，而其中一种本来可以推翻这个解释。

# %% [markdown] lang="en" part="real"
# ## Now open the real one
#
# - [`inspect`](../src/glassbox/inspection/recording.py) records and edits any inner value of the one model class by name, such as
#   `blocks.3.mixer.attention`, and costs nothing where nobody looks.
# - [`logit_lens`](../src/glassbox/inspection/lenses.py) and [`tuned_lens`](../src/glassbox/inspection/lenses.py), which first learns a map for each layer.
# - [`direct_logit_attribution`](../src/glassbox/inspection/attribution.py) is the sum above, by layer or head; held to TransformerLens.
# - [`ablate`](../src/glassbox/inspection/interventions.py) takes heads and branches out, by zero or by their mean.
# - [`head_scores`](../src/glassbox/inspection/attention.py) finds previous-token and induction heads in any model.
# - [`linear_probe`](../src/glassbox/inspection/probes.py) is the probe, with a regularised logistic regression.
#
# The studio shows all of them for a token that you click: `glassbox studio`.

# %% [markdown] lang="zh" part="real"
# ## 打开真正的实现
#
# - [`inspect`](../src/glassbox/inspection/recording.py) 按名字（如 `blocks.3.mixer.attention`）记录或修改模型的任何内部值；没有人看时没有任何开销。
# - [`logit_lens`](../src/glassbox/inspection/lenses.py) 与 [`tuned_lens`](../src/glassbox/inspection/lenses.py)，后者先为每一层学一个映射。
# - [`direct_logit_attribution`](../src/glassbox/inspection/attribution.py) 就是上面的求和，按层或按头；与 TransformerLens 对照过。
# - [`ablate`](../src/glassbox/inspection/interventions.py) 去掉头或分支，置零或换成均值。
# - [`head_scores`](../src/glassbox/inspection/attention.py) 在任意模型里找“前一词元”头和归纳头。
# - [`linear_probe`](../src/glassbox/inspection/probes.py) 是探针，用的是带正则的逻辑回归。
#
# 在 `glassbox studio` 里点击一个词元，就能看到上面这些。

# %%
import glassbox
from glassbox import inspection

torch.manual_seed(1)
shape = glassbox.LlamaShape(
    hidden_size=32, num_layers=2, num_heads=4, ffn_size=64, context_length=32
)
real = glassbox.CausalLM(shape.config(50)).eval()
text, targets = torch.randint(50, (1, 16)), torch.randint(50, (1, 16))
found = inspection.direct_logit_attribution(real, text, targets, by="head")
with torch.no_grad():
    theirs = real(text).gather(-1, targets[..., None])[..., 0]
print(
    f"{len(found.parts)} parts; their sum differs from the logits by {(found.values.sum(0) - theirs).abs().max():.1e}"
)
print(
    "induction scores of random weights:",
    inspection.head_scores(real, length=12).induction.mean(1).tolist(),
)

# %% [markdown] lang="en" part="exercises"
# ## Exercises
#
# `glassbox lesson open 23` writes a file with the graded ones.
#
# <!-- exercise 23.1 -->
#
# <!-- exercise 23.2 -->
#
# <!-- exercise 23.3 -->
#
# **23.4 Both at once** Switch two induction heads off together, then three. When does the behaviour break? Then replace a head's output by its mean over
# the batch instead of zero: for which heads does it make a difference, and why?

# %% [markdown] lang="zh" part="exercises"
# ## 练习
#
# `glassbox lesson open 23` 会生成一个文件，里面是可以自动评分的题目。
#
# <!-- exercise 23.1 -->
#
# <!-- exercise 23.2 -->
#
# <!-- exercise 23.3 -->
#
# **23.4 一起去掉** 同时关掉两个归纳头，再关掉三个。行为从什么时候开始失效？再把头的输出换成整批的均值而不是零：对哪些头结果不同，为什么？

# %% [markdown] lang="en" part="pitfalls"
# ## What goes wrong in practice
#
# - **Attention taken for explanation.** A head that looks somewhere need not use what it sees: its values may be near zero. Ablate it.
# - **Zero is not neutral.** A head that always adds the same vector looks indispensable when it is set to zero; the mean is the fairer baseline.
# - **Heads stand in for each other**: each alone does no damage, all together do. Take out groups too.
# - **The lens without the final norm** mostly shows which tokens have long vectors.
# - **A norm for each part** instead of one for the sum: the parts then no longer add up to the logit. Always check the sum.
# - **A probe that learns the task itself.** With enough parameters it finds what the model never uses. Compare with the embedding, with shuffled labels, and
#   judge on other rows.
# - **Tensors kept by hooks** after the pass: memory grows from call to call.

# %% [markdown] lang="zh" part="pitfalls"
# ## 实践中的坑
#
# - **把注意力当成解释。** 一个头看着某处，不等于用上了看到的东西：它的值可能接近零。要做消融。
# - **零不是中性的。** 总是加同一个向量的头，置零后显得不可或缺；换成均值更公平。
# - **头之间可以互相替代**：单独去掉都没事，一起去掉就坏了。也要成组地消融。
# - **透镜忘了最后的归一化**，看到的多半只是哪些词元的向量更长。
# - **给每个部分各做一次归一化**，而不是对总和做一次：各部分加起来就不再等于 logit。一定要检查总和。
# - **探针自己学会了任务。** 参数足够多时，它能读出模型从不使用的东西。要与嵌入层、打乱的标签对比，并在别的行上评判。
# - **钩子保留的张量**在前向结束后没有释放：内存随调用不断增长。

# %% [markdown] lang="en" part="reading"
# ## Further reading
#
# - Elhage et al., *A Mathematical Framework for Transformer Circuits*, 2021: the residual stream as a sum
# - Olsson et al., *In-context Learning and Induction Heads*, [arXiv:2209.11895](https://arxiv.org/abs/2209.11895)
# - Belrose et al., *Eliciting Latent Predictions with the Tuned Lens*, [arXiv:2303.08112](https://arxiv.org/abs/2303.08112)
# - Michel et al., *Are Sixteen Heads Really Better than One?*, [arXiv:1905.10650](https://arxiv.org/abs/1905.10650): ablation
# - [The guide to inspection](../docs/guides/inspection.md)

# %% [markdown] lang="zh" part="reading"
# ## 延伸阅读
#
# - Elhage 等，*A Mathematical Framework for Transformer Circuits*，2021：残差流是一个和
# - Olsson 等，*In-context Learning and Induction Heads*，[arXiv:2209.11895](https://arxiv.org/abs/2209.11895)
# - Belrose 等，*Eliciting Latent Predictions with the Tuned Lens*，[arXiv:2303.08112](https://arxiv.org/abs/2303.08112)
# - Michel 等，*Are Sixteen Heads Really Better than One?*，[arXiv:1905.10650](https://arxiv.org/abs/1905.10650)：消融
# - [查看模型内部的指南](../docs/guides/inspection.md)
