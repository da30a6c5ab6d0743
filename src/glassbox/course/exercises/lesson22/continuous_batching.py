"""Exercise 22.3: when each request of a batch is finished."""

from __future__ import annotations

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def finish_steps(requests: list[tuple[int, int]], slots: int) -> list[int]:
    """At the end of which step each request is finished, under continuous batching.

    requests: (arrives, tokens), in order of arrival. Before each step t = 0, 1, ... the free slots are filled with
    requests that have arrived (arrives <= t), first come first served; the step then gives every running request one token. A
    request that has all of its tokens leaves its slot at the end of that step.
    """
    finish = [0] * len(requests)
    waiting = list(range(len(requests)))
    running: dict[int, int] = {}
    step = 0
    while waiting or running:
        while waiting and len(running) < slots and requests[waiting[0]][0] <= step:
            number = waiting.pop(0)
            running[number] = requests[number][1]
        for number in list(running):
            running[number] -= 1
            if running[number] == 0:
                del running[number]
                finish[number] = step
        step += 1
    return finish


def oracle(requests: list[tuple[int, int]], slots: int) -> list[int]:
    """By the times at which slots become free: no steps are walked through."""
    free = [0] * slots
    found = []
    for arrives, tokens in requests:
        free.sort()
        begins = max(free[0], arrives)
        free[0] = begins + tokens
        found.append(begins + tokens - 1)
    return found


def cases() -> list[Case]:
    """One request, two in a slot, slots that are left and taken again, late ones, idle time."""
    return [
        Case(([(0, 3)], 1)),
        Case(([(0, 2), (0, 3)], 1)),
        Case(([(0, 2), (0, 3)], 2)),
        Case(([(0, 5), (0, 1), (0, 2)], 2)),
        Case(([(0, 2), (6, 2)], 1)),
        Case(([(1, 4), (2, 1), (2, 3), (9, 1)], 2)),
        Case(([(0, 7), (0, 2), (1, 2), (1, 2), (3, 1), (4, 6)], 3)),
        Case(([], 2)),
    ]


EXERCISE = Exercise(
    number="22.3",
    title=Both("Continuous batching", "连续批处理"),
    statement=Both(
        "Requests arrive at given steps and want given numbers of tokens; the engine has `slots` places. Return the step at whose end each is finished, when a "
        "place is taken again in the very next step.",
        "请求在给定的步到达，各要给定数量的词元；引擎有 `slots` 个位置。位置空出后下一步就能再用：返回每个请求在哪一步结束时完成。",
    ),
    solution=(finish_steps,),
    oracle={"finish_steps": oracle},
    cases=cases,
    imports="",
    mistakes=(
        Mistake(
            "static_batches",
            Both(
                "new requests wait until the whole batch is finished: that is static batching, where a short answer waits for the longest",
                "新请求要等整批都结束：那是静态批处理，短回答要等最长的那个",
            ),
            edits=(
                (
                    "        while waiting and len(running)",
                    "        empty = not running\n        while empty and waiting and len(running)",
                ),
            ),
        ),
        Mistake(
            "one_at_a_time",
            Both(
                "one request runs after the other, whatever the number of slots",
                "不论有多少个位置，请求都是一个接一个执行的",
            ),
            edits=(("len(running) < slots", "len(running) < 1"),),
        ),
        Mistake(
            "no_limit",
            Both(
                "all requests run at once: `slots` is not looked at",
                "所有请求同时运行：没有考虑 `slots`",
            ),
            edits=((" and len(running) < slots", ""),),
        ),
        Mistake(
            "before_it_arrives",
            Both("requests begin before they arrive", "请求还没到达就开始执行了"),
            edits=((" and requests[waiting[0]][0] <= step", ""),),
        ),
        Mistake(
            "one_step_late",
            Both(
                "the number is one too large: steps count from 0, and a request of one token that arrives at 0 is finished in step 0",
                "结果大了一：步数从 0 数起，第 0 步到达、只要一个词元的请求在第 0 步就完成",
            ),
            edits=(("finish[number] = step", "finish[number] = step + 1"),),
        ),
        Mistake(
            "place_free_too_late",
            Both(
                "a place that became free is taken again one step too late; it is free in the very next step",
                "空出来的位置晚了一步才再次使用；它在下一步就是空的",
            ),
            edits=(
                ("    step = 0\n", "    step = 0\n    just = 0\n"),
                ("len(running) < slots", "len(running) + just < slots"),
                (
                    "        for number in list(running):\n",
                    "        just = 0\n        for number in list(running):\n",
                ),
                (
                    "                del running[number]\n",
                    "                del running[number]\n                just += 1\n",
                ),
            ),
        ),
        Mistake(
            "shortest_first",
            Both(
                "shorter requests overtake earlier ones; first come, first served",
                "短请求插到了先来的前面；应先来先服务",
            ),
            edits=(
                (
                    "            number = waiting.pop(0)\n",
                    "            ready = [n for n in waiting if requests[n][0] <= step]\n"
                    "            number = min(ready, key=lambda n: requests[n][1])\n"
                    "            waiting.remove(number)\n",
                ),
            ),
        ),
    ),
    hints=(
        Both(
            "Play [(0, 5), (0, 1), (0, 2)] with two slots on paper: who runs in steps 0, 1, 2?",
            "在纸上推演两个位置的 [(0, 5), (0, 1), (0, 2)]：第 0、1、2 步各是谁在运行？",
        ),
        Both(
            "A dictionary from request to tokens that are left is all the state you need.",
            "状态只需一个字典：请求到剩余词元数。",
        ),
        Both(
            "Before each step: while a slot is free and the first waiting request has arrived, take it. Then give one token to each.",
            "每步之前：只要有空位且排在最前的请求已到达，就取出来。然后给每个请求一个词元。",
        ),
    ),
)
