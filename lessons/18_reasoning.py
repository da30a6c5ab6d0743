# %% [markdown] lang="en"
# # 18. Reasoning and tools

# %% [markdown] lang="zh"
# # 18. 推理与工具

# %% [markdown] lang="en" part="question"
# ## The question
#
# A model spends the same computation on every token, whether it writes "the" or the result of a long sum. How can it think longer about a hard question, how does one
# spend even more when it matters, and what if a program could do it better?

# %% [markdown] lang="zh" part="question"
# ## 问题
#
# 模型在每个词元上花的计算一样多，无论写的是“的”，还是一长串加法的结果。遇到难题怎样让它多想一会儿？
# 重要的时候怎样投入更多计算？如果有程序能做得更好，又该怎么办？

# %% [markdown] lang="en" part="idea"
# ## The idea
#
# A network of L layers can do at most L steps one after another before it must name a token. **Writing intermediate results** makes its own text a memory: each
# step reads the last one. With the thought z written before the answer a,
#
# $$p(a \mid x) = \sum_z p(z \mid x)\, p(a \mid x, z)$$
#
# and one can spend more by sampling many z: the **majority** of answers (self-consistency) approximates the most probable a; a **checker** picks a right one if there is any. A **tool**
# is a step that a program does: the model writes the call, the program writes the result.
#
# ```
#   direct    2 4 1 3 =                                     0
#   steps     2 4 1 3 =  2 1 2 0  ;                         0     running sums: one easy step at a time
#   tool      2 4 1 3 =  [ 2 4 1 3 ]  0  ;                  0     the program's token: read, not trained
#                        |-- model --| tool |-- model ...
# ```

# %% [markdown] lang="zh" part="idea"
# ## 思路
#
# L 层的网络在给出一个词元之前，至多能依次做 L 步。**把中间结果写出来**，文本就成了它的记忆：每一步读上一步的结果。
# 在答案 a 之前先写出思考 z：
#
# $$p(a \mid x) = \sum_z p(z \mid x)\, p(a \mid x, z)$$
#
# 还可以采样许多个 z 来投入更多计算：答案的**多数票**（自洽性）近似最可能的 a；有**检查程序**的话，只要其中有一个对就能挑出来。
# **工具**则是由程序来做的一步：模型写出调用，程序写出结果。
#
# ```
#   直接      2 4 1 3 =                                     0
#   分步      2 4 1 3 =  2 1 2 0  ;                         0     逐次累加，每一步都简单
#   工具      2 4 1 3 =  [ 2 4 1 3 ]  0  ;                  0     程序写的词元：只读，不训练
#                        |-- 模型 --| 工具 |-- 模型 ...
# ```

# %% [markdown] lang="en" part="code"
# ## The same model, three ways of answering
#
# The task: eight digits from 0 to 4, and their sum modulo 5. Guessing gives 20%. One layer of attention, and the same number of training steps for each way.

# %% [markdown] lang="zh" part="code"
# ## 同一个模型，三种回答方式
#
# 任务：给八个 0 到 4 的数字，求它们的和除以 5 的余数。瞎猜的正确率是 20%。模型只有一层注意力，三种方式训练步数相同。

# %%
import ast
import math
import operator
import os
import re
from collections import Counter

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

torch.manual_seed(0)
TEST_SIZE = os.environ.get("GLASSBOX_LESSON_SIZE") == "test"

BASE, DIGITS = 5, 8
SIGNS = "01234=;[]."
EQUAL, SEMI, OPEN, CLOSE, STOP = range(BASE, BASE + 5)


def column(rows: int, sign: int) -> Tensor:
    return torch.full((rows, 1), sign)


def examples(way: str, rows: int) -> tuple[Tensor, Tensor]:
    """Ids (rows, T), and which of them the model has to write (rows, T)."""
    digits = torch.randint(BASE, (rows, DIGITS))
    sums = digits.cumsum(1) % BASE
    answer = sums[:, -1:]
    thought = {
        "direct": [],
        "steps": [sums, column(rows, SEMI)],
        "tool": [column(rows, OPEN), digits, column(rows, CLOSE), answer, column(rows, SEMI)],
    }[way]
    ids = torch.cat([digits, column(rows, EQUAL), *thought, answer, column(rows, STOP)], dim=1)
    written = torch.ones_like(ids, dtype=torch.bool)
    written[:, : DIGITS + 1] = False  # the question
    if way == "tool":
        written[:, 2 * DIGITS + 3] = False  # the program's result
    return ids, written


class Model(nn.Module):
    def __init__(self, size: int = 64, heads: int = 4, length: int = 24):
        super().__init__()
        self.heads = heads
        self.tokens, self.positions = nn.Embedding(len(SIGNS), size), nn.Embedding(length, size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(3))
        self.head = nn.Linear(size, len(SIGNS))

    def forward(self, ids: Tensor) -> Tensor:
        B, T = ids.shape
        x = self.tokens(ids) + self.positions.weight[:T]
        q, k, v = self.qkv(self.norms[0](x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(B, T, -1))
        return self.head(self.norms[2](x + self.down(F.gelu(self.up(self.norms[1](x))))))


def loss_of(model: Model, ids: Tensor, written: Tensor) -> Tensor:
    """Of what the model writes; position t predicts token t + 1, so the mask is that of the target."""
    losses = F.cross_entropy(model(ids[:, :-1]).transpose(1, 2), ids[:, 1:], reduction="none")
    return losses[written[:, 1:]].mean()


@torch.no_grad()
def answers(model: Model, digits: Tensor, temperature: float = 0.0) -> tuple[Tensor, Tensor]:
    """What the model writes behind digits (B, 8): all ids, and the answer, the digit before the stop (-1: none)."""
    ids = torch.cat((digits, column(len(digits), EQUAL)), dim=1)
    result = digits.sum(1, keepdim=True) % BASE  # what the program will say
    for _ in range(DIGITS + 6):
        logits = model(ids)[:, -1]
        if temperature:
            drawn = torch.multinomial((logits / temperature).softmax(-1), 1)
        else:
            drawn = logits.argmax(-1, keepdim=True)
        drawn = torch.where(
            ids[:, -1:] == CLOSE, result, drawn
        )  # a call has ended: the program's turn
        ids = torch.cat(
            (ids, torch.where((ids == STOP).any(1, keepdim=True), torch.tensor(STOP), drawn)), dim=1
        )
    first = (ids == STOP).long().argmax(1, keepdim=True)
    said = ids.gather(1, (first - 1).clamp(min=0)).squeeze(1)
    return ids, torch.where((first.squeeze(1) > DIGITS) & (said < BASE), said, torch.tensor(-1))


def right(model: Model, rows: int = 60 if TEST_SIZE else 400) -> float:
    digits = torch.randint(BASE, (rows, DIGITS))
    return (answers(model, digits)[1] == digits.sum(1) % BASE).float().mean().item()


STEPS, EVERY = (160, 40) if TEST_SIZE else (800, 50)
models, curves = {}, {}
for way in ("direct", "steps", "tool"):
    torch.manual_seed(1)
    models[way], curves[way] = Model(), []
    optimizer = torch.optim.AdamW(models[way].parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 4e-3, total_steps=STEPS, pct_start=0.1
    )
    for step in range(1, STEPS + 1):
        loss = loss_of(models[way], *examples(way, 64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % EVERY == 0:
            curves[way].append(right(models[way]))
    ids, _ = answers(models[way], torch.tensor([[2, 4, 1, 3, 0, 0, 1, 2]]))
    print(
        f"{way:7} right {curves[way][-1]:4.0%}   {''.join(SIGNS[i] for i in ids[0]).rstrip('.')}."
    )

# %% [markdown] lang="en"
# Same weights, same data, and only the text between question and answer differs. To add eight numbers directly, one layer would have to tell 390,625 questions apart; with
# running sums it has to know a table of 25 entries and where to look.
#
# ## Spending more: votes and checks
#
# A model that makes mistakes makes different ones each time, while right answers agree. We take the model with steps when it was half trained, sample many thoughts for each question, and count.

# %% [markdown] lang="zh"
# 参数量一样，数据一样，差别只在题目与答案之间写了什么。要直接算八个数的和，一层网络得区分 390,625 种题目；
# 而有了累加的中间结果，只需记住一张 25 格的表，并知道该看哪里。
#
# ## 投入更多：投票与检查
#
# 会犯错的模型，每次错得不一样，对的答案却是一致的。取分步模型训练到一半时的样子，每道题采样许多次思考，再统计。

# %%
torch.manual_seed(2)
half = Model()
optimizer = torch.optim.AdamW(half.parameters(), lr=4e-3)
for _ in range(400):
    loss = loss_of(half, *examples("steps", 64))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if loss.item() < 0.2:
        break

QUESTIONS, SAMPLES = (24, 32) if TEST_SIZE else (200, 64)
digits = torch.randint(BASE, (QUESTIONS, DIGITS))
truth = digits.sum(1) % BASE
_, said = answers(half, digits.repeat_interleave(SAMPLES, dim=0), temperature=1.0)
said = said.view(QUESTIONS, SAMPLES)


def majority(votes: list[int]) -> int:
    """The most frequent answer, of equal ones the first; no answer is no vote."""
    counted = Counter(vote for vote in votes if vote >= 0)
    return counted.most_common(1)[0][0] if counted else -1


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that of k answers, drawn from n of which c are right, one is right at least."""
    return 1 - math.comb(n - c, k) / math.comb(n, k)


correct = (said == truth[:, None]).sum(1)
budgets = [1, 2, 4, 8, 16, 32]
voted = [
    sum(
        majority(row[:k].tolist()) == answer
        for row, answer in zip(said, truth.tolist(), strict=True)
    )
    / QUESTIONS
    for k in budgets
]
checked = [sum(pass_at_k(SAMPLES, c, k) for c in correct.tolist()) / QUESTIONS for k in budgets]
print("samples        ", "".join(f"{k:6}" for k in budgets))
print("majority       ", "".join(f"{x:6.0%}" for x in voted))
print("pass@k, checker", "".join(f"{x:6.0%}" for x in checked))

# %% [markdown] lang="en"
# **pass@k** deserves care. From n samples with c right, $1 - (1 - c/n)^k$ is too low on average; the estimate above draws k of the n without putting them back, and is exactly right on
# average. We can check by adding up all outcomes of n coin flips.

# %% [markdown] lang="zh"
# **pass@k** 要算仔细。n 个样本对了 c 个，$1 - (1 - c/n)^k$ 平均偏低；上面的估计从 n 个里不放回地取 k 个，平均恰好正确。
# 把 n 次抛硬币的所有结果加起来就能验证。

# %%
n, k, p = 10, 5, 0.2
chances = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
truly = 1 - (1 - p) ** k
ours = sum(chance * pass_at_k(n, c, k) for c, chance in enumerate(chances))
naive = sum(chance * (1 - (1 - c / n) ** k) for c, chance in enumerate(chances))
print(f"true pass@{k} {truly:.4f}; without putting back {ours:.4f}; naive {naive:.4f}")

# %% alt_en="Two panels. Left: share of right answers over training steps; the model with a tool and the one with steps rise to nearly one, the direct model stays near the dotted line of guessing. Right: share of right answers over the number of samples; majority votes rise, and pass at k with a checker rises further." alt_zh="两幅图。左：正确率随训练步数的变化；用工具和分步的模型升到接近 1，直接回答的模型停在瞎猜的虚线附近。右：正确率随采样数的变化；多数票上升，有检查程序的 pass@k 升得更高。"
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for way, curve in curves.items():
    axes[0].plot(range(EVERY, STEPS + 1, EVERY), curve, marker=".", label=way)
axes[0].axhline(1 / BASE, color="gray", linestyle=":", label="guessing")
axes[0].set(title="the same model", xlabel="training step", ylabel="right", ylim=(0, 1.03))
axes[0].legend(fontsize=8)
axes[1].plot(budgets, checked, marker="o", label="pass@k (a checker picks)")
axes[1].plot(budgets, voted, marker="o", label="majority")
axes[1].set(
    title="half trained, more samples", xlabel="samples a question", xscale="log", ylim=(0, 1.03)
)
axes[1].set_xticks(budgets, labels=[str(one) for one in budgets])
axes[1].minorticks_off()
axes[1].legend(fontsize=8)
plt.show()

# %% [markdown] lang="en"
# ## The program's side
#
# In the sampling loop above the program's turn was one line. In reality the call is text, and comes from a model: it may be wrong, endless or malicious. A calculator must **parse**, never `eval`; and an
# error is a result too, which the model should get to read.

# %% [markdown] lang="zh"
# ## 程序这一侧
#
# 上面的采样循环里，程序那一步只有一行。实际的调用是模型写出的文本：可能写错、可能没完没了、可能有恶意。计算器必须**解析**，绝不能用 `eval`；
# 报错也是一种结果，应当让模型读到。

# %%
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}


def calculate(text: str) -> str:
    def value(node: ast.AST) -> float:
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return node.value
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        raise ValueError("only numbers and + - * / %")

    try:
        return str(value(ast.parse(text[:200].strip(), mode="eval").body))
    except (ValueError, SyntaxError, ZeroDivisionError, RecursionError) as error:
        return f"error: {error}".splitlines()[0]


CALL = re.compile(r"<tool>([^<>]*)</tool>\s*\Z")  # at the end of a turn


def converse(model, prompt: str, rounds: int = 3) -> list[tuple[str, str]]:
    """Turns of the model and of the tool, until a turn without a call."""
    pieces: list[tuple[str, str]] = []
    for used in range(rounds + 1):
        said = model(prompt + "".join(text for _, text in pieces))
        pieces.append(("model", said))
        call = CALL.search(said)
        if call is None or used == rounds:
            break
        pieces.append(("tool", f" {calculate(call[1])} "))
    return pieces


script = iter(
    ["Three crates of 14: <tool>3*14</tool>", "and 8 more: <tool>42+8</tool>", "Answer: 50"]
)
for who, text in converse(lambda _: next(script), "How many apples? "):
    print(f"{who:6}| {text}")
for bad in ("__import__('os').system('ls')", "1/0", "2 +"):
    print(f"{bad!r:34} -> {calculate(bad)}")

# %% [markdown] lang="en"
# The roles matter for training. Tokens of the tool are **read, not trained**. If they are trained, the model learns to predict results itself, and soon writes result and all without ever waiting. Their
# loss is not small noise, either: here is what the model of the tool's way would be asked for.

# %% [markdown] lang="zh"
# 训练时要分清角色。工具的词元**只读，不训练**。如果也训练，模型就学着自己预测结果，不久便不等工具，连结果一起编出来。
# 这部分损失也不是小噪声：看看用工具的模型会被要求预测什么。

# %%
ids, written = examples("tool", 200)
with torch.no_grad():
    each = F.cross_entropy(
        models["tool"](ids[:, :-1]).transpose(1, 2), ids[:, 1:], reduction="none"
    )
print(
    f"loss of its own tokens {each[written[:, 1:]].mean():.3f}, of the program's {each[:, 2 * DIGITS + 2].mean():.3f} (guessing: {math.log(BASE):.3f})"
)

# %% [markdown] lang="en" part="real"
# ## Now open the real one
#
# - [`self_consistency`](../src/glassbox/tuning/reasoning.py) samples and votes, [`majority`](../src/glassbox/tuning/reasoning.py) counts;
#   [`think_within`](../src/glassbox/tuning/reasoning.py) keeps the thinking between a least and a largest number of tokens (budget forcing).
# - [`ToolLoop`](../src/glassbox/tuning/policy/tools.py) runs many conversations at once and keeps the mask of tokens that were the model's own;
#   [`calculate`](../src/glassbox/tuning/policy/tools.py) and [`python_tool`](../src/glassbox/tuning/policy/tools.py) are its tools, the latter in the sandbox.
# - [The guide to reinforcement learning](../docs/guides/rl.md): `glassbox reason`, and GRPO with tools, by which a model learns when to call.

# %% [markdown] lang="zh" part="real"
# ## 打开真正的实现
#
# - [`self_consistency`](../src/glassbox/tuning/reasoning.py) 负责采样和投票，[`majority`](../src/glassbox/tuning/reasoning.py) 计票；
#   [`think_within`](../src/glassbox/tuning/reasoning.py) 把思考长度限制在上下限之间（budget forcing）。
# - [`ToolLoop`](../src/glassbox/tuning/policy/tools.py) 同时运行许多对话，并记录哪些词元是模型自己写的；
#   [`calculate`](../src/glassbox/tuning/policy/tools.py) 与 [`python_tool`](../src/glassbox/tuning/policy/tools.py) 是它的工具，后者在沙箱里运行。
# - [强化学习指南](../docs/guides/rl.md)：`glassbox reason` 命令，以及带工具的 GRPO，模型由此学会何时调用。

# %%
from glassbox.tuning.policy.tools import calculate as real_calculate
from glassbox.tuning.reasoning import majority as real_majority

for text in ("3*14", "42+8", "7 % 5", "1/0", "__import__('os')"):
    print(f"{text!r:20} ours {calculate(text)!r:42} theirs {real_calculate(text)!r}")
rows = [[str(vote) if vote >= 0 else None for vote in row] for row in said.tolist()]
same = [
    real_majority(row)[0] == (str(best) if best >= 0 else None)
    for row in rows
    for best in [majority([int(v) if v else -1 for v in row])]
]
print(f"same majority in {sum(same)} of {len(same)} questions")

# %% [markdown] lang="en" part="exercises"
# ## Exercises
#
# `glassbox lesson open 18` writes a file with the graded ones.
#
# <!-- exercise 18.1 -->
#
# <!-- exercise 18.2 -->
#
# <!-- exercise 18.3 -->
#
# **18.4 Cut the thought** Let the model with steps write only m running sums, then insert ";" yourself. Plot the right answers over m. What does it answer?
#
# **18.5 Train the result too** Set `written` to True at the program's token and train the tool's way again, then sample without a program. What does the model write behind "]"?

# %% [markdown] lang="zh" part="exercises"
# ## 练习
#
# `glassbox lesson open 18` 会生成一个文件，里面是可以自动评分的题目。
#
# <!-- exercise 18.1 -->
#
# <!-- exercise 18.2 -->
#
# <!-- exercise 18.3 -->
#
# **18.4 打断思考** 让分步模型只写 m 个累加结果，然后由你插入“;”。画出正确率随 m 的变化。它答的是什么？
#
# **18.5 连结果一起训练** 把程序那个词元的 `written` 设为 True，重新训练用工具的模型，然后不接程序直接采样。它在“]”后面会写什么？

# %% [markdown] lang="en" part="pitfalls"
# ## What goes wrong in practice
#
# - **The tool's tokens are trained**: the model invents results. It looks like a working tool until the log shows that no call was made.
# - **The answer is taken from the wrong place**: the first number of the text, or a number of the thought. Ask for a fixed form, take its last occurrence, and count how often there is none.
# - **"42", "42.0" and "$42"** are three answers to a vote. Normalize first.
# - **No answer counted as an answer**: an unfinished thought joins the vote as None, and with a short budget None wins.
# - **Votes at temperature 0**: all samples are the same, and cost n times as much.
# - **pass@k reported as if it were accuracy**: without a checker at hand no one picks the right sample.
# - **`eval` on a model's text.** Sooner or later it is `__import__`. Parse, or use a sandbox with limits on time, memory and output.
# - **Cut in the middle of a call**: the token limit falls inside `<tool>`, the rest is lost, and the loop waits. Treat it as an answer without a result.

# %% [markdown] lang="zh" part="pitfalls"
# ## 实践中的坑
#
# - **工具的词元也训练了**：模型开始编造结果。看上去工具一切正常，直到日志显示根本没有调用。
# - **答案取错了地方**：取了文本里的第一个数，或者思考过程中的数。应约定固定格式，取最后一次出现，并统计有多少次没有答案。
# - **“42”、“42.0”和“$42”**在投票时成了三个答案。要先规范化。
# - **把“没有答案”也算成一票**：没写完的思考以 None 参与投票，预算一短，None 就赢了。
# - **温度为 0 时投票**：所有样本都一样，却花了 n 倍的钱。
# - **把 pass@k 当成正确率来报**：手头没有检查程序，就没人能挑出对的那个。
# - **对模型写的文本用 `eval`。** 迟早会遇到 `__import__`。要么解析，要么用限制了时间、内存和输出的沙箱。
# - **调用写到一半被截断**：词元上限落在 `<tool>` 中间，后半丢了，循环还在等。应当作没有结果的回答处理。

# %% [markdown] lang="en" part="reading"
# ## Further reading
#
# - Nye et al., *Show Your Work: Scratchpads*, [arXiv:2112.00114](https://arxiv.org/abs/2112.00114); Wei et al., *Chain-of-Thought Prompting*, [arXiv:2201.11903](https://arxiv.org/abs/2201.11903)
# - Wang et al., *Self-Consistency*, [arXiv:2203.11171](https://arxiv.org/abs/2203.11171)
# - Chen et al., *Evaluating Large Language Models Trained on Code*, [arXiv:2107.03374](https://arxiv.org/abs/2107.03374): section 2.1, pass@k
# - Schick et al., *Toolformer*, [arXiv:2302.04761](https://arxiv.org/abs/2302.04761)
# - Muennighoff et al., *s1: Simple test-time scaling*, [arXiv:2501.19393](https://arxiv.org/abs/2501.19393): budget forcing

# %% [markdown] lang="zh" part="reading"
# ## 延伸阅读
#
# - Nye 等，*Show Your Work: Scratchpads*，[arXiv:2112.00114](https://arxiv.org/abs/2112.00114)；Wei 等，*Chain-of-Thought Prompting*，[arXiv:2201.11903](https://arxiv.org/abs/2201.11903)
# - Wang 等，*Self-Consistency*，[arXiv:2203.11171](https://arxiv.org/abs/2203.11171)
# - Chen 等，*Evaluating Large Language Models Trained on Code*，[arXiv:2107.03374](https://arxiv.org/abs/2107.03374)：2.1 节讲 pass@k
# - Schick 等，*Toolformer*，[arXiv:2302.04761](https://arxiv.org/abs/2302.04761)
# - Muennighoff 等，*s1: Simple test-time scaling*，[arXiv:2501.19393](https://arxiv.org/abs/2501.19393)：budget forcing
