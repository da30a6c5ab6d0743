"""Exercise 4.1: inputs and targets from windows that slide over a text."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def windows(tokens: Tensor, length: int, stride: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, each (N, length): a window every `stride` tokens of tokens (M).

    A target is the token after its input. Windows whose last target lies beyond the text are left out.
    """
    starts = range(0, len(tokens) - length, stride)
    inputs = torch.stack([tokens[start : start + length] for start in starts])
    targets = torch.stack([tokens[start + 1 : start + length + 1] for start in starts])
    return inputs, targets


def oracle(tokens: Tensor, length: int, stride: int) -> tuple[Tensor, Tensor]:
    """Views by unfold."""
    rows = tokens.unfold(0, length + 1, stride)
    return rows[:, :-1], rows[:, 1:]


def cases() -> list[Case]:
    """One window that just fits, then overlapping, adjacent and spaced ones."""
    draw = torch.Generator().manual_seed(41)
    sizes = ((3, 2, 2), (4, 2, 1), (5, 2, 2), (9, 4, 4), (12, 3, 2), (14, 3, 5), (16, 5, 5))
    return [
        Case((torch.randperm(count, generator=draw) + 10, length, stride))
        for count, length, stride in sizes
    ]


EXERCISE = Exercise(
    number="4.1",
    title=Both("Windows over a text", "在文本上滑动窗口"),
    statement=Both(
        "Cut a text of tokens into training rows: a window of `length` inputs every `stride` tokens, and as targets the "
        "same window one token later. Leave out windows whose targets would reach beyond the end, and no others.",
        "把一串词元切成训练样本：每隔 `stride` 个词元取一个长为 `length` 的输入窗口，目标是同一窗口后移一个词元。"
        "目标会超出文本末尾的窗口不要，其余的一个都不能少。",
    ),
    solution=(windows,),
    oracle={"windows": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "unshifted_targets",
            Both(
                "the targets are the inputs themselves: the model learns to copy",
                "目标就是输入本身：模型只会学到照抄",
            ),
            edits=(("tokens[start + 1 : start + length + 1]", "tokens[start : start + length]"),),
        ),
        Mistake(
            "shifted_twice",
            Both(
                "the targets lie two tokens ahead; perhaps the loss shifts once more",
                "目标错开了两个词元；可能在别处又错开了一次",
            ),
            edits=(
                ("len(tokens) - length, stride", "len(tokens) - length - 1, stride"),
                (
                    "tokens[start + 1 : start + length + 1]",
                    "tokens[start + 2 : start + length + 2]",
                ),
            ),
        ),
        Mistake(
            "last_window_missing",
            Both(
                "the last window is missing: it still fits when its last target is the last token",
                "漏了最后一个窗口：最后一个目标恰好是最后一个词元时，它仍然放得下",
            ),
            edits=(("len(tokens) - length, stride", "len(tokens) - length - 1, stride"),),
        ),
        Mistake(
            "stride_ignored",
            Both(
                "windows follow each other without overlap, whatever the stride",
                "不管 stride 是多少，窗口总是首尾相接",
            ),
            edits=(("- length, stride)", "- length, length)"),),
        ),
        Mistake(
            "every_token_starts_one",
            Both(
                "a window begins at every token, whatever the stride",
                "不管 stride 是多少，每个词元都起了一个窗口",
            ),
            edits=(("- length, stride)", "- length, 1)"),),
        ),
        Mistake(
            "targets_behind",
            Both(
                "inputs and targets are swapped: the past is predicted",
                "输入和目标颠倒了：成了预测过去",
            ),
            edits=(("return inputs, targets", "return targets, inputs"),),
        ),
        Mistake(
            "one_token_short",
            Both(
                "inputs have length - 1 tokens; a row takes length + 1 tokens of the text",
                "输入只有 length - 1 个词元；每行要用文本中的 length + 1 个词元",
            ),
            edits=(
                ("tokens[start : start + length]", "tokens[start : start + length - 1]"),
                ("tokens[start + 1 : start + length + 1]", "tokens[start + 1 : start + length]"),
            ),
        ),
    ),
    hints=(
        Both(
            "A window of 4 inputs and its targets use how many tokens?",
            "4 个输入的窗口连同目标，一共用到几个词元？",
        ),
        Both(
            "The last possible start s satisfies s + length <= len(tokens) - 1.",
            "最后一个可能的起点 s 满足 s + length <= len(tokens) - 1。",
        ),
    ),
    imports="import torch\nfrom torch import Tensor\n",
)
