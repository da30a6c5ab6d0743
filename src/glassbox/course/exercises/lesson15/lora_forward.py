"""Exercise 15.2: a linear layer with a low-rank update, and its merged weight."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def lora_forward(x: Tensor, weight: Tensor, down: Tensor, up: Tensor, alpha: float) -> Tensor:
    """y = W x + alpha / r B A x for every row.

    x: (N, I), weight W: (O, I), down A: (r, I), up B: (O, r). Returns (N, O).
    """
    rank = down.shape[0]
    update = (x @ down.T) @ up.T
    return x @ weight.T + alpha / rank * update


def lora_merge(weight: Tensor, down: Tensor, up: Tensor, alpha: float) -> Tensor:
    """The (O, I) weight of a plain linear layer that does the same; the arguments are left as they are."""
    rank = down.shape[0]
    return weight + alpha / rank * (up @ down)


def oracle(x: Tensor, weight: Tensor, down: Tensor, up: Tensor, alpha: float) -> Tensor:
    """By the merged weight, added up rank by rank."""
    return x @ merged(weight, down, up, alpha).T


def merged(weight: Tensor, down: Tensor, up: Tensor, alpha: float) -> Tensor:
    """A sum of outer products."""
    rank = len(down)
    parts = [torch.outer(up[:, place], down[place]) for place in range(rank)]
    return (weight.double() + torch.stack(parts).double().sum(0) * (alpha / rank)).float()


def cases() -> list[Case]:
    """Both functions, for ranks of 1 to 4; inputs and outputs differ in size, and are square once."""
    draw = torch.Generator().manual_seed(152)
    found = []
    for rows, inputs, outputs, rank, alpha in (
        (1, 2, 1, 1, 1.0),
        (2, 3, 2, 1, 2.0),
        (2, 2, 2, 2, 1.0),
        (3, 4, 5, 2, 8.0),
        (4, 6, 3, 4, 16.0),
    ):
        x, weight = (
            torch.randn(rows, inputs, generator=draw),
            torch.randn(outputs, inputs, generator=draw),
        )
        down, up = (
            torch.randn(rank, inputs, generator=draw),
            torch.randn(outputs, rank, generator=draw),
        )
        found.append(Case((x, weight, down, up, alpha)))
        found.append(Case((weight, down, up, alpha), call="lora_merge"))
    return found


EXERCISE = Exercise(
    number="15.2",
    title=Both("A low-rank update", "低秩更新"),
    statement=Both(
        "Write the forward pass of a linear layer with LoRA, and the merge: the weight of a plain layer that computes the same. The update is scaled by "
        "alpha / r, r being the rank.",
        "实现带 LoRA 的线性层的前向，以及合并：算出结果相同的普通线性层的权重。更新要乘以 alpha / r，r 是秩。",
    ),
    solution=(lora_forward, lora_merge),
    oracle={"lora_forward": oracle, "lora_merge": merged},
    cases=cases,
    mistakes=(
        Mistake(
            "no_scale",
            Both("the update is not scaled by alpha / r", "更新没有乘以 alpha / r"),
            edits=(
                ("alpha / rank * update", "update"),
                ("alpha / rank * (up", "(up"),
            ),
        ),
        Mistake(
            "alpha_alone",
            Both(
                "the update is scaled by alpha; without the division by r it grows with the rank",
                "更新只乘了 alpha；不除以 r，秩越大更新就越大",
            ),
            edits=(("alpha / rank * update", "alpha * update"), ("alpha / rank * (up", "alpha * (up")),
        ),
        Mistake(
            "inverse_scale",
            Both("the scale is r / alpha, the wrong way round", "缩放写成了 r / alpha，弄反了"),
            edits=(
                ("alpha / rank * update", "rank / alpha * update"),
                ("alpha / rank * (up", "rank / alpha * (up"),
            ),
        ),
        Mistake(
            "scaled_by_root",
            Both(
                "the scale is alpha / sqrt(r): that is rank-stabilized LoRA, not the one asked for",
                "缩放用了 alpha / sqrt(r)：那是 rsLoRA，不是这里要的",
            ),
            edits=(
                ("alpha / rank * update", "alpha / rank**0.5 * update"),
                ("alpha / rank * (up", "alpha / rank**0.5 * (up"),
            ),
        ),
        Mistake(
            "base_missing",
            Both("the frozen weight is missing: only the update is returned", "漏了冻结的权重：只返回了更新部分"),
            edits=(("x @ weight.T + ", ""), ("return weight + ", "return ")),
        ),
        Mistake(
            "merge_not_scaled",
            Both(
                "forward scales the update and merge does not: the merged model answers differently",
                "前向时更新有缩放，合并时没有：合并后的模型输出就变了",
            ),
            edits=(("alpha / rank * (up", "(up"),),
        ),
        Mistake(
            "merge_in_place",
            Both(
                "merge changes the frozen weight itself; afterwards the adapter cannot be taken off, and merging twice adds it twice",
                "合并直接改动了冻结的权重：之后摘不下适配器，合并两次就加了两遍",
            ),
            edits=(("return weight + alpha", "return weight.add_(alpha"), ("(up @ down)", "(up @ down))")),
        ),
        Mistake(
            "scaled_by_inputs",
            Both(
                "the scale divides by the number of inputs; r is the number of rows of A",
                "缩放除以了输入维度；r 是 A 的行数",
            ),
            edits=(
                ("    rank = down.shape[0]\n    update", "    rank = down.shape[1]\n    update"),
                ("    rank = down.shape[0]\n    return", "    rank = down.shape[1]\n    return"),
            ),
        ),
    ),
    hints=(
        Both("Which axis of A is the rank?", "A 的哪一维是秩？"),
        Both(
            "x A^T has r columns; multiplied with B^T it has O. The (O, I) product B A is needed only for the merge.",
            "x A^T 有 r 列，再乘 B^T 得到 O 列。(O, I) 的乘积 B A 只有合并时才需要。",
        ),
        Both("Both functions use the same scale.", "两个函数用同一个缩放系数。"),
    ),
    imports="import torch\nfrom torch import Tensor\n",
)  # fmt: skip
