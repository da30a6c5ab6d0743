"""Exercise 5.3: causal attention in several heads."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def multi_head_attention(
    x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, w_o: Tensor, num_heads: int
) -> Tensor:
    """Causal self-attention in num_heads heads of D / num_heads dimensions each.

    x: (B, T, D); the four weights: (D, D), applied as x @ w. Head h has the columns h * Dh to
    (h + 1) * Dh of q, k and v, and of what w_o gets. Returns (B, T, D).
    """
    batch, length, size = x.shape
    head_dim = size // num_heads
    q = (x @ w_q).view(batch, length, num_heads, head_dim).transpose(1, 2)
    k = (x @ w_k).view(batch, length, num_heads, head_dim).transpose(1, 2)
    v = (x @ w_v).view(batch, length, num_heads, head_dim).transpose(1, 2)
    scores = q @ k.transpose(-2, -1) / math.sqrt(head_dim)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(dim=-1)
    mixed = weights @ v
    return mixed.transpose(1, 2).reshape(batch, length, size) @ w_o


def oracle(x: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor, w_o: Tensor, num_heads: int) -> Tensor:
    """torch's own multi-head attention."""
    length, size = x.shape[1:]
    mask = torch.ones(length, length, dtype=torch.bool).triu(1)
    out, _ = F.multi_head_attention_forward(
        *(x.transpose(0, 1),) * 3,
        embed_dim_to_check=size,
        num_heads=num_heads,
        in_proj_weight=torch.cat((w_q.T, w_k.T, w_v.T)),
        in_proj_bias=torch.zeros(3 * size),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=w_o.T,
        out_proj_bias=torch.zeros(size),
        training=False,
        need_weights=False,
        attn_mask=mask,
    )
    return out.transpose(0, 1)


def cases() -> list[Case]:
    """One head, then two of unlike sizes of batch, length and head, then four."""
    draw = torch.Generator().manual_seed(53)
    found = []
    for batch, length, size, heads in (
        (1, 1, 2, 1),
        (1, 2, 4, 2),
        (2, 3, 6, 2),
        (2, 5, 8, 4),
        (3, 4, 8, 4),
    ):
        x = torch.randn(batch, length, size, generator=draw)
        weights = torch.randn(4, size, size, generator=draw) / math.sqrt(size) * 1.5
        found.append(Case((x, *weights.unbind(), heads)))
    return found


_SPLIT = "view(batch, length, num_heads, head_dim).transpose(1, 2)"

EXERCISE = Exercise(
    number="5.3",
    title=Both("Several heads", "多头注意力"),
    statement=Both(
        "Write causal multi-head attention for a batch: project `x` (B, T, D) to queries, keys and values, "
        "split the D columns into `num_heads` heads, attend in each head, put the heads side by side again "
        "and project with `w_o`. Weights are applied as `x @ w`.",
        "为一个批次实现因果多头注意力：把 `x`（B, T, D）投影成查询、键和值，将 D 列切成 `num_heads` 个头，"
        "每个头各自做注意力，再把各头并排拼回去，用 `w_o` 投影。权重的用法是 `x @ w`。",
    ),
    solution=(multi_head_attention,),
    oracle={"multi_head_attention": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "heads_cut_from_time",
            Both(
                "view(B, H, T, Dh) without a transpose mixes positions with heads: split the last axis into "
                "(H, Dh), then swap H and T",
                "直接 view(B, H, T, Dh) 会把位置和头混在一起：先把最后一维拆成 (H, Dh)，再交换 H 与 T",
            ),
            edits=tuple(
                (
                    f"{name} = (x @ w_{name}).{_SPLIT}",
                    f"{name} = (x @ w_{name}).view(batch, num_heads, length, head_dim)",
                )
                for name in "qkv"
            ),
        ),
        Mistake(
            "heads_merged_in_place",
            Both(
                "the heads are reshaped to (B, T, D) without swapping H and T back, so a row holds pieces of "
                "other positions",
                "合并各头之前没有把 H 与 T 换回来，直接 reshape 成 (B, T, D)：一行里混进了别的位置",
            ),
            edits=(("mixed.transpose(1, 2).reshape", "mixed.reshape"),),
        ),
        Mistake(
            "scaled_by_model_size",
            Both(
                "the scale is 1 / sqrt(D); a head's scores are sums over its own D / num_heads products",
                "缩放用了 1 / sqrt(D)；每个头的分数只是 D / num_heads 个乘积之和",
            ),
            edits=(("math.sqrt(head_dim)", "math.sqrt(size)"),),
        ),
        Mistake(
            "no_mask",
            Both(
                "the causal mask is missing: every position sees all",
                "漏了因果掩码：每个位置都能看到全部",
            ),
            edits=(("scores.masked_fill(future, -math.inf)", "scores"),),
        ),
        Mistake(
            "sees_next",
            Both(
                "the mask begins one place too late: every position sees the next one",
                "掩码错开了一位：每个位置都能看到下一个位置",
            ),
            edits=(("triu(1)", "triu(2)"),),
        ),
        Mistake(
            "no_output_projection",
            Both("the output projection w_o is not applied", "没有做输出投影 w_o"),
            edits=((" @ w_o", ""),),
        ),
        Mistake(
            "softmax_over_heads",
            Both(
                "the softmax does not run over the keys (the last axis)",
                "softmax 没有沿键那一维（最后一维）",
            ),
            edits=(
                (
                    "scores.masked_fill(future, -math.inf).softmax(dim=-1)",
                    "scores.softmax(dim=1).masked_fill(future, 0)",
                ),
            ),
        ),
        Mistake(
            "weights_transposed",
            Both(
                "the weights are applied as x @ w.T (as nn.Linear does); here it is x @ w",
                "权重用成了 x @ w.T（nn.Linear 的约定）；这里约定是 x @ w",
            ),
            edits=tuple((f"@ w_{name}", f"@ w_{name}.T") for name in "qkvo"),
        ),
    ),
    hints=(
        Both(
            "Follow the shapes: (B, T, D) -> (B, T, H, Dh) -> (B, H, T, Dh). Which of these steps moves no data?",
            "跟着形状走：(B, T, D) -> (B, T, H, Dh) -> (B, H, T, Dh)。哪一步不搬动数据？",
        ),
        Both(
            "With (B, H, T, Dh) the code for one head works unchanged: @ treats B and H as batch axes.",
            "变成 (B, H, T, Dh) 之后，单头的代码可以原样使用：@ 把 B 和 H 当作批次维。",
        ),
        Both(
            "Before the heads are joined, undo the transpose: (B, H, T, Dh) -> (B, T, H, Dh) -> (B, T, D).",
            "合并各头之前要先换回来：(B, H, T, Dh) -> (B, T, H, Dh) -> (B, T, D)。",
        ),
    ),
    imports="import math\n\nimport torch\nfrom torch import Tensor\n",
)
