"""Exercise 14.1: FLOPs of training, a token."""

from __future__ import annotations

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def training_flops(size: int, ffn: int, layers: int, vocab: int, length: int) -> int:
    """FLOPs of forward and backward pass for one token of a sequence of `length` tokens.

    A block has four (size, size) matrices of attention and two of its feed-forward network, (ffn, size) and
    (size, ffn); the output projection is (vocab, size); the embedding is a lookup. Attention multiplies every
    query with all `length` keys, and its weights with all values. A multiply-add is two FLOPs; the backward pass
    takes twice the forward pass. Norms, softmax and biases are left out.
    """
    weights = layers * (4 * size * size + 2 * size * ffn)
    head = vocab * size
    scores = layers * 2 * length * size
    forward = 2 * (weights + head + scores)
    return 3 * forward


def oracle(size: int, ffn: int, layers: int, vocab: int, length: int) -> int:
    """Product by product, for the whole sequence."""
    products = [(length, vocab, size)]  # rows, columns, and the inner axis
    for _ in range(layers):
        products += [(length, size, size)] * 4 + [(length, ffn, size), (length, size, ffn)]
        products += [(length, length, size), (length, size, length)]
    return sum(2 * rows * columns * inner * 3 for rows, columns, inner in products) // length


def cases() -> list[Case]:
    """From numbers that can be checked by hand to GPT-2 small."""
    return [
        Case((1, 1, 1, 1, 1)),
        Case((2, 3, 1, 5, 4)),
        Case((4, 16, 2, 7, 3)),
        Case((64, 256, 3, 64, 48)),
        Case((768, 3072, 12, 50257, 1024)),
    ]


EXERCISE = Exercise(
    number="14.1",
    title=Both("FLOPs a token", "每个词元的 FLOPs"),
    statement=Both(
        "How many FLOPs does training take for each token? Count the matrix products of a transformer, those of the attention scores too, in the forward "
        "and the backward pass. Count scores as a plain product does, for all keys.",
        "训练时每个词元要多少 FLOPs？请统计 Transformer 前向与反向的矩阵乘法，注意力分数也要算。分数按普通乘法统计，即所有键都算。",
    ),
    solution=(training_flops,),
    oracle={"training_flops": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "forward_alone",
            Both("the backward pass is not counted", "没有统计反向传播"),
            edits=(("return 3 * forward", "return forward"),),
        ),
        Mistake(
            "backward_once",
            Both(
                "the backward pass is counted like the forward pass; it has two products for each: the gradient of the input and of the weight",
                "反向只按与前向相同来算；前向的每次乘法，反向有两次：输入的梯度和权重的梯度",
            ),
            edits=(("return 3 * forward", "return 2 * forward"),),
        ),
        Mistake(
            "multiply_adds",
            Both("multiply-adds are counted; each is two FLOPs", "统计的是乘加次数；一次乘加是两个 FLOPs"),
            edits=(("forward = 2 * (", "forward = ("),),
        ),
        Mistake(
            "no_scores",
            Both(
                "the products of attention are missing: queries with keys, weights with values; they have no parameters, but they take time",
                "漏了注意力内部的乘法：查询乘键、权重乘值；它们没有参数，但要花时间",
            ),
            edits=((" + head + scores", " + head"),),
        ),
        Mistake(
            "scores_once",
            Both(
                "attention has two products of this size: queries with keys, and weights with values",
                "注意力里有两次这样大小的乘法：查询乘键，权重乘值",
            ),
            edits=(("layers * 2 * length * size", "layers * length * size"),),
        ),
        Mistake(
            "scores_of_the_sequence",
            Both(
                "the scores are those of the whole sequence (length squared); one token has `length` of them",
                "分数算成了整条序列的（长度的平方）；一个词元只有 `length` 个",
            ),
            edits=(("layers * 2 * length * size", "layers * 2 * length * length * size"),),
        ),
        Mistake(
            "no_head",
            Both("the output projection to the vocabulary is missing", "漏了投影到词表的输出层"),
            edits=((" + head + scores", " + scores"),),
        ),
        Mistake(
            "embedding_counted",
            Both(
                "the embedding is counted as a matrix product; it is a lookup and multiplies nothing",
                "把嵌入也算成了矩阵乘法；它只是查表，不做乘法",
            ),
            edits=(("head = vocab * size", "head = 2 * vocab * size"),),
        ),
    ),
    hints=(
        Both(
            "A product of (1, D) with (D, F) takes D F multiply-adds. Which matrices does a token pass?",
            "(1, D) 乘 (D, F) 需要 D F 次乘加。一个词元要经过哪些矩阵？",
        ),
        Both(
            "For the scores: with how many keys is one query multiplied, and how long is each?",
            "至于分数：一个查询要与多少个键相乘，每个键有多长？",
        ),
        Both("Forward 2 FLOPs per multiply-add, and three forward passes in all.", "前向每次乘加 2 个 FLOPs，总共相当于三次前向。"),
    ),
    imports="import math\n",
)  # fmt: skip
