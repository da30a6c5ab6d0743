"""Exercise 2.1: one merge of byte pair encoding."""

from __future__ import annotations

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def merge(tokens: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """The tokens with every occurrence of the pair replaced by the token `new`, from left to right.

    Occurrences do not overlap: of three equal tokens the first two are one pair.
    """
    out = []
    place = 0
    while place < len(tokens):
        if tuple(tokens[place : place + 2]) == pair:
            out.append(new)
            place += 2
        else:
            out.append(tokens[place])
            place += 1
    return out


def oracle(tokens: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """By replacing in text, of which each character is a token."""
    text = "".join(map(chr, tokens)).replace(chr(pair[0]) + chr(pair[1]), chr(new))
    return [ord(character) for character in text]


_RIGHT_TO_LEFT = """def merge(tokens, pair, new):
    out = []
    place = len(tokens)
    while place > 0:
        if tuple(tokens[max(0, place - 2) : place]) == pair:
            out.append(new)
            place -= 2
        else:
            out.append(tokens[place - 1])
            place -= 1
    return out[::-1]
"""

EXERCISE = Exercise(
    number="2.1",
    title=Both("One merge", "一次合并"),
    statement=Both(
        "Replace every occurrence of a pair of neighbouring tokens by a new token, from left to right. Occurrences do not "
        "overlap: in `[7, 7, 7]` the pair (7, 7) occurs once, at the beginning.",
        "从左到右，把相邻词元对的每次出现替换成一个新词元。各次出现互不重叠：`[7, 7, 7]` 中的对 (7, 7) 只出现一次，在开头。",
    ),
    solution=(merge,),
    oracle={"merge": oracle},
    cases=lambda: [
        Case(case)
        for case in (
            ([1, 2], (1, 2), 256),
            ([1, 2, 3], (1, 2), 256),
            ([3, 1, 2], (1, 2), 256),
            ([2, 1, 1, 2], (1, 2), 256),
            ([7, 7, 7], (7, 7), 300),
            ([1, 2, 1, 2, 3, 1, 2], (1, 2), 256),
            ([5, 4, 5, 5, 5, 5, 4], (5, 5), 257),
            ([], (1, 2), 256),
        )
    ],
    mistakes=(
        Mistake(
            "second_kept",
            Both(
                "the second token of a merged pair stays behind: step over both",
                "合并后第二个词元还留着：应当跳过两个",
            ),
            edits=(("place += 2", "place += 1"),),
        ),
        Mistake(
            "first_only",
            Both("only the first occurrence is merged", "只合并了第一次出现"),
            edits=(("== pair:", "== pair and new not in out:"),),
        ),
        Mistake(
            "either_order",
            Both(
                "the pair is merged in the other order, too: (a, b) is not (b, a)",
                "反过来的顺序也合并了：(a, b) 和 (b, a) 不是一回事",
            ),
            edits=(("== pair:", "in (pair, pair[::-1]):"),),
        ),
        Mistake(
            "last_token_lost",
            Both(
                "the last token is lost where it belongs to no pair",
                "最后一个词元不属于任何一对时被丢掉了",
            ),
            edits=(("place < len(tokens)", "place < len(tokens) - 1"),),
        ),
        Mistake(
            "right_to_left",
            Both(
                "the merges go from right to left: [7, 7, 7] becomes [7, new], not [new, 7]",
                "合并是从右到左做的：[7, 7, 7] 变成了 [7, new]，应为 [new, 7]",
            ),
            source=_RIGHT_TO_LEFT,
        ),
    ),
    hints=(
        Both(
            "Use a while loop: after a merge the place moves on by two.",
            "用 while 循环：合并一次，位置前进两格。",
        ),
        Both(
            "tokens[place : place + 2] is shorter than two at the end, and then no pair.",
            "到末尾时 tokens[place : place + 2] 不足两个，也就不会等于那一对。",
        ),
    ),
    imports="",
)
