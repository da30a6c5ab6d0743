"""Exercise 7.1: the number of parameters of a GPT-2."""

from __future__ import annotations

import torch

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both
from glassbox.models.causal_lm import CausalLM
from glassbox.models.shapes import GPT2Shape


def parameter_count(vocab: int, context: int, size: int, num_layers: int) -> int:
    """Number of trained numbers in a GPT-2.

    Token table (vocab, size), used as the head as well; position table (context, size); num_layers
    blocks of two LayerNorms, attention (queries, keys, values and output, with biases) and a
    feed-forward of width 4 * size with biases; a last LayerNorm. A LayerNorm has a gain and a shift.
    """
    norm = 2 * size
    attention = 3 * (size * size + size) + (size * size + size)
    feed_forward = (size * 4 * size + 4 * size) + (4 * size * size + size)
    block = 2 * norm + attention + feed_forward
    return vocab * size + context * size + num_layers * block + norm


def oracle(vocab: int, context: int, size: int, num_layers: int) -> int:
    """Counts those of our model."""
    shape = GPT2Shape(hidden_size=size, num_layers=num_layers, num_heads=1, context_length=context)
    with torch.device("meta"):
        model = CausalLM(shape.config(vocab))
    return sum(parameter.numel() for parameter in model.parameters())


def cases() -> list[Case]:
    """Small ones with unlike sizes, then GPT-2's smallest."""
    sizes = ((2, 3, 1, 1), (5, 3, 2, 1), (7, 4, 3, 2), (11, 20, 6, 3), (50257, 1024, 768, 12))
    return [Case(one) for one in sizes]


EXERCISE = Exercise(
    number="7.1",
    title=Both("Counting parameters", "数参数"),
    statement=Both(
        "How many parameters has a GPT-2 with a vocabulary of `vocab` tokens, `context` positions, width `size` and `num_layers` "
        "blocks? The head is the token table. Check yourself with GPT-2's smallest: 124,439,808.",
        "词表有 `vocab` 个词元、上下文 `context` 个位置、宽度 `size`、`num_layers` 个块的 GPT-2 有多少参数？输出头就是词元表。"
        "可以用最小的 GPT-2 自查：124,439,808。",
    ),
    solution=(parameter_count,),
    oracle={"parameter_count": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "head_counted_again",
            Both(
                "the head is counted as a table of its own; it is the token table, which is there once",
                "输出头被当作另一张表又数了一次；它就是词元表，只有一份",
            ),
            edits=(("return vocab * size", "return 2 * vocab * size"),),
        ),
        Mistake(
            "no_attention_biases",
            Both(
                "the biases of the attention's projections are missing",
                "漏了注意力各投影的偏置",
            ),
            edits=(("3 * (size * size + size) + (size * size + size)", "4 * size * size"),),
        ),
        Mistake(
            "no_biases",
            Both("all biases of the matrices are missing", "所有矩阵的偏置都漏了"),
            edits=(
                ("3 * (size * size + size) + (size * size + size)", "4 * size * size"),
                ("(size * 4 * size + 4 * size) + (4 * size * size + size)", "8 * size * size"),
            ),
        ),
        Mistake(
            "norm_has_gain_alone",
            Both(
                "each LayerNorm is counted with a gain alone; it has a shift as well",
                "每个 LayerNorm 只数了增益，它还有偏移",
            ),
            edits=(("norm = 2 * size", "norm = size"),),
        ),
        Mistake(
            "last_norm_missing",
            Both(
                "the LayerNorm after the last block is missing",
                "漏了最后一个块之后的 LayerNorm",
            ),
            edits=((" + num_layers * block + norm", " + num_layers * block"),),
        ),
        Mistake(
            "one_norm_a_block",
            Both("a block has two LayerNorms, not one", "一个块有两个 LayerNorm，不是一个"),
            edits=(("2 * norm + attention", "norm + attention"),),
        ),
        Mistake(
            "no_positions",
            Both("the position table is missing", "漏了位置表"),
            edits=((" + context * size", ""),),
        ),
        Mistake(
            "no_output_projection",
            Both(
                "the attention's output projection is missing",
                "漏了注意力的输出投影",
            ),
            edits=((" + (size * size + size)\n    feed", "\n    feed"),),
        ),
    ),
    hints=(
        Both(
            "Write down one block's tensors with their shapes; there are twelve.",
            "把一个块里的张量和形状都列出来，共有十二个。",
        ),
        Both(
            "A matrix from D to F with a bias has D F + F numbers. A LayerNorm has 2 D.",
            "从 D 到 F、带偏置的矩阵有 D F + F 个数，LayerNorm 有 2 D 个。",
        ),
        Both(
            "A block has 12 D^2 + 13 D. What is left outside of the blocks?",
            "一个块共 12 D^2 + 13 D。块之外还剩什么？",
        ),
    ),
    imports="",
)
