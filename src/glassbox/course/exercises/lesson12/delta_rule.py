"""Exercise 12.3: a memory written by the delta rule."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both
from glassbox.ops.delta_rule import delta_rule_plain


def delta_memory(keys: Tensor, values: Tensor, beta: Tensor) -> Tensor:
    """The memory (D, E) after all pairs, from zeros.

    keys: (T, D), to be divided by their length first. values: (T, E). beta: (T), from 0 to 1, how much of what is missing is written:
    S <- S + beta_t k_t (v_t - S^T k_t)^T.
    """
    memory = torch.zeros(keys.shape[1], values.shape[1])
    for key, value, rate in zip(keys, values, beta, strict=True):
        unit = key / key.norm()
        missing = value - unit @ memory
        memory = memory + rate * torch.outer(unit, missing)
    return memory


def oracle(keys: Tensor, values: Tensor, beta: Tensor) -> Tensor:
    """Ours, token by token."""
    unit = (keys.double() / keys.double().pow(2).sum(-1, keepdim=True).sqrt())[None, :, None]
    _, memory = delta_rule_plain(
        unit, unit, values.double()[None, :, None], beta.double()[None, :, None]
    )
    return memory[0, 0].float()


def cases() -> list[Case]:
    """One pair, a key written twice, several pairs with rates below 1."""
    draw = torch.Generator().manual_seed(123)
    key = torch.tensor([[3.0, 4.0]])
    found = [Case((key, torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1)))]
    found.append(Case((key.repeat(2, 1), torch.tensor([[1.0, 2.0], [5.0, -1.0]]), torch.ones(2))))
    for length, d, e in ((3, 3, 2), (6, 4, 3)):
        found.append(
            Case(
                (
                    torch.randn(length, d, generator=draw) * 2,
                    torch.randn(length, e, generator=draw),
                    0.2 + 0.7 * torch.rand(length, generator=draw),
                )
            )
        )
    return found


EXERCISE = Exercise(
    number="12.3",
    title=Both("The delta rule", "delta 规则"),
    statement=Both(
        "Write a memory by the delta rule: of each pair only what the memory does not yet say.",
        "用 delta 规则写入记忆：每一对只写记忆里还没有的部分。",
    ),
    solution=(delta_memory,),
    oracle={"delta_memory": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "plain_sum",
            Both(
                "the whole value is written, not what is missing: a key written twice holds the sum",
                "写入了整个值，而不是缺少的部分：写两次的键里存的是两者之和",
            ),
            edits=(("missing = value - unit @ memory", "missing = value"),),
        ),
        Mistake(
            "not_normalised",
            Both(
                "the keys are not divided by their length: what is read back is too large, and the memory may grow without bound",
                "键没有除以长度：读出的值偏大，记忆可能无限增长",
            ),
            edits=(("unit = key / key.norm()", "unit = key"),),
        ),
        Mistake(
            "squared_length",
            Both("divided by the squared length", "除以的是长度的平方"),
            edits=(("key / key.norm()", "key / key.square().sum()"),),
        ),
        Mistake(
            "no_rate",
            Both(
                "beta is ignored: all that is missing is written", "忽略了 beta：把缺少的全部写入了"
            ),
            edits=(("rate * torch.outer", "torch.outer"),),
        ),
        Mistake(
            "rate_inside",
            Both(
                "beta scales the value alone, not what is missing",
                "beta 只乘在了值上，而不是缺少的部分上",
            ),
            edits=(
                ("missing = value - unit @ memory", "missing = rate * value - unit @ memory"),
                ("rate * torch.outer", "torch.outer"),
            ),
        ),
        Mistake(
            "wrong_sign",
            Both(
                "what the memory says is added to the value, not taken off",
                "把记忆已有的内容加到了值上，应当减去",
            ),
            edits=(("value - unit @ memory", "value + unit @ memory"),),
        ),
        Mistake(
            "memory_replaced",
            Both("every pair replaces the whole memory", "每一对都覆盖了整个记忆"),
            edits=(("memory = memory + rate", "memory = rate"),),
        ),
    ),
    hints=(
        Both(
            "What does the memory answer for a key, before this pair is written?",
            "写入这一对之前，记忆对这个键的回答是什么？",
        ),
        Both(
            "With beta = 1 and a key of length 1, reading right after writing gives exactly the value. Check that.",
            "beta = 1、键长为 1 时，写完立刻读，得到的恰好是这个值。检查一下。",
        ),
        Both(
            "memory + beta * outer(unit, value - unit @ memory).",
            "即 memory + beta * outer(unit, value - unit @ memory)。",
        ),
    ),
)
