"""Exercise 6.3: greedy generation with a model of limited context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def generate(
    model: Callable[[Tensor], Tensor], ids: Tensor, num_tokens: int, context: int
) -> Tensor:
    """ids (1, T) with num_tokens more, each the likeliest: (1, T + num_tokens).

    model: from ids (1, T) with T <= context to logits (1, T, V).
    """
    for _ in range(num_tokens):
        logits = model(ids[:, -context:])
        best = logits[:, -1].argmax(dim=-1, keepdim=True)
        ids = torch.cat((ids, best), dim=1)
    return ids


def oracle(model: Callable[[Tensor], Tensor], ids: Tensor, num_tokens: int, context: int) -> Tensor:
    """With a list."""
    row = ids[0].tolist()
    for _ in range(num_tokens):
        seen = torch.tensor([row[max(0, len(row) - context) :]])
        row.append(int(model(seen)[0][-1].argmax()))
    return torch.tensor([row])


def run(module: Any, table: Any, prompt: Any, num_tokens: int, context: int) -> Any:
    """Generate with a model whose logits at a position are the sum of table rows of all ids so far."""
    import torch

    def model(ids: Any) -> Any:
        if ids.shape[1] > context:
            raise ValueError(f"the model takes {context} ids at most and got {ids.shape[1]}")
        place = torch.arange(1, ids.shape[1] + 1)[None, :, None]
        return (table[ids] * place).cumsum(1) / place

    return module.generate(model, prompt, num_tokens, context)


def cases() -> list[Case]:
    """No token, one, some, and more than the context holds."""
    draw = torch.Generator().manual_seed(63)
    found = []
    for prompt, num_tokens, context, size in (
        (1, 0, 4, 3),
        (2, 1, 4, 4),
        (3, 3, 8, 6),
        (2, 6, 4, 7),
        (6, 5, 3, 9),
        (4, 8, 5, 12),
    ):
        table = torch.randn(size, size, generator=draw).round(decimals=2)
        ids = torch.randint(size, (1, prompt), generator=draw)
        found.append(Case((table, ids, num_tokens, context), call="run"))
    return found


EXERCISE = Exercise(
    number="6.3",
    title=Both("Generation", "生成"),
    statement=Both(
        "Append `num_tokens` tokens to `ids` (1, T), each time the likeliest after what is there. The model takes at most `context` ids: "
        "give it the last ones. Return the prompt and the new tokens. (The cases call `run`, which builds a model from a table and "
        "hands it to your function.)",
        "在 `ids`（1, T）后面追加 `num_tokens` 个词元，每次取最可能的一个。模型至多接受 `context` 个编号：把最后的那些给它。"
        "返回提示词和新词元。（用例调用的是 `run`，它用一张表构造模型，再交给你的函数。）",
    ),
    solution=(generate,),
    oracle={"generate": oracle},
    drivers=(run,),
    cases=cases,
    mistakes=(
        Mistake(
            "context_not_cut",
            Both(
                "the model gets more ids than its context holds",
                "喂给模型的编号超过了它的上下文长度",
            ),
            edits=(("ids[:, -context:]", "ids"),),
        ),
        Mistake(
            "first_ids_kept",
            Both(
                "the first ids are kept and the newest cut off: from then on the model writes the same token",
                "截断时保留了最前面的编号，丢了最新的：之后模型只会重复同一个词元",
            ),
            edits=(("ids[:, -context:]", "ids[:, :context]"),),
        ),
        Mistake(
            "first_position_read",
            Both(
                "the logits of the first position are read; the last is about the next token",
                "读的是第一个位置的 logit；预测下一个词元的是最后一个位置",
            ),
            edits=(("logits[:, -1]", "logits[:, 0]"),),
        ),
        Mistake(
            "last_token_alone",
            Both("the model sees the last token alone", "模型只看到了最后一个词元"),
            edits=(("ids[:, -context:]", "ids[:, -1:]"),),
        ),
        Mistake(
            "prompt_dropped",
            Both(
                "the new tokens alone are returned; the prompt belongs to the result",
                "只返回了新词元；结果应当包含提示词",
            ),
            edits=(("    return ids", "    return ids[:, ids.shape[1] - num_tokens :]"),),
        ),
        Mistake(
            "one_token_more",
            Both("there is one token too many", "多生成了一个词元"),
            edits=(("range(num_tokens)", "range(num_tokens + 1)"),),
        ),
        Mistake(
            "prompt_not_extended",
            Both(
                "every new token is chosen after the prompt alone: what was generated is not fed back",
                "每个新词元都只根据提示词选出：生成的词元没有再喂回去",
            ),
            edits=(
                (
                    "    for _ in range(num_tokens):\n        logits = model(ids[:, -context:])",
                    "    prompt = ids[:, -context:]\n    for _ in range(num_tokens):\n        logits = model(prompt)",
                ),
            ),
        ),
        Mistake(
            "least_likely",
            Both("the least likely token is taken", "取了概率最小的词元"),
            edits=(("argmax", "argmin"),),
        ),
    ),
    hints=(
        Both(
            "Which of the T rows of logits speaks about a token that is not there yet?",
            "T 行 logit 里，哪一行说的是还不存在的那个词元？",
        ),
        Both(
            "ids[:, -context:] works for short ids, too.",
            "ids 较短时，ids[:, -context:] 也没有问题。",
        ),
    ),
    imports="from collections.abc import Callable\n\nimport torch\nfrom torch import Tensor\n",
)
