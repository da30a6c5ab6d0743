"""Exercise 20.1: a text's keys out of a paged cache."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def gather_pages(pool: Tensor, table: list[int], length: int) -> Tensor:
    """The keys of a text, in order.

    pool: (N, C, D), N blocks of C places each. table: the text's blocks in order; position t lies in block table[t // C] at place t % C.
    length: how many positions the text has; places behind them hold what others left. Returns (length, D).
    """
    size = pool.shape[1]
    rows = [pool[table[t // size], t % size] for t in range(length)]
    return torch.stack(rows) if rows else pool.new_zeros(0, pool.shape[2])


def oracle(pool: Tensor, table: list[int], length: int) -> Tensor:
    """Blocks put one behind the other, and cut."""
    chosen = pool[torch.tensor(table, dtype=torch.long)]
    return chosen.reshape(-1, pool.shape[-1])[:length].clone()


def cases() -> list[Case]:
    """One block, several out of order, a last one that is partly filled, and one text of a single token."""
    draw = torch.Generator().manual_seed(201)
    found = []
    for blocks, size, width, table, length in (
        (3, 2, 2, [1], 2),
        (4, 3, 2, [2, 0], 4),
        (5, 4, 3, [4, 1, 3], 12),
        (6, 3, 2, [5, 0, 2], 7),
        (2, 4, 1, [1], 1),
    ):
        found.append(Case((torch.randn(blocks, size, width, generator=draw), table, length)))
    return found


EXERCISE = Exercise(
    number="20.1",
    title=Both("Read through a block table", "按块表读取"),
    statement=Both(
        "Gather the keys of one text from a paged cache, in order of its positions.",
        "从分页缓存里按位置顺序取出一段文本的键。",
    ),
    solution=(gather_pages,),
    oracle={"gather_pages": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "table_ignored",
            Both(
                "blocks are read in the order of the pool, not of the text's table",
                "按池中的顺序读块，没有按文本的块表",
            ),
            edits=(("pool[table[t // size], t % size]", "pool[t // size, t % size]"),),
        ),
        Mistake(
            "whole_blocks",
            Both(
                "the last block is returned whole, with what others left behind the text's end",
                "最后一块被整个返回，带上了文本末尾之后别人留下的内容",
            ),
            edits=(("for t in range(length)]", "for t in range(len(table) * size)]"),),
        ),
        Mistake(
            "table_sorted",
            Both(
                "the table is sorted first: the text's order is that of its table",
                "先把块表排了序：文本的顺序就是块表的顺序",
            ),
            edits=(
                ("    size = pool.shape[1]\n", "    size, table = pool.shape[1], sorted(table)\n"),
            ),
        ),
        Mistake(
            "place_and_block_swapped",
            Both(
                "block and place are taken the wrong way round: t % C is the place in the block, t // C the number of the block",
                "块号与块内位置弄反了：t % C 是块内位置，t // C 才是第几块",
            ),
            edits=(
                (
                    "pool[table[t // size], t % size]",
                    "pool[table[t % len(table)], (t // len(table)) % size]",
                ),
            ),
        ),
        Mistake(
            "one_too_few",
            Both("the last position is missing", "少了最后一个位置"),
            edits=(("for t in range(length)]", "for t in range(length - 1)]"),),
        ),
        Mistake(
            "backwards",
            Both("the positions are in reverse order", "位置的顺序反了"),
            edits=(("for t in range(length)]", "for t in reversed(range(length))]"),),
        ),
    ),
    hints=(
        Both(
            "Where does position 5 of a text with blocks of 4 and the table [2, 0] lie?",
            "块大小为 4、块表为 [2, 0] 的文本，位置 5 在哪里？",
        ),
        Both(
            "t // C chooses the entry of the table, t % C the place in that block.",
            "用 t // C 选块表的项，用 t % C 选块内的位置。",
        ),
        Both(
            "pool[table] puts the blocks one behind the other; then cut to `length`.",
            "pool[table] 把各块接在一起，再截到 `length`。",
        ),
    ),
)
