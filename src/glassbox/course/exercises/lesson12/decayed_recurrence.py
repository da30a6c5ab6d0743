"""Exercise 12.1: linear attention with decay, token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both
from glassbox.ops.linear_attention import decayed_attention


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """(outputs (T, E), the state after the last token).

    q, k: (T, D). v: (T, E). decay: (T), the factor by which the state before token t is multiplied. state: (D, E), the state before the first
    token, not to be changed. S_t = decay_t S_(t-1) + k_t v_t^T, and the output is o_t = S_t^T q_t, of the state that has token t in it.
    """
    outputs = []
    for t in range(len(q)):
        state = decay[t] * state + torch.outer(k[t], v[t])
        outputs.append(q[t] @ state)
    return torch.stack(outputs), state


def oracle(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Ours, in chunks."""
    queries, written, values = (x.double()[None, :, None] for x in (q, k, v))
    log_decay = decay.double().log()[None, :, None]
    outputs, last = decayed_attention(
        queries, written, values, log_decay, state.double()[None, None]
    )
    return outputs[0, :, 0].float(), last[0, 0].float()


def cases() -> list[Case]:
    """One token, several, with a state from before and without."""
    draw = torch.Generator().manual_seed(121)
    found = []
    for length, d, e, begun in (
        (1, 2, 3, False),
        (2, 3, 2, True),
        (5, 2, 4, False),
        (7, 4, 3, True),
    ):
        q, k = torch.randn(2, length, d, generator=draw)
        v = torch.randn(length, e, generator=draw)
        decay = 0.3 + 0.6 * torch.rand(length, generator=draw)
        state = torch.randn(d, e, generator=draw) if begun else torch.zeros(d, e)
        found.append(Case((q, k, v, decay, state)))
    return found


EXERCISE = Exercise(
    number="12.1",
    title=Both("A memory that forgets", "会遗忘的记忆"),
    statement=Both(
        "Write linear attention with decay as a recurrence over a state of fixed size.",
        "把带衰减的线性注意力写成固定大小状态上的递推。",
    ),
    solution=(linear_attention,),
    oracle={"linear_attention": oracle},
    cases=cases,
    mistakes=(
        Mistake(
            "no_decay",
            Both("the state does not decay", "状态没有衰减"),
            edits=(("decay[t] * state + torch", "state + torch"),),
        ),
        Mistake(
            "new_decays_too",
            Both(
                "the pair that is just written decays too; only the state before it does",
                "刚写入的对也衰减了；只有之前的状态才衰减",
            ),
            edits=(
                (
                    "decay[t] * state + torch.outer(k[t], v[t])",
                    "decay[t] * (state + torch.outer(k[t], v[t]))",
                ),
            ),
        ),
        Mistake(
            "read_before_writing",
            Both(
                "the state is read before the token is written: a token then does not see itself",
                "先读后写：词元看不到自己",
            ),
            edits=(
                (
                    "        state = decay[t] * state + torch.outer(k[t], v[t])\n        outputs.append(q[t] @ state)\n",
                    "        outputs.append(q[t] @ state)\n        state = decay[t] * state + torch.outer(k[t], v[t])\n",
                ),
            ),
        ),
        Mistake(
            "state_ignored",
            Both(
                "the state from before is ignored: the text begins anew",
                "忽略了之前的状态：文本从头开始了",
            ),
            edits=(("    outputs = []\n", "    outputs, state = [], torch.zeros_like(state)\n"),),
        ),
        Mistake(
            "key_and_query_swapped",
            Both("queries are written and keys read", "写入的是查询，读取用的是键"),
            edits=(
                ("torch.outer(k[t], v[t])", "torch.outer(q[t], v[t])"),
                ("outputs.append(q[t] @ state)", "outputs.append(k[t] @ state)"),
            ),
        ),
        Mistake(
            "one_decay_for_all",
            Both("the first token's decay is taken for all", "所有词元都用了第一个词元的衰减"),
            edits=(("decay[t] * state", "decay[0] * state"),),
        ),
        Mistake(
            "decay_replaces",
            Both(
                "the new pair is weighted by 1 - decay, as in a running mean; here it is written whole",
                "新的对乘上了 1 - decay（像滑动平均）；这里应当完整写入",
            ),
            edits=(("+ torch.outer(k[t], v[t])", "+ (1 - decay[t]) * torch.outer(k[t], v[t])"),),
        ),
    ),
    hints=(
        Both(
            "What is the state after one token, from a state of zeros?",
            "从全零状态读一个词元后，状态是什么？",
        ),
        Both(
            "An outer product of k (D) and v (E) has the state's shape.",
            "k (D) 与 v (E) 的外积，形状与状态相同。",
        ),
        Both("Decay, write, read: in this order.", "先衰减，再写入，最后读取。"),
    ),
)
