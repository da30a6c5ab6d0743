"""Exercise 23.1: the rank of the right token through the layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def lens_ranks(
    stream: Tensor, gain: Tensor, unembedding: Tensor, token: int, eps: float
) -> list[int]:
    """At which rank, from 1, a token would stand if the model stopped after each layer.

    stream: (L, D), the residual stream of one position after each layer. The output reads
    logits = unembedding @ (gain * x / sqrt(mean(x^2) + eps)); gain: (D), unembedding: (V, D). All logits differ.
    Returns L ranks.
    """
    scale = torch.rsqrt(stream.pow(2).mean(dim=-1, keepdim=True) + eps)
    logits = (stream * scale * gain) @ unembedding.T
    own = logits[:, token].unsqueeze(1)
    return (1 + (logits > own).sum(dim=1)).tolist()


def oracle(stream: Tensor, gain: Tensor, unembedding: Tensor, token: int, eps: float) -> list[int]:
    """Layer by layer, number by number, by sorting."""
    ranks = []
    for row in stream.double().tolist():
        rms = math.sqrt(math.fsum(x * x for x in row) / len(row) + eps)
        normed = [x / rms * g for x, g in zip(row, gain.double().tolist(), strict=True)]
        logits = [
            math.fsum(x * w for x, w in zip(normed, weights, strict=True))
            for weights in unembedding.double().tolist()
        ]
        order = sorted(range(len(logits)), key=lambda one: -logits[one])
        ranks.append(order.index(token) + 1)
    return ranks


def cases() -> list[Case]:
    """Streams that grow, gains that turn the order round, and a token that is neither best nor worst."""
    draw = torch.Generator().manual_seed(231)
    found = []
    for layers, size, vocab in ((1, 2, 3), (2, 3, 5), (4, 6, 11), (7, 5, 23)):
        for _ in range(3):
            stream = torch.randn(layers, size, generator=draw).cumsum(0) * 3
            gain = torch.randn(size, generator=draw)
            table = torch.randn(vocab, size, generator=draw)
            table = table + 0.5 * torch.randn(vocab, 1, generator=draw)
            token = int(torch.randint(vocab, (), generator=draw))
            found.append(Case((stream, gain, table, token, 1e-5)))
    return found


EXERCISE = Exercise(
    number="23.1",
    title=Both("The logit lens", "logit lens：逐层读出"),
    statement=Both(
        "Read the residual stream after each layer as the output would, with the final RMSNorm (gain included), and return "
        "the rank of `token` there: 1 if it were said.",
        "在每一层之后，像输出层那样读残差流：先做最后的 RMSNorm（包括增益），再返回 `token` 的排名：若模型会说出它，排名为 1。",
    ),
    solution=(lens_ranks,),
    oracle={"lens_ranks": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "no_gain",
            Both(
                "the norm's gain is left out; where it is negative or small it changes which token comes first",
                "漏掉了归一化的增益；增益为负或很小时，会改变哪个词元排第一",
            ),
            edits=(("(stream * scale * gain)", "(stream * scale)"),),
        ),
        Mistake(
            "rank_from_zero",
            Both(
                "ranks are counted from 0; the likeliest token has rank 1",
                "排名从 0 数起；概率最高的词元应是第 1 名",
            ),
            edits=(("(1 + (logits > own)", "((logits > own)"),),
        ),
        Mistake(
            "lowest_first",
            Both(
                "tokens with smaller logits are counted: the likeliest token then has the last rank",
                "数的是 logit 更小的词元：概率最高的反而排在最后",
            ),
            edits=(("(logits > own)", "(logits < own)"),),
        ),
        Mistake(
            "last_layer_only",
            Both(
                "every layer gives the last one's rank: the stream of the last layer was read each time",
                "每一层给出的都是最后一层的排名：每次读的都是最后一层的残差流",
            ),
            edits=(
                (
                    "    scale = torch",
                    "    stream = stream[-1:].expand_as(stream)\n    scale = torch",
                ),
            ),
        ),
        Mistake(
            "layers_written_apart",
            Both(
                "what each layer added is read, not the stream: the lens reads the sum of all that was written so far",
                "读的是每层新增的部分，而不是残差流：透镜读的是到目前为止写入的总和",
            ),
            edits=(
                (
                    "    scale = torch",
                    "    stream = torch.diff(stream, dim=0, prepend=torch.zeros_like(stream[:1]))\n    scale = torch",
                ),
            ),
        ),
        Mistake(
            "stream_summed_again",
            Both(
                "the streams of all layers are added up; each of them already holds everything that was written before it",
                "把各层的残差流又累加了一遍；每一个都已包含之前写入的全部内容",
            ),
            edits=(("    scale = torch", "    stream = stream.cumsum(dim=0)\n    scale = torch"),),
        ),
        Mistake(
            "mean_removed",
            Both(
                "the mean is taken off, as LayerNorm does; RMSNorm only divides",
                "像 LayerNorm 那样减去了均值；RMSNorm 只做除法",
            ),
            edits=(
                (
                    "    scale = torch",
                    "    stream = stream - stream.mean(dim=-1, keepdim=True)\n    scale = torch",
                ),
            ),
        ),
    ),
    hints=(
        Both(
            "A positive factor for a whole row does not change ranks. What of the norm does?",
            "整行乘一个正数不会改变排名。归一化里会改变排名的是什么？",
        ),
        Both(
            "logits has shape (L, V): one row a layer.",
            "logits 的形状是 (L, V)：每层一行。",
        ),
        Both(
            "The rank is one more than the number of tokens with a larger logit than the token's own.",
            "排名等于 logit 比它大的词元个数加一。",
        ),
    ),
)
