"""Exercise 20.3: how many blocks texts take that share their beginnings."""

from __future__ import annotations

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def blocks_in_use(texts: list[list[int]], size: int) -> int:
    """How many blocks of `size` tokens hold all texts, where full blocks are shared.

    A full block may be shared by texts that agree in all tokens up to its end. A block that is only partly filled is written to and belongs to
    one text alone.
    """
    full = set()
    alone = 0
    for text in texts:
        for end in range(size, len(text) + 1, size):
            full.add(tuple(text[:end]))
        alone += len(text) % size != 0
    return len(full) + alone


def oracle(texts: list[list[int]], size: int) -> int:
    """Every text beside all those before it."""
    total = 0
    for number, text in enumerate(texts):
        full, rest = divmod(len(text), size)
        common = 0
        for other in texts[:number]:
            same = 0
            for a, b in zip(text, other, strict=False):
                if a != b:
                    break
                same += 1
            common = max(common, same // size)
        total += full - min(common, full) + (rest > 0)
    return total


def cases() -> list[Case]:
    """Equal texts, common beginnings that end inside of a block, equal middles behind unlike beginnings."""
    return [
        Case(([[1, 2, 3, 4]], 2)),
        Case(([[1, 2, 3, 4], [1, 2, 3, 4]], 2)),
        Case(([[1, 2, 3], [1, 2, 3]], 2)),
        Case(([[1, 2, 3, 4], [1, 2, 9, 9], [1, 7, 3, 4]], 2)),
        Case(([[5, 5, 1, 2], [6, 6, 1, 2]], 2)),
        Case(([[1] * 10, [1] * 7, [1] * 3], 3)),
        Case(([[], [4]], 4)),
        Case(([[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 8], [1, 2, 3, 4, 9, 9, 9, 9]], 4)),
    ]


EXERCISE = Exercise(
    number="20.3",
    title=Both("Shared beginnings", "共用的开头"),
    statement=Both(
        "Count the blocks that a cache needs for several texts when full blocks of common beginnings are kept once.",
        "若干文本共用开头的写满的块时，数一数缓存一共需要多少块。",
    ),
    solution=(blocks_in_use,),
    oracle={"blocks_in_use": oracle},
    cases=cases,
    imports="",
    mistakes=(
        Mistake(
            "block_alone_as_key",
            Both(
                "a block is known by its own tokens alone: behind another beginning the same tokens have other keys and values",
                "只用块自己的词元来辨认：前面不同，同样的词元键和值也不同",
            ),
            edits=(("tuple(text[:end])", "tuple(text[end - size : end])"),),
        ),
        Mistake(
            "nothing_shared",
            Both("no block is shared", "没有共用任何块"),
            edits=(("    full = set()\n", "    full = []\n"), ("full.add(", "full.append(")),
        ),
        Mistake(
            "partial_shared",
            Both(
                "partly filled blocks are shared too; whoever writes on would change the other's text",
                "没写满的块也共用了；谁继续写，都会改动另一段文本",
            ),
            edits=(
                (
                    "        alone += len(text) % size != 0\n",
                    "        if len(text) % size:\n            full.add(tuple(text))\n",
                ),
            ),
        ),
        Mistake(
            "partial_forgotten",
            Both("partly filled blocks are not counted", "没有数没写满的块"),
            edits=(("return len(full) + alone", "return len(full)"),),
        ),
        Mistake(
            "partial_always",
            Both(
                "a text that ends with a full block gets an empty one too",
                "恰好写满的文本也多算了一个空块",
            ),
            edits=(("alone += len(text) % size != 0", "alone += 1"),),
        ),
        Mistake(
            "last_full_missing",
            Both(
                "a text's last full block is not counted where the text ends with it",
                "文本恰好在块的末尾结束时，漏数了最后一个写满的块",
            ),
            edits=(("range(size, len(text) + 1, size)", "range(size, len(text), size)"),),
        ),
    ),
    hints=(
        Both(
            "May [5, 5, 1, 2] and [6, 6, 1, 2] share the block [1, 2]?",
            "[5, 5, 1, 2] 和 [6, 6, 1, 2] 可以共用块 [1, 2] 吗？",
        ),
        Both(
            "A full block is the same where everything up to its end is the same.",
            "从开头到块末尾全部相同，才是同一个块。",
        ),
        Both(
            "Put the beginnings up to each full block into a set.",
            "把到每个写满的块为止的开头放进一个集合。",
        ),
    ),
)
