"""Exercise 2.2: encoding with learned merges."""

from __future__ import annotations

from itertools import pairwise

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def _merge(tokens: list[int], pair: tuple[int, int], new: int) -> list[int]:
    out: list[int] = []
    place = 0
    while place < len(tokens):
        found = tuple(tokens[place : place + 2]) == pair
        out.append(new if found else tokens[place])
        place += 2 if found else 1
    return out


def bpe_encode(word: bytes, merges: list[tuple[int, int]]) -> list[int]:
    """The token ids of a word.

    It begins as its bytes, ids 0 to 255. merges: in the order in which they were learned; merge number n makes
    the token 256 + n. As long as a merge applies, the one that was learned first is applied, wherever it occurs.
    """
    tokens = list(word)
    while True:
        ranks = [merges.index(pair) for pair in pairwise(tokens) if pair in merges]
        if not ranks:
            return tokens
        rank = min(ranks)
        tokens = _merge(tokens, merges[rank], 256 + rank)


def oracle(word: bytes, merges: list[tuple[int, int]]) -> list[int]:
    """Every merge once, in the order of learning: a later one never makes room for an earlier one."""
    text = "".join(map(chr, word))
    for rank, (first, second) in enumerate(merges):
        text = text.replace(chr(first) + chr(second), chr(256 + rank))
    return [ord(character) for character in text]


def cases() -> list[Case]:
    """No merge, one, then those whose order matters."""
    a, b, c, d = b"abcd"
    found = [
        (b"ab", []),
        (b"abc", [(a, b)]),
        (b"abc", [(b, c), (a, b)]),
        (b"abc", [(a, b), (b, c)]),
        (b"abcab", [(a, b), (256, c)]),
        (b"abab", [(a, b), (256, 256)]),
        (b"abcd", [(b, c), (a, b), (c, d), (256, d)]),
        (b"aaaa", [(a, a), (256, 256)]),
        (b"abcdabc", [(c, d), (a, b), (257, c), (257, 256)]),
        ("é".encode(), [(195, 169)]),
    ]
    return [Case(case) for case in found]


_LEFT = """def bpe_encode(word, merges):
    tokens = list(word)
    while True:
        for place, pair in enumerate(zip(tokens, tokens[1:])):
            if pair in merges:
                tokens = [*tokens[:place], 256 + merges.index(pair), *tokens[place + 2 :]]
                break
        else:
            return tokens
"""
_LONGEST = """def bpe_encode(word, merges):
    spelled = [bytes([n]) for n in range(256)]
    for first, second in merges:
        spelled.append(spelled[first] + spelled[second])
    out, place = [], 0
    while place < len(word):
        fits = [n for n, piece in enumerate(spelled) if word.startswith(piece, place)]
        best = max(fits, key=lambda n: len(spelled[n]))
        out.append(best)
        place += len(spelled[best])
    return out
"""

EXERCISE = Exercise(
    number="2.2",
    title=Both("Encoding a word", "编码一个单词"),
    statement=Both(
        "A word begins as its bytes. As long as some pair of neighbours is a learned merge, apply the merge that was learned first, "
        "wherever it occurs. Merge number n makes the token 256 + n.",
        "单词一开始是它的各个字节。只要还有相邻的一对是学过的合并，就应用其中最早学到的那个，凡出现之处都合并。"
        "第 n 个合并产生词元 256 + n。",
    ),
    solution=(_merge, bpe_encode),
    oracle={"bpe_encode": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "leftmost_first",
            Both(
                "the leftmost pair is merged first; it is the merge that was learned first, wherever it stands",
                "先合并了最左边的对；应当先用最早学到的合并，不管它在哪里",
            ),
            source=_LEFT,
        ),
        Mistake(
            "latest_first",
            Both("the merge that was learned last is applied first", "先用了最晚学到的合并"),
            edits=(("rank = min(ranks)", "rank = max(ranks)"),),
        ),
        Mistake(
            "longest_match",
            Both(
                "the longest token that fits is taken from the left: that is WordPiece's way, and gives other ids",
                "从左边取能匹配的最长词元：那是 WordPiece 的做法，得到的编号不同",
            ),
            source=_LONGEST,
        ),
        Mistake(
            "one_merge_only",
            Both(
                "only one merge is applied; tokens that a merge has made can be merged again",
                "只做了一轮合并；合并得到的词元还可以继续合并",
            ),
            edits=(
                (
                    "        tokens = _merge(tokens, merges[rank], 256 + rank)",
                    "        return _merge(tokens, merges[rank], 256 + rank)",
                ),
            ),
        ),
        Mistake(
            "ids_without_bytes",
            Both(
                "merge n makes the token n; the first 256 ids are the bytes",
                "第 n 个合并产生了词元 n；前 256 个编号是字节",
            ),
            edits=(("merges[rank], 256 + rank)", "merges[rank], rank)"),),
        ),
    ),
    hints=(
        Both(
            "For abc and the merges bc, ab: which comes first in the word, and which was learned first?",
            "单词 abc，合并依次为 bc、ab：哪个在单词里靠前？哪个先学到？",
        ),
        Both(
            "In each round: list the ranks of all pairs that are merges, and take the smallest.",
            "每一轮：列出所有可合并的对的序号，取最小的。",
        ),
    ),
    imports="from itertools import pairwise\n",
)
