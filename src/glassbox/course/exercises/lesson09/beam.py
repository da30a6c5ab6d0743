"""Exercise 9.3: beam search."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def beam_search(table: Tensor, start: int, width: int, length: int) -> list[int]:
    """The best text of `length` tokens that a beam of `width` finds, with `start` as its first token.

    table: (V, V), row a holds log p(next token | a). At every step each of the kept beginnings is continued by all V tokens, and the
    `width` continuations with the highest total log-probability are kept. No two totals are equal. Returns token ids, `start` first.
    """
    beams = [(0.0, [start])]
    for _ in range(length - 1):
        grown = []
        for score, text in beams:
            row = table[text[-1]].double().tolist()
            grown += [(score + value, [*text, token]) for token, value in enumerate(row)]
        grown.sort(key=lambda one: -one[0])
        beams = grown[:width]
    return beams[0][1]


def oracle(table: Tensor, start: int, width: int, length: int) -> list[int]:
    """With all texts enumerated: at each length the best `width` of those whose beginning was kept."""
    rows = table.double().tolist()
    kept: set[tuple[int, ...]] = {(start,)}
    for size in range(2, length + 1):
        texts = [
            one for one in itertools.product(range(len(rows)), repeat=size) if one[:-1] in kept
        ]
        texts.sort(key=lambda one: -sum(rows[a][b] for a, b in itertools.pairwise(one)))
        kept_list = texts[:width]
        kept = set(kept_list)
    return list(kept_list[0]) if length > 1 else [start]


def cases() -> list[Case]:
    """A table in which greedy is wrong, and random ones."""
    trap = torch.tensor([[0.05, 0.55, 0.40], [0.33, 0.34, 0.33], [0.02, 0.03, 0.95]]).log()
    found = [
        Case((trap, 0, 1, 3)),
        Case((trap, 0, 2, 3)),
        Case((trap, 0, 2, 1)),
        Case((trap, 1, 3, 4)),
    ]
    draw = torch.Generator().manual_seed(93)
    for size, width, length in ((4, 2, 4), (5, 3, 4), (4, 4, 5), (6, 2, 4)):
        table = (torch.randn(size, size, generator=draw) * 1.5).log_softmax(-1)
        found.append(Case((table, size - 1, width, length)))
    sums = torch.Generator().manual_seed(20)  # here sums of probabilities choose another text
    found.append(Case(((torch.randn(4, 4, generator=sums) * 1.5).log_softmax(-1), 0, 3, 4)))
    return found


EXERCISE = Exercise(
    number="9.3",
    title=Both("Beam search", "束搜索"),
    statement=Both(
        "Write beam search over a table of log-probabilities. Return the best text in the beam at the end.",
        "在一张对数概率表上实现束搜索，返回最后束里最好的文本。",
    ),
    solution=(beam_search,),
    oracle={"beam_search": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "greedy",
            Both(
                "only the best continuation is kept at each step: this is greedy, whatever `width` is",
                "每一步只保留最好的一个：不管 `width` 是多少，这都是贪心",
            ),
            edits=(("beams = grown[:width]", "beams = grown[:1]"),),
        ),
        Mistake(
            "last_step_alone",
            Both(
                "beginnings are compared by their last token's log-probability alone; the total of the whole text counts",
                "只比较最后一个词元的对数概率；应当比较整段文本的总和",
            ),
            edits=(("(score + value, [*text, token])", "(value, [*text, token])"),),
        ),
        Mistake(
            "width_for_each",
            Both(
                "each beginning keeps `width` continuations of its own, so that the beam grows without end: the best `width` of all are kept",
                "每个开头各自保留 `width` 个后续，束会无限增长：应从全部后续中保留最好的 `width` 个",
            ),
            edits=(("        beams = grown[:width]\n", "        beams = grown\n"),),
        ),
        Mistake(
            "probabilities_added",
            Both(
                "probabilities are added instead of log-probabilities; a text's probability is a product",
                "相加的是概率而不是对数概率；文本的概率是乘积",
            ),
            edits=(
                (
                    ".double().tolist()\n            grown",
                    ".double().exp().tolist()\n            grown",
                ),
            ),
        ),
        Mistake(
            "worst_kept",
            Both("the least probable beginnings are kept", "保留的是概率最低的开头"),
            edits=(("key=lambda one: -one[0]", "key=lambda one: one[0]"),),
        ),
        Mistake(
            "start_left_out",
            Both(
                "the first token is missing in the text that comes back",
                "返回的文本漏掉了第一个词元",
            ),
            edits=(("return beams[0][1]", "return beams[0][1][1:]"),),
        ),
        Mistake(
            "one_step_too_many",
            Both(
                "the text is one token too long: `length` counts the first token too",
                "文本多了一个词元：`length` 把第一个词元也算在内",
            ),
            edits=(("range(length - 1)", "range(length)"),),
        ),
    ),
    hints=(
        Both(
            "Keep a list of (total, text). What is it before the first step?",
            "维护一个（总分，文本）列表。第一步之前它是什么？",
        ),
        Both(
            "At each step make all continuations of all beginnings, then sort once.",
            "每一步先生成所有开头的所有后续，再统一排序一次。",
        ),
        Both(
            "Totals are sums of log-probabilities; keep the `width` largest.",
            "总分是对数概率之和；保留最大的 `width` 个。",
        ),
    ),
)
