"""Exercise 19.1: bits per byte over several documents."""

from __future__ import annotations

import math

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def bits_per_byte(losses: list[list[float]], texts: list[str]) -> float:
    """The surprise of all documents in bits, divided by all of their bytes.

    losses: of each document -ln p of its tokens, in nats. texts: the same documents, in UTF-8 so many bytes long.
    """
    nats = sum(sum(document) for document in losses)
    num_bytes = sum(len(text.encode("utf-8")) for text in texts)
    return nats / math.log(2) / num_bytes


def oracle(losses: list[list[float]], texts: list[str]) -> float:
    """With exact sums and logarithms to base 2 of probabilities."""
    bits = math.fsum(-math.log2(math.exp(-loss)) for document in losses for loss in document)
    return bits / len("".join(texts).encode())


def cases() -> list[Case]:
    """One document, several of unlike length, and characters of more than one byte."""
    return [
        Case(([[math.log(2)]], ["a"])),
        Case(([[1.0, 2.0]], ["four"])),
        Case(([[0.5, 1.5, 2.0], [3.0]], ["a longer text", "x"])),
        Case(([[1.0, 1.0]], ["你好"])),
        Case(([[0.2] * 9, [4.0, 1.0], [2.5]], ["the first one", "é", "end"])),
    ]


EXERCISE = Exercise(
    number="19.1",
    title=Both("Bits per byte", "每字节比特数"),
    statement=Both(
        "Compute the bits per byte of several documents together, from the losses of their tokens in nats.",
        "由各词元的损失（nat）计算几个文档合在一起的每字节比特数。",
    ),
    solution=(bits_per_byte,),
    oracle={"bits_per_byte": oracle},
    cases=cases,
    imports="import math\n",
    mistakes=(
        Mistake(
            "nats",
            Both("these are nats: divide by ln 2 to have bits", "这是 nat：要除以 ln 2 才是比特"),
            edits=((" / math.log(2)", ""),),
        ),
        Mistake(
            "multiplied_by_ln2",
            Both("multiplied by ln 2 instead of divided by it", "乘以了 ln 2，应当除以它"),
            edits=((" / math.log(2)", " * math.log(2)"),),
        ),
        Mistake(
            "characters",
            Both(
                "divided by characters, not bytes: a Chinese character has three",
                "除以的是字符数而不是字节数：一个汉字有三个字节",
            ),
            edits=(('len(text.encode("utf-8"))', "len(text)"),),
        ),
        Mistake(
            "tokens",
            Both(
                "divided by the number of tokens: that depends on the tokenizer",
                "除以的是词元数：那取决于分词器",
            ),
            edits=(('sum(len(text.encode("utf-8")) for text in texts)', "sum(map(len, losses))"),),
        ),
        Mistake(
            "mean_of_documents",
            Both(
                "the documents' figures are averaged, so that a short one counts as much as a long one",
                "对各文档的数字取了平均，短文档与长文档分量相同",
            ),
            edits=(
                (
                    "    return nats / math.log(2) / num_bytes",
                    "    each = [sum(d) / len(t.encode()) for d, t in zip(losses, texts, strict=True)]\n"
                    "    return sum(each) / len(each) / math.log(2)",
                ),
            ),
        ),
        Mistake(
            "token_means",
            Both(
                "the losses of a document are averaged before they are added up",
                "先对文档内的损失取了平均，再相加",
            ),
            edits=(
                (
                    "sum(sum(document) for document in losses)",
                    "sum(sum(document) / len(document) for document in losses)",
                ),
            ),
        ),
    ),
    hints=(
        Both("How many bits is a loss of ln 2?", "损失 ln 2 是多少比特？"),
        Both("Add everything up first, divide once.", "先全部加起来，只除一次。"),
        Both("len(text.encode('utf-8')) counts bytes.", "用 len(text.encode('utf-8')) 数字节。"),
    ),
)
