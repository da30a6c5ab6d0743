"""Exercise 17.2: KL from the teacher's k most probable tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both
from glassbox.tuning.distillation.divergences import top_divergence as real_divergence


def top_divergence(student: Tensor, ids: Tensor, log_probs: Tensor) -> Tensor:
    """KL(p || q) over k + 1 outcomes: the teacher's k tokens, and all others together.

    student: (V,), logits. ids: (k,), the teacher's most probable tokens, k < V. log_probs: (k,), their
    log-probabilities by the teacher over the whole vocabulary; they add up to less than 1. Returns one number.
    """
    log_q = student.log_softmax(dim=-1)[ids]
    p, q = log_probs.exp(), log_q.exp()
    rest_p, rest_q = 1 - p.sum(), 1 - q.sum()
    known = (p * (log_probs - log_q)).sum()
    return known + rest_p * (rest_p / rest_q).log()


def oracle(student: Tensor, ids: Tensor, log_probs: Tensor) -> Tensor:
    """Ours."""
    return real_divergence(student[None], ids[None], log_probs[None])[0]


def cases() -> list[Case]:
    """One token of three to four of nine."""
    draw = torch.Generator().manual_seed(172)
    found = []
    for vocab, k in ((3, 1), (4, 2), (5, 3), (9, 4)):
        student, teacher = torch.randn(2, vocab, generator=draw)
        log_probs, ids = teacher.log_softmax(-1).topk(k)
        found.append(Case((student, ids, log_probs)))
    log_probs, ids = torch.tensor([0.0, 1.0, 0.5, -0.5]).log_softmax(-1).topk(2)
    found.append(Case((torch.tensor([0.0, 1.0, 0.5, -0.5]), ids, log_probs)))
    return found


EXERCISE = Exercise(
    number="17.2",
    title=Both("The teacher's top k", "教师的前 k 个"),
    statement=Both(
        "A cache keeps the teacher's k most probable tokens alone. Write KL(teacher || student) over k + 1 outcomes: these tokens, and all others as one. It is zero "
        "where both agree.",
        "缓存里只有教师概率最高的 k 个词元。请实现 k + 1 个事件上的 KL(teacher || student)：这些词元各是一个，其余合成一个。两者一致时为零。",
    ),
    solution=(top_divergence,),
    oracle={"top_divergence": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "rest_left_out",
            Both(
                "all other tokens are left out: the sum can be negative, and nothing keeps the student from giving them too little or too much",
                "漏了其余词元：总和可能为负，也没有什么约束学生给它们多少概率",
            ),
            edits=(("return known + rest_p * (rest_p / rest_q).log()", "return known"),),
        ),
        Mistake(
            "both_renormalized",
            Both(
                "both are renormalized over the k tokens: how much probability the student gives to all others is never looked at",
                "两者都在 k 个词元上重新归一化：学生给其余词元多少概率，完全没管",
            ),
            edits=(
                ("student.log_softmax(dim=-1)[ids]", "student[ids].log_softmax(dim=-1)"),
                (
                    "    p, q = log_probs.exp(), log_q.exp()\n",
                    "    log_probs = log_probs.log_softmax(dim=-1)\n    p, q = log_probs.exp(), log_q.exp()\n",
                ),
                ("return known + rest_p * (rest_p / rest_q).log()", "return known"),
            ),
        ),
        Mistake(
            "teacher_renormalized",
            Both(
                "the teacher's k probabilities are scaled up to 1: the student learns that all other tokens are impossible",
                "把教师的 k 个概率放大到和为 1：学生学到的是其余词元都不可能",
            ),
            edits=(
                (
                    "    p, q = log_probs.exp(), log_q.exp()\n",
                    "    log_probs = log_probs.log_softmax(dim=-1)\n    p, q = log_probs.exp(), log_q.exp()\n",
                ),
                ("return known + rest_p * (rest_p / rest_q).log()", "return known"),
            ),
        ),
        Mistake(
            "reversed",
            Both("KL is taken the other way round, weighted by the student", "KL 的方向反了，按学生的概率加权"),
            edits=(
                ("(p * (log_probs - log_q)).sum()", "(q * (log_q - log_probs)).sum()"),
                ("rest_p * (rest_p / rest_q).log()", "rest_q * (rest_q / rest_p).log()"),
            ),
        ),
        Mistake(
            "rest_inverted",
            Both("the fraction of the rest is the wrong way round", "其余部分的比值写反了"),
            edits=(("(rest_p / rest_q)", "(rest_q / rest_p)"),),
        ),
        Mistake(
            "rest_weighted_by_student",
            Both("the rest is weighted by the student's share; it is the teacher's", "其余部分用了学生的概率加权；应当用教师的"),
            edits=(("rest_p * (rest_p / rest_q)", "rest_q * (rest_p / rest_q)"),),
        ),
        Mistake(
            "student_not_gathered",
            Both(
                "the student's first k tokens are compared with the teacher's best k: take those of `ids`",
                "拿学生的前 k 个词元与教师最好的 k 个比较：应按 `ids` 取",
            ),
            edits=(("log_softmax(dim=-1)[ids]", "log_softmax(dim=-1)[: len(ids)]"),),
        ),
    ),
    hints=(
        Both("How much probability does each model give to all tokens that are not in `ids`?", "不在 `ids` 里的词元，两个模型各给了多少概率？"),
        Both("The student's log-probabilities are over the whole vocabulary; gather afterwards.", "学生的对数概率要在整个词表上算，之后再取出这 k 个。"),
    ),
    tolerance=1e-3,  # one minus a sum loses digits where little is left
)  # fmt: skip
