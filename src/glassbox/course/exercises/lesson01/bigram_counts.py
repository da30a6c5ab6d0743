"""Exercise 1.1: how often each character follows each other one."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def bigram_counts(ids: Tensor, vocab_size: int) -> Tensor:
    """(vocab_size, vocab_size): entry [a, b] says how often id b follows id a in ids (T)."""
    counts = torch.zeros(vocab_size, vocab_size)
    for place in range(len(ids) - 1):
        counts[ids[place], ids[place + 1]] += 1
    return counts


def oracle(ids: Tensor, vocab_size: int) -> Tensor:
    """By counting the numbers first * V + second."""
    pairs = ids[:-1] * vocab_size + ids[1:]
    return torch.bincount(pairs, minlength=vocab_size**2).view(vocab_size, vocab_size).float()


def cases() -> list[Case]:
    """Two and three ids, a repeated one, ids that never occur, and longer texts."""
    draw = torch.Generator().manual_seed(11)
    texts = [([0, 1], 2), ([0, 1, 2], 3), ([1, 1, 1], 2), ([0, 2, 0, 2, 1], 4)]
    found = [Case((torch.tensor(ids), size)) for ids, size in texts]
    return [
        *found,
        Case((torch.randint(5, (40,), generator=draw), 6)),
        Case((torch.tensor([1]), 2)),
    ]


EXERCISE = Exercise(
    number="1.1",
    title=Both("Counting pairs", "统计字符对"),
    statement=Both(
        "Count how often each id follows each other one: row a, column b has the number of places where b comes "
        "right after a.",
        "统计每个编号后面紧跟着每个编号的次数：第 a 行第 b 列是 b 紧跟在 a 后面的次数。",
    ),
    solution=(bigram_counts,),
    oracle={"bigram_counts": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "transposed",
            Both(
                "rows and columns are swapped: the row is the first id of a pair, the column the one that follows",
                "行和列颠倒了：行是前一个编号，列是后一个编号",
            ),
            edits=(("ids[place], ids[place + 1]", "ids[place + 1], ids[place]"),),
        ),
        Mistake(
            "pairs_do_not_overlap",
            Both(
                "only every second pair is counted: in abc both ab and bc are pairs",
                "只数了一半的对：abc 里 ab 和 bc 都要算",
            ),
            edits=(("range(len(ids) - 1)", "range(0, len(ids) - 1, 2)"),),
        ),
        Mistake(
            "last_pair_missing",
            Both("the last pair of the text is not counted", "漏了文本的最后一对"),
            edits=(("range(len(ids) - 1)", "range(len(ids) - 2)"),),
        ),
        Mistake(
            "wraps_around",
            Both(
                "the first id is counted as following the last one: the text is no ring",
                "把第一个编号当成跟在最后一个后面了：文本首尾并不相连",
            ),
            edits=(("range(len(ids) - 1)", "range(-1, len(ids) - 1)"),),
        ),
        Mistake(
            "seen_or_not",
            Both(
                "each pair is marked once however often it occurs: assignment through an index does not add up",
                "同一对无论出现几次都只记了一次：按下标赋值不会累加",
            ),
            edits=(("+= 1", "= 1"),),
        ),
        Mistake(
            "counts_itself",
            Both(
                "each id is paired with itself, not with the one after it",
                "每个编号配对的是它自己，而不是后面那个",
            ),
            edits=(("ids[place], ids[place + 1]", "ids[place], ids[place]"),),
        ),
    ),
    hints=(
        Both("For n ids there are n - 1 pairs.", "n 个编号有 n - 1 对。"),
        Both(
            "ids[:-1] and ids[1:] have the same length: at each place stand the two ids of a pair.",
            "ids[:-1] 和 ids[1:] 一样长，同一位置上正好是一对里的前后两个编号。",
        ),
    ),
    imports="import torch\nfrom torch import Tensor\n",
)
