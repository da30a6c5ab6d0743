"""Exercise 4.2: documents packed into rows of one length."""

from __future__ import annotations

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def pack(documents: list[list[int]], length: int, end: int) -> list[list[int]]:
    """Rows of `length` tokens: all documents one after another, each followed by the token `end`.

    A document may go on in the next row; tokens at the end that fill no row are left out.
    """
    stream: list[int] = []
    for document in documents:
        stream += [*document, end]
    return [stream[start : start + length] for start in range(0, len(stream) - length + 1, length)]


def oracle(documents: list[list[int]], length: int, end: int) -> list[list[int]]:
    """Token by token."""
    rows: list[list[int]] = []
    row: list[int] = []
    for token in (token for document in documents for token in (*document, end)):
        row.append(token)
        if len(row) == length:
            rows.append(row)
            row = []
    return rows


def cases() -> list[Case]:
    """One document, several, an empty one, one longer than a row."""
    found = [
        ([[1, 2, 3]], 2),
        ([[1, 2], [3]], 5),
        ([[1, 2, 3, 4, 5], [6], [7, 8]], 4),
        ([[], [1], [], [2, 3]], 3),
        ([[*range(1, 14)], [20, 21], [30, 31, 32, 33], [40]], 5),
    ]
    return [Case((documents, length, 0)) for documents, length in found]


EXERCISE = Exercise(
    number="4.2",
    title=Both("Packing documents", "打包文档"),
    statement=Both(
        "Put documents one after another, each followed by the token `end`, and cut the stream into rows of `length` "
        "tokens. Documents go on from row to row; what fills no row at the end is left out. No row is padded.",
        "把文档依次相接，每篇后面跟一个 `end` 词元，再切成长为 `length` 的行。文档可以跨行；末尾凑不满一行的部分舍去，不做填充。",
    ),
    solution=(pack,),
    oracle={"pack": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "no_end",
            Both(
                "documents are joined without the end token, so the model never learns to stop",
                "文档之间没有结束词元，模型永远学不会停下来",
            ),
            edits=(("[*document, end]", "document"),),
        ),
        Mistake(
            "end_first",
            Both(
                "the end token stands before each document, not behind it",
                "结束词元放到了文档前面，应当放在后面",
            ),
            edits=(("[*document, end]", "[end, *document]"),),
        ),
        Mistake(
            "short_row_kept",
            Both("the last row is shorter than the others", "最后一行比别的行短"),
            edits=(("len(stream) - length + 1, length", "len(stream), length"),),
        ),
        Mistake(
            "last_row_missing",
            Both(
                "a full last row is left out: the range ends one too early, or the last document has no end token",
                "丢了完整的最后一行：range 少了一位，或者最后一篇文档后面没有结束词元",
            ),
            edits=(("len(stream) - length + 1, length", "len(stream) - length, length"),),
        ),
        Mistake(
            "padded",
            Both(
                "the last row is filled up with the end token; the model would learn that ends repeat",
                "最后一行用结束词元填满了；模型会学到结束词元会重复出现",
            ),
            edits=(
                (
                    "    return [stream[",
                    "    stream += [end] * (-len(stream) % length)\n    return [stream[",
                ),
            ),
        ),
        Mistake(
            "document_cut",
            Both(
                "what a document has beyond the row is thrown away; it goes on in the next row",
                "文档超出一行的部分被丢掉了；应当接到下一行",
            ),
            edits=(("[*document, end]", "[*document, end][:length]"),),
        ),
    ),
    hints=(
        Both("Make one long list first. How long is it?", "先拼成一个长列表。它有多长？"),
        Both(
            "How many full rows are in it? The last one starts at (rows - 1) * length.",
            "里面有几个整行？有 n 个整行时，最后一行从 (n - 1) * length 开始。",
        ),
    ),
    imports="",
)
