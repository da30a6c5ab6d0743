# %% [markdown] lang="en"
# # 8. Training by hand

# %% [markdown] lang="zh"
# # 8. 亲手训练

# %% [markdown] lang="en" part="question"
# ## The question
#
# `loss.backward(); optimizer.step()` hides everything that decides whether a model learns. What does the optimizer do with a gradient, why does the rate rise and then
# fall, what is clipped, what is rounded, and what must be saved so that a run that was killed goes on as if nothing had happened?

# %% [markdown] lang="zh" part="question"
# ## 问题
#
# `loss.backward(); optimizer.step()` 把决定模型学不学得会的一切都藏了起来。优化器拿梯度做了什么，学习率为什么先升后降，裁剪的是什么，舍入的是什么，
# 又要保存哪些东西，被杀掉的训练才能像什么都没发生过一样继续？

# %% [markdown] lang="en" part="idea"
# ## The idea
#
# A training step is five lines. The loss says how surprised the model was, the gradient says how each weight made it so, and the rest is caution:
#
# ```
#   loss      cross-entropy         -log p(right token), mean over the tokens that count
#   gradient  backward
#   clip      one length for all    no step may be longer than a bound, whatever one batch says
#   rate      warm-up, cosine       small while moments are unknown, large, then small again to settle
#   step      AdamW                 mean of gradients / root of mean of squares, and a little decay
# ```
#
# **AdamW** keeps two running means for each weight, of the gradient $g$ and of its square:
#
# $$m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2$$
#
# $$w_t = w_{t-1} - \eta_t \left( \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} + \lambda\, w_{t-1} \right)$$
#
# Both means begin at zero and are too small at first; the divisors mend exactly that. The quotient is about 1 in size whatever the gradient's scale, so that a rate means the same for every layer. The decay
# $\lambda w$ stands *outside* of the quotient: that is the W.

# %% [markdown] lang="zh" part="idea"
# ## 思路
#
# 训练的一步只有五行。损失说明模型有多意外，梯度说明每个权重怎样造成了这种意外，其余都是谨慎：
#
# ```
#   损失      交叉熵                -log p(正确词元)，对要计入的词元取平均
#   梯度      反向传播
#   裁剪      所有梯度合起来的长度  不管某一批说什么，一步都不许超过上限
#   学习率    预热加余弦            矩还不准时小，然后大，最后再变小以便收敛
#   更新      AdamW                 梯度的均值 / 平方均值的根，再加一点衰减
# ```
#
# **AdamW** 为每个权重维护两个滑动平均，一个是梯度 $g$ 的，一个是其平方的：
#
# $$m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2$$
#
# $$w_t = w_{t-1} - \eta_t \left( \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} + \lambda\, w_{t-1} \right)$$
#
# 两个平均都从零开始，起初偏小，分母恰好修正这一点。不论梯度的尺度如何，商的大小都约为 1，因此同一个学习率对每一层意义相同。
# 衰减 $\lambda w$ 放在商的*外面*：这就是 W 的含义。

# %% [markdown] lang="en" part="code"
# ## The loss, without overflow
#
# Cross-entropy is the log-sum-exp of the logits minus the right one. Taking off the largest logit first changes nothing and keeps `exp` in bounds. Targets of -100 do not count:
# neither above the fraction line nor below it.

# %% [markdown] lang="zh" part="code"
# ## 不会溢出的损失
#
# 交叉熵等于 logits 的 log-sum-exp 减去正确的那一个。先减去最大的 logit，结果不变，`exp` 却不会越界。目标为 -100 的不计入：分子分母都不计。

# %%
import copy
import math
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

torch.manual_seed(0)
TEST_SIZE = os.environ.get("GLASSBOX_LESSON_SIZE") == "test"
STEPS = 60 if TEST_SIZE else 400


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """logits (N, V), targets (N); -100 does not count."""
    counted = targets != -100
    logits, targets = logits[counted], targets[counted]
    top = logits.max(dim=-1, keepdim=True).values
    total = top[:, 0] + (logits - top).exp().sum(-1).log()
    return (total - logits.gather(1, targets[:, None])[:, 0]).mean()


logits = torch.randn(6, 10) * 100  # exp(100) would be infinite in float32
targets = torch.tensor([3, -100, 0, 9, -100, 1])
print(
    "like torch's:",
    torch.allclose(cross_entropy(logits, targets), F.cross_entropy(logits, targets)),
)

# %% [markdown] lang="en"
# ## AdamW in ten lines, beside torch's
#
# We train the same small model twice from the same weights: with our step, and with torch's. After many steps the weights must still agree.

# %% [markdown] lang="zh"
# ## 十行的 AdamW，与 torch 的并排
#
# 从同样的权重出发，把同一个小模型训练两遍：一遍用我们的更新，一遍用 torch 的。许多步之后，权重应当仍然一致。


# %%
class AdamW:
    def __init__(self, parameters: list[Tensor], betas=(0.9, 0.95), eps=1e-8, decay=0.1):
        self.parameters, self.betas, self.eps, self.decay, self.step_number = (
            parameters,
            betas,
            eps,
            decay,
            0,
        )
        self.m = [torch.zeros_like(p) for p in parameters]
        self.v = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        self.step_number += 1
        one, two = (1 - beta**self.step_number for beta in self.betas)
        for p, m, v in zip(self.parameters, self.m, self.v, strict=True):
            m.lerp_(p.grad, 1 - self.betas[0])
            v.lerp_(p.grad.square(), 1 - self.betas[1])
            p.mul_(1 - lr * self.decay)  # outside of the quotient
            p.sub_(lr * (m / one) / ((v / two).sqrt() + self.eps))


def make_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Embedding(27, 24), nn.Flatten(), nn.Linear(72, 64), nn.GELU(), nn.Linear(64, 27)
    )


TEXT = "the cat sat on the mat and the dog sat on the log while the rat ran under the mat "
CODES = torch.tensor([26 if c == " " else ord(c) - 97 for c in TEXT * 4])
CONTEXTS = CODES.unfold(0, 4, 1)  # three characters, and the one that follows


def batch(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    rows = CONTEXTS[torch.randint(len(CONTEXTS), (size,), generator=generator)]
    return rows[:, :3], rows[:, 3]


ours, theirs = make_model(), make_model()
mine = AdamW(list(ours.parameters()))
torchs = torch.optim.AdamW(theirs.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
generator = torch.Generator().manual_seed(2)
for _ in range(50):
    inputs, answers = batch(32, generator)
    for model in (ours, theirs):
        model.zero_grad()
        cross_entropy(model(inputs), answers).backward()
    mine.step(3e-3)
    torchs.step()
apart = max(
    float((a - b).detach().abs().max())
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
)
print(f"after 50 steps the weights differ by {apart:.1e}")

# %% [markdown] lang="en"
# ## Clipping, and the rate
#
# All gradients together have one length. If it is above the bound, all are scaled by the same factor: the direction stays, only the step is shorter. The rate warms up in a straight line
# and falls along half a cosine.

# %% [markdown] lang="zh"
# ## 裁剪与学习率
#
# 所有梯度合在一起有一个长度。超过上限就全部乘以同一个系数：方向不变，只是步子变短。学习率先直线上升预热，再沿半个余弦下降。


# %%
@torch.no_grad()
def clip(parameters: list[Tensor], most: float) -> float:
    """The length before clipping."""
    length = math.sqrt(sum(float(p.grad.square().sum()) for p in parameters))
    if length > most:
        for p in parameters:
            p.grad.mul_(most / length)
    return length


def rate(step: int, steps: int, peak: float, warmup: int, final: float = 0.1) -> float:
    """Of steps 1 ... steps."""
    if step <= warmup:
        return peak * step / warmup
    done = (step - warmup) / (steps - warmup)
    return peak * (final + (1 - final) * (1 + math.cos(math.pi * done)) / 2)


def train(
    model: nn.Module, steps: int, peak: float, *, warmup: int = 20, most: float = 1.0, bad: int = -1
) -> list[float]:
    """Losses. At step `bad` a broken batch arrives: wrong answers, times a thousand."""
    optimizer, losses = AdamW(list(model.parameters())), []
    generator = torch.Generator().manual_seed(3)
    for step in range(1, steps + 1):
        inputs, answers = batch(32, generator)
        if step == bad:
            answers = answers.roll(1)
        loss = cross_entropy(model(inputs), answers) * (1000 if step == bad else 1)
        model.zero_grad()
        loss.backward()
        clip(optimizer.parameters, most)
        optimizer.step(rate(step, steps, peak, warmup))
        losses.append(min(float(loss.detach()), 6.0))
    return losses


smooth = {
    "warm-up, cosine": train(make_model(), STEPS, 1e-2),
    "no warm-up": train(make_model(), STEPS, 1e-2, warmup=1),
    "a broken batch, clipped": train(make_model(), STEPS, 1e-2, bad=STEPS // 2),
    "a broken batch, not clipped": train(make_model(), STEPS, 1e-2, bad=STEPS // 2, most=math.inf),
}
for name, losses in smooth.items():
    print(
        f"{name:28} last ten: {sum(losses[-10:]) / 10:.3f}   just after the middle: {sum(losses[STEPS // 2 : STEPS // 2 + 10]) / 10:.3f}"
    )

# %% alt_en="Left: the learning rate, a straight rise and half a cosine down. Right: four loss curves; the one with a broken batch that is not clipped jumps up in the middle and needs many steps to come back." alt_zh="左图：学习率，先直线上升，再沿半个余弦下降。右图：四条损失曲线；遇到坏批次而没有裁剪的那条在中间跳高，很多步之后才恢复。"
figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
axes[0].plot([rate(step, STEPS, 1e-2, 20) for step in range(1, STEPS + 1)], color="#0b7a70")
axes[0].set(xlabel="step", ylabel="learning rate")
for name, losses in smooth.items():
    window = max(1, STEPS // 40)
    axes[1].plot(
        [
            sum(losses[max(0, n - window) : n + 1]) / len(losses[max(0, n - window) : n + 1])
            for n in range(STEPS)
        ],
        label=name,
    )
axes[1].set(xlabel="step", ylabel="loss", ylim=(0, 4))
axes[1].legend(frameon=False, fontsize=7)
plt.show()

# %% [markdown] lang="en"
# Adam divides by the root of $v$, and one gradient a thousand times too large makes $v$ a million times too large: for hundreds of steps afterwards every step is tiny. Clipping keeps it out of the moments; that is what
# it is for.
#
# ## What decays
#
# SGD with decay adds $\lambda w$ to the *gradient*. In Adam that would go through the quotient, and weights with large gradients would hardly decay at all. Matrices decay; gains, biases and
# embeddings' norms usually do not: a gain has a reason to be near 1, not near 0.

# %% [markdown] lang="zh"
# Adam 要除以 $v$ 的根，一个大了一千倍的梯度会让 $v$ 大一百万倍：此后几百步都迈不开步子。裁剪让它进不了矩，这正是裁剪的用处。
#
# ## 什么要衰减
#
# 带衰减的 SGD 把 $\lambda w$ 加到*梯度*上。放进 Adam 就会经过那个商，梯度大的权重几乎不衰减。矩阵要衰减；增益、偏置通常不衰减：
# 增益应当接近 1，而不是 0。

# %%
gradients = torch.tensor(
    [10.0, 0.1]
)  # of two weights; the sign changes at each step: nothing pulls
for name, decay, added in (("in the gradient", 0.0, 0.1), ("decoupled", 0.1, 0.0)):
    weights = torch.ones(2, requires_grad=True)
    optimizer = AdamW([weights], betas=(0.9, 0.99), decay=decay)
    for step in range(300):
        weights.grad = gradients * (-1) ** step + added * weights.detach()
        optimizer.step(1e-2)
    left = weights.detach().tolist()
    print(f"decay {name:16} leaves {left[0]:.2f} and {left[1]:.2f} of the two weights")

# %% [markdown] lang="en"
# ## Mixed precision
#
# bfloat16 has the exponents of float32 and 8 bits of mantissa. Products in it are fast, sums of many small steps in it are lost: a step of 1/1000 of a weight is below its last bit. So the products run in
# bfloat16 and the weights that are updated stay in float32.

# %% [markdown] lang="zh"
# ## 混合精度
#
# bfloat16 的指数位与 float32 相同，尾数只有 8 位。用它做乘法很快，用它累加许多小步则会丢失：权重的千分之一比它的最后一位还小。
# 所以乘法用 bfloat16，被更新的权重保持 float32。

# %%
narrow, wide = torch.tensor(1.0, dtype=torch.bfloat16), torch.tensor(1.0)
for _ in range(100):
    narrow += 0.001
    wide += 0.001
print(f"100 steps of 0.001 from 1: bfloat16 {narrow.item():.3f}, float32 {wide.item():.3f}")
inputs, answers = batch(256, torch.Generator().manual_seed(4))
with torch.autocast("cpu", torch.bfloat16):
    rounded = ours(inputs)
print(
    f"logits in bfloat16 differ by {float((rounded.float() - ours(inputs)).abs().max().detach()):.3f}, dtype of the weights: {next(ours.parameters()).dtype}"
)

# %% [markdown] lang="en"
# ## Checkpoints: killed and gone on with
#
# Weights are not enough. A run goes on to the same bits only with the moments, the step number (for the rate and the divisors) and the place in the data. The file is written beside its place and moved into it: a kill
# in between leaves the old one whole.

# %% [markdown] lang="zh"
# ## 检查点：杀掉再继续
#
# 只存权重不够。要逐位一致地继续，还要有两个矩、步数（学习率和分母要用）以及数据读到了哪里。文件先写在旁边，再移到位：中途被杀，旧文件仍然完整。


# %%
def run(steps: int, file: Path, *, forget: str = "", stop: int | None = None) -> list[Tensor]:
    model = make_model()
    optimizer, generator, begin = (
        AdamW(list(model.parameters())),
        torch.Generator().manual_seed(5),
        0,
    )
    if file.exists():
        saved = torch.load(file, weights_only=True)
        model.load_state_dict(saved["model"])
        if forget != "moments":
            optimizer.m, optimizer.v = saved["m"], saved["v"]
        begin = saved["step"]
        optimizer.step_number = 0 if forget == "step number" else begin
        if forget != "data":
            generator.set_state(saved["data"])
    for step in range(begin + 1, steps + 1):
        inputs, answers = batch(32, generator)
        model.zero_grad()
        cross_entropy(model(inputs), answers).backward()
        optimizer.step(rate(step, steps, 1e-2, 5))
        if step == stop:
            state = {
                "model": model.state_dict(),
                "m": optimizer.m,
                "v": optimizer.v,
                "step": step,
                "data": generator.get_state(),
            }
            torch.save(copy.deepcopy(state), file.with_suffix(".part"))
            file.with_suffix(".part").replace(file)
            break
    return [p.detach() for p in model.parameters()]


with tempfile.TemporaryDirectory() as folder:
    whole = run(40, Path(folder) / "none")
    run(40, Path(folder) / "run.pt", stop=17)  # killed at step 17
    for forget in ("", "moments", "step number", "data"):
        resumed = run(40, Path(folder) / "run.pt", forget=forget)
        apart = max(float((a - b).abs().max()) for a, b in zip(whole, resumed, strict=True))
        print(f"resumed{f' without the {forget}' if forget else '':24} differs by {apart:.1e}")

# %% [markdown] lang="en" part="real"
# ## Now open the real one
#
# - [`Trainer`](../src/glassbox/training/loop.py) is the loop, the same for every stage; a step is [`TrainStep`](../src/glassbox/training/step.py).
# - [`AdamW`](../src/glassbox/optim/adamw.py), [`Muon`](../src/glassbox/optim/muon.py) and others, held to torch.optim; [`WarmupCosine`](../src/glassbox/optim/schedules/warmup_cosine.py) and its siblings.
# - [`cross_entropy`](../src/glassbox/ops/cross_entropy.py) never holds all logits at once where it can do without.
# - [`Guard`](../src/glassbox/training/guards.py) leaves out a step whose loss or gradient is not finite, and says so.
#
# With `train.precision: auto` and `train.compile: auto` the whole step is one compiled graph where that pays. Killed at any instant it goes on to the same bits: a test kills it.

# %% [markdown] lang="zh" part="real"
# ## 打开真正的实现
#
# - [`Trainer`](../src/glassbox/training/loop.py) 是训练循环，各阶段共用一个；一步是 [`TrainStep`](../src/glassbox/training/step.py)。
# - [`AdamW`](../src/glassbox/optim/adamw.py)、[`Muon`](../src/glassbox/optim/muon.py) 等与 torch.optim 对照过；学习率有 [`WarmupCosine`](../src/glassbox/optim/schedules/warmup_cosine.py) 等。
# - [`cross_entropy`](../src/glassbox/ops/cross_entropy.py) 在可以的情况下从不同时保存全部 logits。
# - [`Guard`](../src/glassbox/training/guards.py) 遇到损失或梯度不是有限数的一步会跳过，并说明。
#
# 用 `train.precision: auto` 和 `train.compile: auto`，在划算时整个步骤会编译成一张图。任何时刻被杀都能逐位一致地继续：有测试真的去杀它。

# %%
from glassbox.optim.schedules.warmup_cosine import WarmupCosine

schedule = WarmupCosine(warmup_steps=20, final_ratio=0.1)
print(type(schedule).__name__, schedule)

# %% [markdown] lang="en" part="exercises"
# ## Exercises
#
# `glassbox lesson open 8` writes a file with the graded ones.
#
# <!-- exercise 8.1 -->
#
# <!-- exercise 8.2 -->
#
# <!-- exercise 8.3 -->
#
# **8.4 Accumulate** Split a batch of 32 into four of 8 with different numbers of counted targets. Which sum of four backward passes gives the same gradient as one? (The mean of the four means does not.)

# %% [markdown] lang="zh" part="exercises"
# ## 练习
#
# `glassbox lesson open 8` 会生成一个文件，里面是可以自动评分的题目。
#
# <!-- exercise 8.1 -->
#
# <!-- exercise 8.2 -->
#
# <!-- exercise 8.3 -->
#
# **8.4 梯度累积** 把 32 的批次拆成四个 8，各自计入的目标数不同。怎样把四次反向传播加起来，才与一次的梯度相同？（四个平均值的平均不行。）

# %% [markdown] lang="en" part="pitfalls"
# ## What goes wrong in practice
#
# - **`zero_grad` forgotten**: gradients add up, and the loss goes up after some steps.
# - **Clipping each tensor by itself** instead of all together turns the step's direction.
# - **Clipping before unscaling** with float16: the bound then applies to gradients times 65,536.
# - **The mean of the micro-batches' means** weighs a batch of few counted tokens as much as a full one.
# - **The schedule by epochs** where the run is counted in steps: after a resume the rate jumps.
# - **Moments not saved**: after every resume the loss jumps and needs a hundred steps to come back.
# - **NaN that spreads**: one infinite gradient, and with Adam every weight is NaN one step later. Look at the norm before the step.

# %% [markdown] lang="zh" part="pitfalls"
# ## 实践中的坑
#
# - **忘了 `zero_grad`**：梯度越加越多，几步之后损失反而上升。
# - **逐个张量裁剪**，而不是一起裁剪，会改变这一步的方向。
# - **float16 下在还原缩放之前裁剪**：上限作用在了放大 65,536 倍的梯度上。
# - **对各个小批次的平均再取平均**，会让只有几个计入词元的批次与满批次权重相同。
# - **按轮数安排学习率**，训练却按步数计：续训之后学习率会跳变。
# - **没有保存矩**：每次续训损失都会跳高，一百步才能恢复。
# - **NaN 会扩散**：一个无穷大的梯度，Adam 一步之后所有权重都成了 NaN。更新之前先看范数。

# %% [markdown] lang="en" part="reading"
# ## Further reading
#
# - Kingma and Ba, *Adam*, [arXiv:1412.6980](https://arxiv.org/abs/1412.6980)
# - Loshchilov and Hutter, *Decoupled Weight Decay Regularization*, [arXiv:1711.05101](https://arxiv.org/abs/1711.05101)
# - Pascanu et al., *On the Difficulty of Training Recurrent Neural Networks*, [arXiv:1211.5063](https://arxiv.org/abs/1211.5063): clipping
# - Micikevicius et al., *Mixed Precision Training*, [arXiv:1710.03740](https://arxiv.org/abs/1710.03740)
# - [hand_written_parts.py](models/hand_written_parts.py): each part beside torch's

# %% [markdown] lang="zh" part="reading"
# ## 延伸阅读
#
# - Kingma、Ba，*Adam*，[arXiv:1412.6980](https://arxiv.org/abs/1412.6980)
# - Loshchilov、Hutter，*Decoupled Weight Decay Regularization*，[arXiv:1711.05101](https://arxiv.org/abs/1711.05101)
# - Pascanu 等，*On the Difficulty of Training Recurrent Neural Networks*，[arXiv:1211.5063](https://arxiv.org/abs/1211.5063)：裁剪
# - Micikevicius 等，*Mixed Precision Training*，[arXiv:1710.03740](https://arxiv.org/abs/1710.03740)
# - [hand_written_parts.py](models/hand_written_parts.py)：每个部件都与 torch 的并排
