"""Exercise 17.1: forward KL between teacher and student at a temperature."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both
from glassbox.tuning.distillation.divergences import divergence


def distill_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(p || q), mean over positions.

    student, teacher: logits (N, V); p = softmax(teacher / T), q = softmax(student / T).
    """
    log_q = (student / temperature).log_softmax(dim=-1)
    log_p = (teacher / temperature).log_softmax(dim=-1)
    each = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    return temperature**2 * each.mean()


def oracle(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Ours."""
    return divergence(student, teacher, temperature=temperature).mean()


def cases() -> list[Case]:
    """One position of two tokens, then more, at temperatures below and above 1; one with logits of 200."""
    draw = torch.Generator().manual_seed(171)
    found = []
    for rows, vocab, temperature in ((1, 2, 1.0), (2, 3, 1.0), (3, 5, 2.0), (4, 7, 0.5)):
        student, teacher = 2 * torch.randn(2, rows, vocab, generator=draw)
        found.append(Case((student, teacher, temperature)))
    far = torch.tensor([[200.0, 0.0, 0.0]])
    found.append(Case((far.roll(1, dims=1), far, 4.0)))
    return found


EXERCISE = Exercise(
    number="17.1",
    title=Both("The distillation loss", "蒸馏损失"),
    statement=Both(
        "Write the loss by which a student learns a teacher's distribution: forward KL at temperature T, times T squared, mean over positions.",
        "实现学生学习教师分布的损失：温度 T 下的正向 KL，乘以 T 的平方，再对位置取平均。",
    ),
    solution=(distill_loss,),
    oracle={"distill_loss": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "no_square",
            Both(
                "the factor T^2 is missing: gradients fade as the temperature rises",
                "漏了系数 T^2：温度越高，梯度越弱",
            ),
            edits=(("temperature**2 * each", "each"),),
        ),
        Mistake(
            "not_squared",
            Both("the factor is T, not its square", "系数用了 T，而不是 T 的平方"),
            edits=(("temperature**2 * each", "temperature * each"),),
        ),
        Mistake(
            "student_not_softened",
            Both(
                "only the teacher is softened by the temperature: the student learns to be as flat as the softened teacher",
                "只软化了教师：学生会学成软化后的教师那样平",
            ),
            edits=(("(student / temperature)", "student"),),
        ),
        Mistake(
            "teacher_not_softened",
            Both("only the student is softened by the temperature", "只软化了学生"),
            edits=(("(teacher / temperature)", "teacher"),),
        ),
        Mistake(
            "reversed",
            Both(
                "this is KL(q || p), weighted by the student's probabilities; forward KL is weighted by the teacher's",
                "这是 KL(q || p)，按学生的概率加权；正向 KL 按教师的概率加权",
            ),
            edits=(("log_p.exp() * (log_p - log_q)", "log_q.exp() * (log_q - log_p)"),),
        ),
        Mistake(
            "sign",
            Both("the sign is wrong: log q - log p is negative on average", "符号反了：log q - log p 平均为负"),
            edits=(("(log_p - log_q)", "(log_q - log_p)"),),
        ),
        Mistake(
            "cross_entropy",
            Both(
                "the teacher's entropy is missing: this cross-entropy has the same gradient, but is not zero where both agree",
                "漏了教师的熵：交叉熵的梯度相同，但两者一致时它不为零",
            ),
            edits=(("(log_p - log_q)", "-log_q"),),
        ),
        Mistake(
            "mean_over_vocabulary",
            Both(
                "the mean runs over the vocabulary too: the loss is V times too small",
                "对词表也取了平均：损失小了 V 倍",
            ),
            edits=((".sum(dim=-1)", ".mean(dim=-1)"),),
        ),
        Mistake(
            "summed",
            Both("positions are added, not averaged", "对位置求了和，没有取平均"),
            edits=(("each.mean()", "each.sum()"),),
        ),
    ),
    hints=(
        Both("Both distributions use the same temperature.", "两个分布用同一个温度。"),
        Both("KL is a sum over the vocabulary, and then a mean over positions.", "KL 对词表求和，再对位置取平均。"),
        Both("log_softmax stays finite where softmax rounds to zero.", "softmax 舍入为零时，log_softmax 仍是有限值。"),
    ),
)  # fmt: skip
