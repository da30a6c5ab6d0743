"""Exercise 20.2: how many guesses are accepted, and what is drawn from where one is not."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def judge_guesses(
    guesses: list[int], p: Tensor, q: Tensor, uniforms: list[float]
) -> tuple[list[int], Tensor]:
    """(the guesses that are accepted, the distribution of the token after them).

    guesses: K tokens, the k-th drawn from q[k]. p: (K + 1, V), the target's distributions at the same places and behind them. q: (K, V).
    The k-th guess is accepted if uniforms[k] < p[k, x] / q[k, x], and judging stops at the first that is not. Then the next token is drawn from
    max(0, p[k] - q[k]), divided by its sum; if all are accepted, from p[K].
    """
    accepted: list[int] = []
    for k, x in enumerate(guesses):
        if uniforms[k] < float(p[k, x] / q[k, x]):
            accepted.append(x)
        else:
            rest = (p[k] - q[k]).clamp(min=0)
            return accepted, rest / rest.sum()
    return accepted, p[len(guesses)]


def oracle(
    guesses: list[int], p: Tensor, q: Tensor, uniforms: list[float]
) -> tuple[list[int], Tensor]:
    """Without a division where it can be avoided, number by number."""
    target, draft = p.double().tolist(), q.double().tolist()
    for k, x in enumerate(guesses):
        if not uniforms[k] * draft[k][x] < target[k][x]:
            rest = [max(0.0, a - b) for a, b in zip(target[k], draft[k], strict=True)]
            return guesses[:k], torch.tensor([one / sum(rest) for one in rest]).float()
    return list(guesses), torch.tensor(target[len(guesses)]).float()


def cases() -> list[Case]:
    """All accepted, none, some; guesses more probable under the target than the draft."""
    draw = torch.Generator().manual_seed(202)
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])
    q = torch.tensor([[0.2, 0.7, 0.1]])
    found = [Case(([x], p, q, [u])) for x, u in ((0, 0.99), (1, 0.4), (1, 0.5))]
    for count, uniforms in (
        (2, [0.1, 0.2]),
        (3, [0.3, 0.95, 0.1]),
        (3, [0.99, 0.1, 0.1]),
        (4, [0.2, 0.3, 0.6, 0.97]),
    ):
        target = (torch.randn(count + 1, 5, generator=draw) * 1.2).softmax(-1)
        draft = (target[:count].log() + 0.8 * torch.randn(count, 5, generator=draw)).softmax(-1)
        guesses = torch.multinomial(draft, 1, generator=draw).flatten().tolist()
        found.append(Case((guesses, target, draft, uniforms)))
    return found


EXERCISE = Exercise(
    number="20.2",
    title=Both("Judge guesses", "裁判猜测"),
    statement=Both(
        "Judge the guesses of a draft model so that what is written has exactly the target's distribution: return those that are accepted, and the distribution of the token that follows.",
        "裁判草稿模型的猜测，使写出的内容恰好服从目标分布：返回被接受的猜测，以及其后那个词元的分布。",
    ),
    solution=(judge_guesses,),
    oracle={"judge_guesses": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "draw_from_target",
            Both(
                "after a rejection the next token is drawn from p itself; it must come from what is left of p, max(0, p - q), since accepted guesses have written the rest",
                "拒绝之后直接从 p 抽取；应当从 p 剩下的部分 max(0, p - q) 里抽",
            ),
            edits=(
                ("            rest = (p[k] - q[k]).clamp(min=0)\n", "            rest = p[k]\n"),
            ),
        ),
        Mistake(
            "not_normalised",
            Both("the rest is not divided by its sum", "剩余部分没有归一化"),
            edits=(("return accepted, rest / rest.sum()", "return accepted, rest"),),
        ),
        Mistake(
            "negative_rest",
            Both("p - q is negative in places; those must be 0", "p - q 有的地方为负，应当取 0"),
            edits=((".clamp(min=0)", ""),),
        ),
        Mistake(
            "ratio_turned",
            Both("the ratio is turned round: p / q, not q / p", "比值反了：应是 p / q，不是 q / p"),
            edits=(("float(p[k, x] / q[k, x])", "float(q[k, x] / p[k, x])"),),
        ),
        Mistake(
            "greedy_acceptance",
            Both(
                "a guess is accepted where it is the target's likeliest token; sampled text would become greedy",
                "猜测是目标最可能的词元时才接受；采样的文本会变成贪心的",
            ),
            edits=(("if uniforms[k] < float(p[k, x] / q[k, x]):", "if x == int(p[k].argmax()):"),),
        ),
        Mistake(
            "goes_on_after_rejection",
            Both(
                "guesses behind a rejected one are accepted too; they were guessed behind a token that was never written",
                "被拒之后的猜测也接受了；它们是接在从未写出的词元后面猜的",
            ),
            edits=(
                (
                    "        else:\n            rest = (p[k] - q[k]).clamp(min=0)\n            return accepted, rest / rest.sum()\n",
                    "",
                ),
            ),
        ),
        Mistake(
            "compared_with_p",
            Both(
                "the uniform number is compared with p alone: the draft's own probability has to be divided out",
                "随机数只与 p 比较：应当除以草稿自己的概率",
            ),
            edits=(("float(p[k, x] / q[k, x])", "float(p[k, x])"),),
        ),
    ),
    hints=(
        Both(
            "If the draft says 0.7 and the target 0.3, how often may the guess stay?",
            "草稿给 0.7、目标给 0.3，这个猜测应当保留多大比例？",
        ),
        Both(
            "What of p is not yet written by accepted guesses? p - min(p, q).",
            "p 中还有哪部分没被接受的猜测写出来？p - min(p, q)。",
        ),
        Both(
            "Stop at the first rejection: everything behind it belongs to another text.",
            "在第一次拒绝处停下：后面的都属于另一段文本。",
        ),
    ),
)
