"""Exercise 2.3: the likeliest pieces of a word under a Unigram model."""

from __future__ import annotations

import itertools
import math

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def unigram_best(word: str, scores: dict[str, float]) -> list[str]:
    """The pieces that spell the word and whose log-probabilities have the largest sum.

    scores: log-probability of each piece; every character of the word is one. No two ways have the same sum.
    """
    best = [0.0] + [-math.inf] * len(word)
    start = [0] * (len(word) + 1)
    for end in range(1, len(word) + 1):
        for begin in range(end):
            score = best[begin] + scores.get(word[begin:end], -math.inf)
            if score > best[end]:
                best[end], start[end] = score, begin
    pieces: list[str] = []
    end = len(word)
    while end > 0:
        pieces.append(word[start[end] : end])
        end = start[end]
    return pieces[::-1]


def oracle(word: str, scores: dict[str, float]) -> list[str]:
    """All ways to cut the word."""
    ways = []
    for cuts in itertools.product((False, True), repeat=max(0, len(word) - 1)):
        places = [0, *(n for n, cut in enumerate(cuts, 1) if cut), len(word)]
        pieces = [word[a:b] for a, b in itertools.pairwise(places)]
        if all(piece in scores for piece in pieces):
            ways.append((sum(scores[piece] for piece in pieces), pieces))
    return max(ways)[1]


def cases() -> list[Case]:
    """One character; two ways; words on which greedy and shortest ways lose."""
    letters = {one: -6.0 - 0.1 * place for place, one in enumerate("abcdefgh")}
    found = [
        ("a", {"a": -1.0}),
        ("ab", {"a": -1.0, "b": -1.5, "ab": -2.0}),
        ("ab", {"a": -1.0, "b": -1.5, "ab": -3.0}),
        ("abcd", {**letters, "abc": -4.0, "ab": -3.0, "cd": -3.1}),
        ("abcde", {**letters, "abcd": -9.0, "ab": -2.0, "cde": -3.0, "e": -5.0}),
        ("ab", {"a": -1.0, "b": -4.0, "ab": -3.9}),
        ("abcabc", {**letters, "abc": -5.0, "ca": -1.0, "ab": -2.0, "bc": -2.2}),
        ("aabbcc", {**letters, "aab": -20.0, "bcc": -21.0, "aa": -4.0, "bb": -4.1, "cc": -4.2}),
    ]
    return [Case(case) for case in found]


_GREEDY = """def unigram_best(word, scores):
    out = []
    while word:
        size = max(n for n in range(1, len(word) + 1) if word[:n] in scores)
        out.append(word[:size])
        word = word[size:]
    return out
"""
_SCORE = "score = best[begin] + scores.get(word[begin:end], -math.inf)"

EXERCISE = Exercise(
    number="2.3",
    title=Both("The likeliest pieces", "最可能的切分"),
    statement=Both(
        "A Unigram tokenizer has a log-probability for every piece and cuts a word so that their sum is largest. Find that cut without "
        "trying all 2^(n-1) of them: the best way to the end of a prefix is the best way to an earlier place and one piece more.",
        "Unigram 分词器给每个子词一个对数概率，并让切分后各子词的对数概率之和最大。请找出这种切分，但不要把 2^(n-1) 种全试一遍："
        "到某个前缀末尾的最优切分，等于到更早位置的最优切分再加一个子词。",
    ),
    solution=(unigram_best,),
    oracle={"unigram_best": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "greedy",
            Both(
                "the longest piece is taken from the left each time; a shorter one may leave a better rest",
                "每次都从左边取最长的子词；取短一点，剩下的部分也许更好",
            ),
            source=_GREEDY,
        ),
        Mistake(
            "fewest_pieces",
            Both(
                "the number of pieces is minimized, not the sum of log-probabilities maximized",
                "最小化的是子词个数，而不是最大化对数概率之和",
            ),
            edits=(
                (
                    _SCORE,
                    "piece = word[begin:end]\n            score = best[begin] - (1 if piece in scores else math.inf)",
                ),
            ),
        ),
        Mistake(
            "prefix_forgotten",
            Both(
                "only the score of the last piece is compared; add the best score of what comes before it",
                "只比较了最后一个子词的分数；还要加上它之前部分的最优分数",
            ),
            edits=((_SCORE, "score = scores.get(word[begin:end], -math.inf)"),),
        ),
        Mistake(
            "always_letters",
            Both(
                "the word is cut into its characters: longer pieces never win",
                "单词总是被切成单个字符：更长的子词从没被选中",
            ),
            edits=(("for begin in range(end):", "for begin in range(end - 1, end):"),),
        ),
        Mistake(
            "mean_instead_of_sum",
            Both(
                "the mean score of the pieces is maximized; a way's probability is the product, so take the sum",
                "最大化的是平均分；一种切分的概率是乘积，应当取对数之和",
            ),
            source="""def unigram_best(word, scores):
    ways = [(0.0, [])] if not word else []

    def walk(rest, pieces):
        if not rest:
            ways.append((sum(scores[p] for p in pieces) / len(pieces), pieces))
        for n in range(1, len(rest) + 1):
            if rest[:n] in scores:
                walk(rest[n:], [*pieces, rest[:n]])

    if word:
        walk(word, [])
    return max(ways)[1]
""",
        ),
        Mistake(
            "reversed",
            Both(
                "the pieces come in reverse order: the way is followed from the end",
                "子词的顺序是反的：回溯是从末尾开始的",
            ),
            edits=(("return pieces[::-1]", "return pieces"),),
        ),
    ),
    hints=(
        Both(
            "Keep for every place of the word the best score of reaching it.",
            "对单词的每个位置，记下到达它的最优分数。",
        ),
        Both(
            "Keep also where the last piece began, and follow that back from the end.",
            "再记下最后一个子词从哪里开始，最后从末尾往回走。",
        ),
    ),
    imports="import math\n",
)
