"""Word problems with worked steps, the tool that works them out, and the form of the answer."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from glassbox.data.storyworld.choice import Chooser, Weights
from glassbox.data.storyworld.config import StoryWorldConfig
from glassbox.data.storyworld.records import Message
from glassbox.data.storyworld.story import Combinations, Story
from glassbox.data.storyworld.template import Language

_ANSWER = re.compile(r"(?:Answer: |答案：)(-?\d+)\s*$")
_TOOL = re.compile(r"<tool>(\d+)([-+*])(\d+)</tool>")
_TIMES = Weights([1, 3])


class Problem(NamedTuple):
    """What a problem is about, and its steps as (left, sign, right, result)."""

    steps: list[tuple[int, str, int, int]]
    goods: str


def tell_problem(
    chooser: Chooser, language: Language, config: StoryWorldConfig, pairs: Combinations
) -> Problem:
    """Write a problem's statement and question; nothing in it is left over or missing."""
    s = Story(chooser, language, pairs)
    largest = config.arithmetic_max
    steps: list[tuple[int, str, int, int]] = []
    sizes = range(config.arithmetic_min_steps, config.arithmetic_max_steps + 1)
    num_steps = chooser.pick(sizes)
    if config.arithmetic_times and chooser.pick((True, False), _TIMES):
        s.numbers("n1", 2, 5)
        s.numbers("n2", 2, 9)
        s.tell("sum.times")
        left, right = s.value("n1"), s.value("n2")
        steps.append((left, "*", right, left * right))
        current = left * right
    else:
        s.numbers("n1", 3, largest)
        s.tell("sum.start")
        current = s.value("n1")
    while len(steps) < num_steps:
        # taking away leaves at least one, so that a next step and the question make sense
        plus = current < 4 or chooser.pick((True, False))
        high = largest if plus else min(largest, current - 1)
        s.roles.pop("n", None)
        s.roles.pop("friend", None)
        s.forget("name", keep="hero")
        s.numbers("n", 2, high)
        s.tell("sum.plus" if plus else "sum.minus")
        n = s.value("n")
        result = current + n if plus else current - n
        steps.append((current, "+" if plus else "-", n, result))
        current = result
    s.tell("sum.question")
    return Problem(steps, s.roles["goods"].forms[""])


def solution_text(language: Language, problem: Problem) -> str:
    """The worked steps and, on a line of its own, 'Answer: N'.

    In English: 'First, 8 + 5 = 13. Then, 13 - 4 = 9.' and 'Answer: 9'.
    """
    phrases = language.phrases
    lines = []
    for number, (left, sign, right, result) in enumerate(problem.steps):
        word = phrases["first" if number == 0 else "then"]
        lines.append(f"{word}{left} {sign} {right} = {result}{phrases['stop']}")
    return f"{language.joiner.join(lines)}\n{phrases['result']}{problem.steps[-1][3]}"


def extract_answer(text: str) -> int | None:
    """The number on the closing line 'Answer: N' ('答案：N' in Chinese), or None without one.

    >>> extract_answer("First, 8 + 5 = 13.\\nAnswer: 13")
    13
    """
    match = _ANSWER.search(text)
    return int(match[1]) if match else None


def check_steps(text: str) -> bool:
    """Whether every 'a + b = c' in a worked solution is true (and there is at least one)."""
    steps = re.findall(r"(\d+) ([-+*]) (\d+) = (-?\d+)", text)
    return bool(steps) and all(
        compute(int(left), sign, int(right)) == int(result) for left, sign, right, result in steps
    )


def compute(left: int, sign: str, right: int) -> int:
    """left + right, left - right or left * right."""
    return {"+": left + right, "-": left - right, "*": left * right}[sign]


def run_tool(text: str) -> str | None:
    """The result of the last call '<tool>14+27</tool>' in an assistant's message, or None.

    >>> run_tool("<tool>14+27</tool>")
    '41'
    """
    calls = _TOOL.findall(text)
    return str(compute(int(calls[-1][0]), calls[-1][1], int(calls[-1][2]))) if calls else None


def tool_messages(language: Language, problem: Problem) -> list[Message]:
    """The solution as calls of the tool, one a step: assistant calls, tool replies, assistant ends."""
    messages = []
    for left, sign, right, result in problem.steps:
        messages.append({"role": "assistant", "content": f"<tool>{left}{sign}{right}</tool>"})
        messages.append({"role": "tool", "content": str(result)})
    final = f"{language.phrases['result']}{problem.steps[-1][3]}"
    messages.append({"role": "assistant", "content": final})
    return messages


def problem_facts(problem: Problem) -> dict[str, Any]:
    """The steps and the answer, as JSON."""
    return {"steps": [list(step) for step in problem.steps], "answer": problem.steps[-1][3]}
