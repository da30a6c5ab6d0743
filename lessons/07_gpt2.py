# %% [markdown] lang="en"
# # 7. GPT-2 124M, part by part

# %% [markdown] lang="zh"
# # 7. 从零件到 GPT-2 124M

# %% [markdown] lang="en" part="question"
# ## The question
#
# GPT-2's weights have been public since 2019: 148 tensors, half a gigabyte. In lesson 6 we wrote the same architecture. What
# exactly has to agree before those numbers write English in *our* code, and how do we notice the part that does not?

# %% [markdown] lang="zh" part="question"
# ## 问题
#
# GPT-2 的权重 2019 年就公开了：148 个张量，约半个 GB。第 6 课里我们写过同样的架构。要让这些数字在**我们的**代码里写出英文，
# 到底有哪些地方必须一致？如果有一处不一致，怎样才能发现？

# %% [markdown] lang="en" part="idea"
# ## The idea
#
# A published model is three things: a **config** (a handful of numbers), **tensors with names**, and a tokenizer (lesson 2). The numbers fix
# every shape. With vocabulary V, context C, width D and L blocks the parameters are
#
# $$VD + CD + L\,(12 D^2 + 13 D) + 2D$$
#
# ```
#   wte.weight        V x D      token rows, and the output head as well
#   wpe.weight        C x D      position rows
#   h.0.ln_1          2 D        gain and shift
#   h.0.attn.c_attn   D x 3D + 3D     queries, keys, values in one
#   h.0.attn.c_proj   D x D  + D      back to the stream
#   h.0.ln_2          2 D
#   h.0.mlp.c_fc      D x 4D + 4D
#   h.0.mlp.c_proj    4D x D + D
#   h.1. ...          the same, L times
#   ln_f              2 D
# ```
#
# The names say where a tensor belongs; they do not say what the code does with it: which GELU, which epsilon, whether a matrix is stored
# (in, out) or (out, in), which of the three thirds of `c_attn` is the query. Each of these is a place where the shapes fit and the output
# is noise. So we write the parts one by one and hold each against a reference before we join them.

# %% [markdown] lang="zh" part="idea"
# ## 思路
#
# 一个公开的模型由三样东西组成：**配置**（寥寥几个数）、**带名字的张量**、分词器（第 2 课）。配置决定了所有形状。
# 设词表大小为 V、上下文长度为 C、宽度为 D、共 L 个块，参数量就是
#
# $$VD + CD + L\,(12 D^2 + 13 D) + 2D$$
#
# ```
#   wte.weight        V x D      词元嵌入，同时也是输出头
#   wpe.weight        C x D      位置嵌入
#   h.0.ln_1          2 D        增益与偏移
#   h.0.attn.c_attn   D x 3D + 3D     查询、键、值合在一起
#   h.0.attn.c_proj   D x D  + D      回到残差流
#   h.0.ln_2          2 D
#   h.0.mlp.c_fc      D x 4D + 4D
#   h.0.mlp.c_proj    4D x D + D
#   h.1. ...          同样的内容，共 L 份
#   ln_f              2 D
# ```
#
# 名字只说明张量属于哪里，并不说明代码怎样用它：GELU 用哪一种，epsilon 是多少，矩阵按（输入，输出）还是（输出，输入）存放，
# `c_attn` 的三段里哪一段是查询。其中任何一处弄错，形状照样对得上，输出却是噪声。
# 所以我们把部件一个一个写出来，每个都先与参考实现对照，再拼到一起。

# %% [markdown] lang="en" part="code"
# ## The parts, each beside torch's
#
# Modules carry the names of the published tensors, so that loading is a matter of names alone.

# %% [markdown] lang="zh" part="code"
# ## 逐个部件与 torch 对照
#
# 模块直接采用公开权重里的名字，这样加载时只需要处理名字。

# %%
import json
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

torch.manual_seed(0)
TEST_SIZE = os.environ.get("GLASSBOX_LESSON_SIZE") == "test"


@dataclass
class Config:
    """The names are those of GPT-2's config.json."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    layer_norm_epsilon: float = 1e-5


class LayerNorm(nn.Module):
    """Mean 0 and variance 1 along D, then a learned gain and shift."""

    def __init__(self, c: Config):
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.ones(c.n_embd)),
            nn.Parameter(torch.zeros(c.n_embd)),
        )
        self.eps = c.layer_norm_epsilon

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)  # over D, not D - 1
        return self.weight * centred / (variance + self.eps).sqrt() + self.bias


def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution's share below x, in the tanh form that GPT-2 was trained with."""
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


x = torch.randn(4, 768) * 3 + 1
norm = LayerNorm(Config())
print(f"LayerNorm:  {(norm(x) - F.layer_norm(x, (768,))).abs().max():.1e} from torch's")
print(f"GELU, tanh: {(gelu(x) - F.gelu(x, approximate='tanh')).abs().max():.1e} from torch's")
print(
    f"            {(gelu(x) - F.gelu(x)).abs().max():.1e} from the exact one: that is no rounding"
)


# %% [markdown] lang="en"
# Attention gets one thing that lesson 5 left out: a **cache**. While a text is written, keys and values of earlier tokens do not change,
# so each step computes those of the new token alone and appends them. With T new queries and S keys, the last query stands at the last
# key: query i sees key j if j - i is at most S - T.

# %% [markdown] lang="zh"
# 注意力比第 5 课多一样东西：**缓存**。逐个生成时，前面词元的键和值不会再变，所以每一步只算新词元的键和值，再接到后面。
# 有 T 个新查询、S 个键时，最后一个查询与最后一个键对齐：j - i 不超过 S - T 时，查询 i 才能看到键 j。


# %%
class Attention(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.num_heads = c.n_head
        self.c_attn, self.c_proj = nn.Linear(c.n_embd, 3 * c.n_embd), nn.Linear(c.n_embd, c.n_embd)

    def forward(self, x: Tensor, past: list[Tensor]) -> Tensor:
        q, k, v = self.c_attn(x).chunk(3, dim=-1)  # queries first, then keys, then values
        q, k, v = (one.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for one in (q, k, v))
        if past:
            k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        past[:] = k, v  # each (B, H, S, Dh)
        T, S = q.shape[2], k.shape[2]
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
        future = torch.ones(T, S, dtype=torch.bool).triu(S - T + 1)
        mixed = scores.masked_fill(future, -math.inf).softmax(-1) @ v
        return self.c_proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c_fc, self.c_proj = (
            nn.Linear(c.n_embd, 4 * c.n_embd),
            nn.Linear(4 * c.n_embd, c.n_embd),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.ln_1, self.attn, self.ln_2, self.mlp = LayerNorm(c), Attention(c), LayerNorm(c), MLP(c)

    def forward(self, x: Tensor, past: list[Tensor]) -> Tensor:
        x = x + self.attn(self.ln_1(x), past)
        return x + self.mlp(self.ln_2(x))


class GPT2(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.wte, self.wpe = (
            nn.Embedding(c.vocab_size, c.n_embd),
            nn.Embedding(c.n_positions, c.n_embd),
        )
        self.h = nn.ModuleList(Block(c) for _ in range(c.n_layer))
        self.ln_f = LayerNorm(c)

    def forward(self, ids: Tensor, past: list[list[Tensor]] | None = None) -> Tensor:
        """Logits (B, T, V) for ids (B, T); `past` holds, and gets, each block's keys and values."""
        past = [[] for _ in self.h] if past is None else past
        start = past[0][0].shape[2] if past[0] else 0  # positions go on where the cache ends
        x = self.wte(ids) + self.wpe.weight[start : start + ids.shape[1]]
        for block, own in zip(self.h, past, strict=True):
            x = block(x, own)
        return self.ln_f(x) @ self.wte.weight.T


attention = Attention(Config(n_embd=48, n_head=4))
x = torch.randn(2, 7, 48)
q, k, v = (one.unflatten(-1, (4, -1)).transpose(1, 2) for one in attention.c_attn(x).chunk(3, -1))
theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
print(f"attention: {(attention(x, []) - attention.c_proj(theirs)).abs().max():.1e} from torch's")

# %% [markdown] lang="en"
# ## All four sizes, without a byte of memory
#
# On torch's *meta* device tensors have shapes and no contents. Counting there checks every shape of the model against the formula and
# against what was published.

# %% [markdown] lang="zh"
# ## 四种规模，不占一个字节
#
# 在 torch 的 *meta* 设备上，张量只有形状、没有内容。在那里数参数，就能同时与公式和公布的数字核对所有形状。

# %%
SIZES = {
    "124M": Config(),
    "355M": Config(n_embd=1024, n_layer=24, n_head=16),
    "774M": Config(n_embd=1280, n_layer=36, n_head=20),
    "1558M": Config(n_embd=1600, n_layer=48, n_head=25),
}


def formula(c: Config) -> int:
    D = c.n_embd
    return (c.vocab_size + c.n_positions) * D + c.n_layer * (12 * D * D + 13 * D) + 2 * D


for name, config in SIZES.items():
    with torch.device("meta"):
        shapes = GPT2(config).state_dict()
    counted = sum(tensor.numel() for tensor in shapes.values())
    print(
        f"{name:>6}: {counted:13,} parameters in {len(shapes)} tensors, formula {formula(config):13,}"
    )

# %% [markdown] lang="en"
# ## Its start, and why the branches start smaller
#
# Untrained GPT-2 draws matrices from a normal distribution of standard deviation 0.02. The two projections that write into the residual
# stream get 0.02 / sqrt(2 L): there are 2 L such additions, and the variances of independent additions sum up. The figure shows the size
# of the stream after every block, with and without that factor, and where the parameters of the four sizes are.

# %% [markdown] lang="zh"
# ## 初始化：写回残差流的投影为什么更小
#
# 未训练的 GPT-2 从标准差 0.02 的正态分布里抽取矩阵。往残差流里写的那两个投影则用 0.02 / sqrt(2 L)：
# 这样的相加共有 2 L 次，而相互独立的项相加时方差会累积。下图画出有、无这个系数时每个块之后残差流的大小，
# 以及四种规模的参数都花在了哪里。


# %%
@torch.no_grad()
def initialize(model: GPT2, scaled: bool = True) -> GPT2:
    for name, weight in model.named_parameters():
        if name.endswith("c_proj.weight") and scaled:
            weight.normal_(std=0.02 / math.sqrt(2 * model.c.n_layer))
        elif weight.dim() == 2:
            weight.normal_(std=0.02)
        elif name.endswith("bias"):
            weight.zero_()
    return model


@torch.no_grad()
def stream_sizes(model: GPT2, ids: Tensor) -> list[float]:
    """The standard deviation of the residual stream before the first block and after each."""
    x = model.wte(ids) + model.wpe.weight[: ids.shape[1]]
    sizes = [x.std().item()]
    for block in model.h:
        x = block(x, [])
        sizes.append(x.std().item())
    return sizes


deep = Config(vocab_size=300, n_positions=64, n_embd=192, n_layer=24, n_head=6)
ids = torch.randint(300, (2, 64))
curves = {
    "all 0.02": stream_sizes(initialize(GPT2(deep), scaled=False), ids),
    "branches 0.02 / sqrt(2 L)": stream_sizes(initialize(GPT2(deep)), ids),
}
for name, curve in curves.items():
    print(f"{name:26} from {curve[0]:.3f} to {curve[-1]:.3f}")

# %% alt_en="Left: stacked bars of the parameters of the four GPT-2 sizes; embeddings are a third of the smallest and a twentieth of the largest, the feed-forward networks about twice the attention. Right: the residual stream's standard deviation over 24 blocks grows several times faster when all matrices start at 0.02 than when the branches start smaller." alt_zh="左图：四种规模 GPT-2 参数构成的堆叠柱；嵌入在最小的模型里约占三分之一，在最大的里约占二十分之一，前馈网络约为注意力的两倍。右图：24 个块中残差流的标准差；所有矩阵都用 0.02 时增长得快得多，写回残差流的投影取较小初值时增长缓慢。"
figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.5), layout="constrained")
shares = {
    "embeddings": [(c.vocab_size + c.n_positions) * c.n_embd / formula(c) for c in SIZES.values()],
    "attention": [c.n_layer * 4 * c.n_embd * (c.n_embd + 1) / formula(c) for c in SIZES.values()],
    "feed-forward": [
        c.n_layer * (8 * c.n_embd + 5) * c.n_embd / formula(c) for c in SIZES.values()
    ],
}
bottom = [0.0] * len(SIZES)
for name, share in shares.items():
    left.bar(list(SIZES), share, bottom=bottom, label=name)
    bottom = [one + other for one, other in zip(bottom, share, strict=True)]
left.set(ylabel="share of parameters", title="where the parameters are", ylim=(0, 1.3))
left.legend(loc="upper center", ncol=3, fontsize=7.5, columnspacing=1)
for name, curve in curves.items():
    right.plot(curve, label=name)
right.set(xlabel="block", ylabel="std of the stream", title="untrained, 24 blocks", ylim=(0, None))
right.legend(fontsize=8)
plt.show()

# %% [markdown] lang="en"
# ## The file
#
# The weights are published as *safetensors*: eight bytes that say how long a JSON header is, the header (for each tensor its type, shape
# and place), then the bytes of all tensors. No code is run when it is read, unlike with a pickle. We write and read it by hand.
#
# GPT-2 has a peculiarity: its matrices were saved by a layer called `Conv1D`, which computes x @ w with w (in, out). `nn.Linear` keeps
# (out, in) and computes x @ w.T. Four matrices of every block therefore have to be transposed, and the embeddings must not be.

# %% [markdown] lang="zh"
# ## 权重文件
#
# 权重以 *safetensors* 格式发布：开头 8 个字节给出 JSON 头部的长度，接着是头部（每个张量的类型、形状和位置），再往后是所有张量的字节。
# 与 pickle 不同，读取它不会执行任何代码。下面我们自己读写这种格式。
#
# GPT-2 有个特别之处：它的矩阵由一种叫 `Conv1D` 的层保存，计算的是 x @ w，w 的形状是（输入，输出）；
# 而 `nn.Linear` 存的是（输出，输入），计算 x @ w.T。所以每个块有四个矩阵需要转置，嵌入则不能转置。


# %%
def write_safetensors(path: Path, tensors: dict[str, Tensor]) -> None:
    header, place, contents = {}, 0, []
    for name, tensor in tensors.items():
        raw = tensor.contiguous().float().numpy().tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [place, place + len(raw)],
        }
        place += len(raw)
        contents.append(raw)
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(contents))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    raw = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    found = {}
    for name, entry in json.loads(raw[8:start]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            flat = torch.frombuffer(
                raw, dtype=torch.float32, count=(end - begin) // 4, offset=start + begin
            )
            found[name] = flat.view(entry["shape"])
    return found


TRANSPOSED = ("c_attn.weight", "attn.c_proj.weight", "c_fc.weight", "mlp.c_proj.weight")


def load_published(model: GPT2, tensors: dict[str, Tensor]) -> None:
    """Published names and layouts into our modules; every tensor of ours must be found."""
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    state = {}
    for name, own in model.state_dict().items():
        tensor = tensors[name].T if name.endswith(TRANSPOSED) else tensors[name]
        assert tensor.shape == own.shape, f"{name}: {tuple(tensor.shape)}, not {tuple(own.shape)}"
        state[name] = tensor
    model.load_state_dict(state)


small = Config(vocab_size=500, n_positions=64, n_embd=48, n_layer=3, n_head=4)
first = initialize(GPT2(small))
with torch.no_grad():  # as if trained: larger weights, gains that are not 1
    for weight in first.parameters():
        weight.add_(torch.randn_like(weight) * 0.08)
published = {
    f"transformer.{name}": tensor.T if name.endswith(TRANSPOSED) else tensor
    for name, tensor in first.state_dict().items()
}
folder = Path(tempfile.mkdtemp())
write_safetensors(folder / "model.safetensors", published)
second = GPT2(small)
load_published(second, read_safetensors(folder / "model.safetensors"))
ids = torch.randint(500, (2, 20))
with torch.no_grad():
    print("same bits after writing and reading:", torch.equal(first(ids), second(ids)))

# %% [markdown] lang="en"
# The assertion on shapes is a good idea and not enough. `c_attn` is D x 3D, so forgetting its transpose is caught. `attn.c_proj` is D x D:
# transposed or not, it fits. What do the logits look like if that one is forgotten?

# %% [markdown] lang="zh"
# 检查形状是好主意，但还不够。`c_attn` 是 D x 3D，忘记转置会被查出来；`attn.c_proj` 却是 D x D，转不转置都放得进去。
# 如果单单忘了它，logit 会变成什么样？

# %%
TRANSPOSED = ("c_attn.weight", "c_fc.weight", "mlp.c_proj.weight")  # the square one forgotten
wrong = GPT2(small)
load_published(wrong, published)
with torch.no_grad():
    right, off = first(ids), wrong(ids)
print(
    f"no error is raised; logits differ by {(right - off).abs().max():.2f} of {right.abs().max():.2f}"
)
agree = (right.argmax(-1) == off.argmax(-1)).float().mean().item()
print(f"the likeliest next token is the same at {agree:.0%} of the positions")

# %% [markdown] lang="en"
# ## Writing with the cache
#
# The cache changes the cost, never the result: read at once or token by token, the logits agree. That test finds positions that start
# again at 0 and masks whose corner is at the first key.

# %% [markdown] lang="zh"
# ## 带缓存地生成
#
# 缓存只改变开销，绝不改变结果：一次读完和逐个读入，logit 必须一致。这个测试能查出从 0 重新开始的位置，
# 以及从第一个键开始对齐的掩码。

# %%
with torch.no_grad():
    whole = second(ids)
    past = [[] for _ in second.h]
    pieces = [second(part, past) for part in ids.split([5, 1, 3, 11], dim=1)]
print(
    f"in pieces of 5, 1, 3, 11: logits differ by {(whole - torch.cat(pieces, 1)).abs().max():.1e}"
)


@torch.inference_mode()
def generate(model: GPT2, ids: list[int], length: int) -> list[int]:
    """Greedy; the first pass reads the prompt, every other one token."""
    new, past, out = torch.tensor([ids]), [[] for _ in model.h], list(ids)
    for _ in range(length):
        new = model(new, past)[:, -1:].argmax(-1)
        out.append(new.item())
    return out


config = Config(n_layer=1, vocab_size=2000) if TEST_SIZE else Config()
model = initialize(GPT2(config))
written = generate(model, [15, 496, 11], 4 if TEST_SIZE else 12)
print(f"{sum(p.numel() for p in model.parameters()):,} random weights wrote {written[3:]}")

# %% [markdown] lang="en"
# ## The published weights
#
# This lesson runs offline, so the full shape above wrote with random weights. With the network, two commands open the real ones by their
# name on the hub, `openai-community/gpt2`; the first is this lesson as one file with GPT-2's tokenizer, the second is the package:
#
# ```
# python lessons/models/gpt2_inference.py openai-community/gpt2 --prompt "The lighthouse keeper"
# glassbox generate openai-community/gpt2 --prompt "The lighthouse keeper" --max-tokens 40
# ```
#
# `openai-community/gpt2-medium`, `-large` and `-xl` are the other three sizes. If `GPT2_FOLDER` names a folder that holds config.json and
# model.safetensors, the next cell loads it with the functions that you have just read. For real weights and ordinary English the loss is
# about 3 to 4 nats a token; random weights give ln 50257 = 10.8. Anything between says that some part is wrong.

# %% [markdown] lang="zh"
# ## 公开的权重
#
# 这一课离线运行，所以上面的完整规模用的是随机权重。能联网时，下面两条命令按模型在 hub 上的名字 `openai-community/gpt2` 打开真正的权重；
# 第一条就是这一课写成的单个文件，带 GPT-2 的分词器，第二条用的是本项目的软件包：
#
# ```
# python lessons/models/gpt2_inference.py openai-community/gpt2 --prompt "The lighthouse keeper"
# glassbox generate openai-community/gpt2 --prompt "The lighthouse keeper" --max-tokens 40
# ```
#
# 另外三种规模是 `openai-community/gpt2-medium`、`-large` 和 `-xl`。如果环境变量 `GPT2_FOLDER` 指向一个含有 config.json 和
# model.safetensors 的文件夹，下一个单元就会用你刚读过的函数加载它。真正的权重在普通英文上的损失约为每个词元 3 到 4 奈特，
# 随机权重则是 ln 50257 = 10.8。落在两者之间，说明有某个部件写错了。

# %%
TRANSPOSED = ("c_attn.weight", "attn.c_proj.weight", "c_fc.weight", "mlp.c_proj.weight")
if "GPT2_FOLDER" in os.environ:
    source = Path(os.environ["GPT2_FOLDER"])
    raw = json.loads((source / "config.json").read_text())
    real = GPT2(Config(**{name: raw[name] for name in Config.__dataclass_fields__ if name in raw}))
    load_published(real, read_safetensors(source / "model.safetensors"))
    print(f"{sum(p.numel() for p in real.parameters()):,} published weights are loaded")
else:
    print("GPT2_FOLDER is not set: no published weights here")

# %% [markdown] lang="en" part="real"
# ## Now open the real one
#
# - [`read`](../src/glassbox/models/families/gpt2.py) turns config.json into our config and refuses what it does not know (another activation,
#   another scale), instead of loading it wrongly.
# - [`rules`](../src/glassbox/models/families/gpt2.py) is the table of names, and [`WeightRule`](../src/glassbox/models/family.py) says of each
#   tensor whether it is transposed, split or joined. Saving uses the same table backwards.
# - [`load_pretrained`](../src/glassbox/formats/huggingface.py) checks every name and shape before it copies anything;
#   [`TensorFiles`](../src/glassbox/formats/tensor_files.py) maps the file into memory and reads what is asked for.
# - [`find_model`](../src/glassbox/formats/open_model.py) looks for a name as a folder, then in the caches, then on the hub.
# - [`GPT2Shape`](../src/glassbox/models/shapes.py) is the architecture as data.
#
# The cell below writes config.json beside our hand-written file and lets the package open both.

# %% [markdown] lang="zh" part="real"
# ## 打开真正的实现
#
# - [`read`](../src/glassbox/models/families/gpt2.py) 把 config.json 变成我们的配置；遇到不认识的内容（别的激活函数、别的缩放）就拒绝，
#   而不是错误地加载。
# - [`rules`](../src/glassbox/models/families/gpt2.py) 是名字对照表，[`WeightRule`](../src/glassbox/models/family.py) 说明每个张量
#   是否要转置、拆分或合并；保存时反向使用同一张表。
# - [`load_pretrained`](../src/glassbox/formats/huggingface.py) 在复制之前先核对所有名字和形状；
#   [`TensorFiles`](../src/glassbox/formats/tensor_files.py) 把文件映射进内存，用到哪里读哪里。
# - [`find_model`](../src/glassbox/formats/open_model.py) 依次把名字当作文件夹、到缓存里找、再到 hub 上找。
# - [`GPT2Shape`](../src/glassbox/models/shapes.py) 用数据描述这个架构。
#
# 下面的单元在手写的权重文件旁边写上 config.json，让本项目的软件包来打开。

# %%
from glassbox.formats.huggingface import load_pretrained

described = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new",
    "vocab_size": 500, "n_positions": 64, "n_embd": 48, "n_layer": 3, "n_head": 4,
    "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
}  # fmt: skip
(folder / "config.json").write_text(json.dumps(described))
package = load_pretrained(folder)
with torch.no_grad():
    print(f"the package's logits differ by {(package(ids) - first(ids)).abs().max():.1e}")

# %% [markdown] lang="en" part="exercises"
# ## Exercises
#
# `glassbox lesson open 7` writes a file with the graded ones.
#
# <!-- exercise 7.1 -->
#
# <!-- exercise 7.2 -->
#
# <!-- exercise 7.3 -->
#
# **7.4 What each detail costs** Change one detail at a time in `first` (exact GELU, epsilon 1e-12, keys and queries swapped, head
# order reversed) and print the largest difference of the logits. Which changes make no difference, and why?
#
# **7.5 Half the bytes** Extend `write_safetensors` and `read_safetensors` by F16 and BF16. How far do the logits move with each?

# %% [markdown] lang="zh" part="exercises"
# ## 练习
#
# `glassbox lesson open 7` 会生成一个文件，里面是可以自动评分的题目。
#
# <!-- exercise 7.1 -->
#
# <!-- exercise 7.2 -->
#
# <!-- exercise 7.3 -->
#
# **7.4 每个细节的代价** 在 `first` 上每次只改一个细节（精确的 GELU、epsilon 取 1e-12、查询与键互换、各头的顺序颠倒），
# 打印 logit 的最大差异。哪些改动没有影响，为什么？
#
# **7.5 字节减半** 给 `write_safetensors` 和 `read_safetensors` 加上 F16 和 BF16。两者各让 logit 偏离多少？

# %% [markdown] lang="en" part="pitfalls"
# ## What goes wrong in practice
#
# - **The square matrix that was not transposed.** Everything loads; the model writes fluent-looking fragments or one word for ever.
# - **Buffers taken for weights.** Old files hold `attn.bias`, the causal mask (1, 1, 1024, 1024), and `attn.masked_bias`. Who filters by
#   `endswith("attn.bias")` also drops `c_attn.bias`.
# - **`strict=False` on loading.** A misspelt prefix leaves the whole model at its random start, without a word. Demand every name.
# - **A head that is not tied.** The file has no `lm_head.weight`; a separate head stays random, and the loss is 10.8.
# - **The exact GELU.** Logits are off in the third digit, greedy text is the same for a while and then is not.
# - **Positions restart with the cache.** Prompts are answered well, and from the second new token on the text decays.
# - **A tokenizer of another model**: ids are valid, the text is not. Check that `Hello world` is 15496 995.

# %% [markdown] lang="zh" part="pitfalls"
# ## 实践中的坑
#
# - **方阵忘了转置。** 一切都能加载，模型却写出似通非通的片段，或者不停重复一个词。
# - **把缓冲区当成权重。** 旧文件里有 `attn.bias`，那是因果掩码（1, 1, 1024, 1024），还有 `attn.masked_bias`。
#   用 `endswith("attn.bias")` 过滤，会把 `c_attn.bias` 也一起丢掉。
# - **加载时用 `strict=False`。** 前缀拼错，整个模型就停留在随机初值，而且一声不吭。要求每个名字都必须找到。
# - **输出头没有共享。** 文件里没有 `lm_head.weight`；单独建的输出头一直是随机的，损失是 10.8。
# - **用了精确的 GELU。** logit 在第三位数字上有偏差，贪心生成的文字起初相同，后来就不同了。
# - **有缓存时位置从头开始。** 对提示词的第一步预测正常，从第二个新词元起文字越来越乱。
# - **用了别的模型的分词器**：编号合法，文字不对。检查 `Hello world` 是否为 15496 995。

# %% [markdown] lang="en" part="reading"
# ## Further reading
#
# - Radford et al., *Language Models are Unsupervised Multitask Learners* (2019): section 2.3 has the architecture and the scaled start
# - Hendrycks and Gimpel, *Gaussian Error Linear Units*, [arXiv:1606.08415](https://arxiv.org/abs/1606.08415)
# - Ba, Kiros and Hinton, *Layer Normalization*, [arXiv:1607.06450](https://arxiv.org/abs/1607.06450)
# - [gpt2_inference.py](models/gpt2_inference.py): model, tokenizer and published weights in one file
# - [Which models can be opened](../docs/guides/models.md)

# %% [markdown] lang="zh" part="reading"
# ## 延伸阅读
#
# - Radford 等，*Language Models are Unsupervised Multitask Learners*（2019）：2.3 节讲架构和缩小的初值
# - Hendrycks 与 Gimpel，*Gaussian Error Linear Units*，[arXiv:1606.08415](https://arxiv.org/abs/1606.08415)
# - Ba、Kiros 与 Hinton，*Layer Normalization*，[arXiv:1607.06450](https://arxiv.org/abs/1607.06450)
# - [gpt2_inference.py](models/gpt2_inference.py)：模型、分词器和公开的权重都在一个文件里
# - [能打开哪些模型](../docs/guides/models.md)
