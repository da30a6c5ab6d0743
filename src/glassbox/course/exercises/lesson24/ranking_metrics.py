"""Exercise 24.3: recall and NDCG of a left-out song among all."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def ranking_metrics(
    scores: Tensor, lists: list[list[int]], answers: list[int], k: int
) -> tuple[float, float]:
    """(recall@k, NDCG@k), means over L lists with one right song each.

    scores: (L, N), of all songs for each list; not to be changed. lists: the songs that each list has, which are not
    recommended again. answers: the song left out of each. All scores of a row differ.
    An answer at rank r = 1, 2, ... is worth 1 (recall) and 1 / log2(1 + r) (NDCG) for r <= k, else 0.
    """
    recall = ndcg = 0.0
    for row, known, answer in zip(scores, lists, answers, strict=True):
        left = row.clone()
        left[known] = -math.inf
        rank = 1 + int((left > left[answer]).sum())
        if rank <= k:
            recall += 1
            ndcg += 1 / math.log2(1 + rank)
    return recall / len(answers), ndcg / len(answers)


def oracle(
    scores: Tensor, lists: list[list[int]], answers: list[int], k: int
) -> tuple[float, float]:
    """By sorting what is left."""
    found = []
    for row, known, answer in zip(scores.tolist(), lists, answers, strict=True):
        order = sorted((s for s in range(len(row)) if s not in known), key=lambda s: -row[s])
        place = order.index(answer)
        found.append((1.0, 1 / math.log2(place + 2)) if place < k else (0.0, 0.0))
    return sum(a for a, _ in found) / len(found), sum(b for _, b in found) / len(found)


def cases() -> list[Case]:
    """One list with known ranks, then several, with different k; songs of the list score high."""
    draw = torch.Generator().manual_seed(243)
    found = [
        Case((torch.tensor([[0.1, 0.9, 0.5, 0.3]]), [[]], [2], 2)),
        Case((torch.tensor([[0.1, 0.9, 0.5, 0.3]]), [[1]], [2], 1)),
        Case((torch.tensor([[0.1, 0.9, 0.5, 0.3]]), [[2]], [3], 1)),
    ]
    for size, count, k in ((6, 3, 2), (12, 5, 4), (30, 8, 10)):
        scores = torch.rand(count, size, generator=draw)
        lists, answers = [], []
        for row in range(count):
            songs = torch.randperm(size, generator=draw)[: 1 + size // 4].tolist()
            scores[row, songs[1:]] += 0.5  # songs of the list are similar to themselves
            lists.append(songs[1:])
            answers.append(songs[0])
        found.append(Case((scores, lists, answers, k)))
    return found


EXERCISE = Exercise(
    number="24.3",
    title=Both("Rank every song", "给每首歌排序"),
    statement=Both(
        "Rank all songs for each list, without those that the list has, and return recall@k and NDCG@k of the songs that "
        "were left out, as means over the lists.",
        "对每个歌单给全部歌排序（歌单里已有的除外），返回留出歌曲的 recall@k 和 NDCG@k，对歌单取平均。",
    ),
    solution=(ranking_metrics,),
    oracle={"ranking_metrics": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "list_not_left_out",
            Both(
                "songs of the list are still in the ranking and push the answer down",
                "歌单里已有的歌还在参与排序，把答案挤了下去",
            ),
            edits=(("        left[known] = -math.inf\n", ""),),
        ),
        Mistake(
            "list_set_to_zero",
            Both(
                "songs of the list get score 0, which may still be higher than others; give them minus infinity",
                "歌单里的歌得分设成了 0，仍可能高于别的歌；应设成负无穷",
            ),
            edits=(("left[known] = -math.inf", "left[known] = left.mean()"),),
        ),
        Mistake(
            "rank_from_zero",
            Both(
                "ranks are counted from 0: the first k + 1 places count as hits, and the best song divides by log2(1) = 0",
                "排名从 0 数起：前 k + 1 名都算命中，第一名还会除以 log2(1) = 0",
            ),
            edits=(
                ("rank = 1 + int(", "rank = int("),
                ("1 / math.log2(1 + rank)", "1 / max(1e-9, math.log2(1 + rank))"),
            ),
        ),
        Mistake(
            "cutoff_excludes_k",
            Both(
                "rank k itself does not count: use r <= k", "排名恰好为 k 的没有算：应当用 r <= k"
            ),
            edits=(("if rank <= k:", "if rank < k:"),),
        ),
        Mistake(
            "natural_log",
            Both(
                "NDCG takes the logarithm to base 2, so that the first place is worth exactly 1",
                "NDCG 用以 2 为底的对数，第一名的价值才恰好是 1",
            ),
            edits=(("math.log2(1 + rank)", "math.log(1 + rank)"),),
        ),
        Mistake(
            "ascending",
            Both(
                "the lowest score comes first: count the songs whose score is higher than the answer's",
                "分数最低的排在了最前：应当数得分比答案高的歌",
            ),
            edits=(("(left > left[answer])", "((left < left[answer]) & ~left.isinf())"),),
        ),
        Mistake(
            "ndcg_without_cutoff",
            Both("NDCG counts answers behind place k too", "NDCG 把第 k 名之后的答案也算了进去"),
            edits=(
                (
                    "        if rank <= k:\n            recall += 1\n            ndcg += ",
                    "        recall += rank <= k\n        ndcg += ",
                ),
            ),
        ),
        Mistake(
            "divided_by_k",
            Both(
                "recall is divided by k; each list has one right song, so a hit counts 1 (what was computed is precision)",
                "recall 除以了 k；每个歌单只有一个正确答案，命中就计 1（除以 k 的是 precision）",
            ),
            edits=(("return recall / len(answers)", "return recall / k / len(answers)"),),
        ),
    ),
    hints=(
        Both(
            "You need no sorting: the rank of a song is one more than the number of songs with a higher score.",
            "不需要排序：一首歌的排名等于得分比它高的歌数加一。",
        ),
        Both(
            "Copy the row before you take songs out of it.",
            "先复制这一行，再从中去掉歌。",
        ),
        Both(
            "With scores of the list set to minus infinity, rank = 1 + (row > row[answer]).sum().",
            "把歌单里的歌设成负无穷之后，rank = 1 + (row > row[answer]).sum()。",
        ),
    ),
)
