"""Exercise 8.1: one weight through several steps of AdamW."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def adamw(
    weight: Tensor,
    gradients: list[Tensor],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    decay: float,
) -> Tensor:
    """The weight after one step of AdamW for each gradient.

    weight and gradients: tensors of one shape; weight is not to be changed. Both means begin at zero and are divided by 1 - beta^t at step
    t = 1, 2, ...; the decay is lr * decay * weight, outside of the quotient, of the weight before the step.
    """
    w = weight.clone()
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t, g in enumerate(gradients, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        step = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)
        w = w - lr * step - lr * decay * w
    return w


def oracle(
    weight: Tensor,
    gradients: list[Tensor],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    decay: float,
) -> Tensor:
    """Torch's own optimizer in double precision."""
    w = torch.nn.Parameter(weight.double().clone())
    optimizer = torch.optim.AdamW([w], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=decay)
    for gradient in gradients:
        w.grad = gradient.double()
        optimizer.step()
    return w.detach().float()


def cases() -> list[Case]:
    """One step, several, with and without decay, a large eps, and gradients of unlike size."""
    draw = torch.Generator().manual_seed(81)
    found = [
        Case((torch.tensor([1.0]), [torch.tensor([0.5])], 0.1, 0.9, 0.99, 1e-8, 0.0)),
        Case((torch.tensor([2.0]), [torch.tensor([0.5])], 0.1, 0.9, 0.99, 1e-8, 0.5)),
    ]
    for count, lr, eps, decay in (
        (2, 0.1, 1e-8, 0.0),
        (4, 0.05, 1e-8, 0.2),
        (6, 0.02, 0.3, 0.1),
        (3, 0.3, 1e-3, 0.0),
    ):
        weight = torch.randn(2, 3, generator=draw) * 2
        gradients = [torch.randn(2, 3, generator=draw) * 10 ** (n - 1) for n in range(count)]
        found.append(Case((weight, gradients, lr, 0.8, 0.9, eps, decay)))
    return found


def _edit(old: str, new: str) -> tuple[tuple[str, str], ...]:
    return ((old, new),)


EXERCISE = Exercise(
    number="8.1",
    title=Both("AdamW, step by step", "逐步写出 AdamW"),
    statement=Both(
        "Write AdamW for one tensor: start from zero moments, take one step for each gradient, and return the weight.",
        "为一个张量写出 AdamW：矩从零开始，每个梯度走一步，返回最后的权重。",
    ),
    solution=(adamw,),
    oracle={"adamw": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "no_correction",
            Both(
                "the moments are not divided by 1 - beta^t: they begin at zero, and the first steps are far too small",
                "矩没有除以 1 - beta^t：它们从零开始，最初几步太小",
            ),
            edits=(
                (
                    "(m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)",
                    "m / (v.sqrt() + eps)",
                ),
            ),
        ),
        Mistake(
            "steps_from_zero",
            Both(
                "steps are counted from 0: at t = 0 the divisor 1 - beta^t is zero",
                "步数从 0 数起：t = 0 时分母 1 - beta^t 为零",
            ),
            edits=_edit("enumerate(gradients, start=1)", "enumerate(gradients)"),
        ),
        Mistake(
            "decay_in_gradient",
            Both(
                "the decay is added to the gradient, as in Adam with L2; it must stand outside of the quotient",
                "衰减加到了梯度上（那是带 L2 的 Adam）；应放在商的外面",
            ),
            edits=(
                ("        m = beta1 * m", "        g = g + decay * w\n        m = beta1 * m"),
                (" - lr * decay * w\n", "\n"),
            ),
        ),
        Mistake(
            "decay_without_rate",
            Both("the decay is not multiplied by the learning rate", "衰减没有乘以学习率"),
            edits=_edit(" - lr * decay * w\n", " - decay * w\n"),
        ),
        Mistake(
            "no_decay",
            Both("the weight does not decay", "权重没有衰减"),
            edits=_edit(" - lr * decay * w\n", "\n"),
        ),
        Mistake(
            "eps_inside_root",
            Both(
                "eps is inside of the root; AdamW adds it to the root",
                "eps 放在了根号里；AdamW 是加在根号外",
            ),
            edits=_edit(
                "((v / (1 - beta2**t)).sqrt() + eps)", "((v / (1 - beta2**t)) + eps).sqrt()"
            ),
        ),
        Mistake(
            "no_root",
            Both(
                "the second moment's root is missing: the step then shrinks as gradients grow",
                "二阶矩没有开方：梯度越大，步子反而越小",
            ),
            edits=_edit("((v / (1 - beta2**t)).sqrt() + eps)", "((v / (1 - beta2**t)) + eps)"),
        ),
        Mistake(
            "gradient_not_squared",
            Both(
                "the second moment averages the gradient, not its square",
                "二阶矩平均的是梯度，而不是它的平方",
            ),
            edits=_edit("(1 - beta2) * g * g", "(1 - beta2) * g.abs()"),
        ),
        Mistake(
            "moments_forgotten",
            Both("the moments begin anew at every step", "每一步矩都重新从零开始"),
            edits=_edit(
                "        m = beta1 * m + (1 - beta1) * g\n",
                "        m, v = torch.zeros_like(w), torch.zeros_like(w)\n        m = beta1 * m + (1 - beta1) * g\n",
            ),
        ),
    ),
    hints=(
        Both(
            "With one gradient and no decay the step is lr times the gradient's sign (nearly). Does yours do that?",
            "只有一个梯度、没有衰减时，步长约等于 lr 乘以梯度的符号。你的是这样吗？",
        ),
        Both(
            "At step t divide m by 1 - beta1^t and v by 1 - beta2^t, without changing m and v themselves.",
            "第 t 步把 m 除以 1 - beta1^t、v 除以 1 - beta2^t，但不要改动 m 和 v 本身。",
        ),
        Both(
            "w = w - lr * m_hat / (sqrt(v_hat) + eps) - lr * decay * w.",
            "更新式：w = w - lr * m_hat / (sqrt(v_hat) + eps) - lr * decay * w。",
        ),
    ),
)
