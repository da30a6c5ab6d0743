"""Exercise 18.3: the loop between a model and a tool."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from glassbox.course.exercise import Case, Exercise, Mistake
from glassbox.course.language import Both


def converse(
    model: Callable[[str], str], tool: Callable[[str], str], prompt: str, rounds: int
) -> list[tuple[str, str]]:
    """Turns of a model and a tool, as ("model", text) and ("tool", text).

    model: from everything so far, the prompt and all turns as one text, to its next turn. A turn that ends in
    <tool>CALL</tool> is a call (CALL has no "<"): the tool gets CALL, and its result is the next turn. If the tool raises,
    the result is "error". The conversation ends with a turn that has no call, or with one after `rounds` results.
    """
    pieces: list[tuple[str, str]] = []
    for used in range(rounds + 1):
        said = model(prompt + "".join(text for _, text in pieces))
        pieces.append(("model", said))
        call = re.search(r"<tool>([^<]*)</tool>$", said)
        if call is None or used == rounds:
            break
        try:
            result = tool(call[1])
        except Exception:
            result = "error"
        pieces.append(("tool", result))
    return pieces


def oracle(
    model: Callable[[str], str], tool: Callable[[str], str], prompt: str, rounds: int
) -> list[tuple[str, str]]:
    """By recursion, without expressions."""
    said = model(prompt)
    _, mark, call = said.removesuffix("</tool>").rpartition("<tool>")
    if not said.endswith("</tool>") or not mark or "<" in call or rounds == 0:
        return [("model", said)]
    try:
        result = tool(call)
    except Exception:
        result = "error"
    return [
        ("model", said),
        ("tool", result),
        *oracle(model, tool, prompt + said + result, rounds - 1),
    ]


def run(module: Any, turns: Any, prompt: Any, rounds: int) -> Any:
    """Converse with a model that says these turns, and a tool that adds numbers; also what the model was given."""
    given = []

    def model(text: str) -> str:
        given.append(text)
        return turns[len(given) - 1] if len(given) <= len(turns) else "done"

    def tool(call: str) -> str:
        return str(sum(int(number) for number in call.split("+")))

    pieces = module.converse(model, tool, prompt, rounds)
    return [[list(piece) for piece in pieces], given]


def cases() -> list[Case]:
    """No call, one, two, a call in the middle of a turn, one that fails, and more calls than rounds."""
    return [
        Case((["Answer: 4"], "2+2? ", 2), call="run"),
        Case((["<tool>2+2</tool>", "Answer: 4"], "2+2? ", 1), call="run"),
        Case((["first <tool>1+2</tool>", "then <tool>3+4</tool>", "so 7"], "sum? ", 3), call="run"),
        Case((["I could write <tool>1+1</tool> but need not"], "how? ", 2), call="run"),
        Case((["<tool>one+1</tool>", "I see an error"], "q ", 2), call="run"),
        Case((["<tool>1+1</tool> and <tool>2+3</tool>", "5"], "q ", 2), call="run"),
        Case(
            (["<tool>1+1</tool>", "<tool>2+2</tool>", "<tool>3+3</tool>", "end"], "q ", 2),
            call="run",
        ),
        Case((["<tool>5</tool>"], "no rounds ", 0), call="run"),
    ]


EXERCISE = Exercise(
    number="18.3",
    title=Both("Model and tool", "模型与工具的循环"),
    statement=Both(
        "Write the loop in which a model's turn may end in `<tool>CALL</tool>`: the tool runs, its result becomes the next turn, and the model goes on. Return all turns with "
        "who wrote them, as training needs it. (The cases call `run`, which hands over a model that says given turns and a tool that adds.)",
        "实现这样的循环：模型的一轮可以以 `<tool>CALL</tool>` 结尾，此时运行工具，结果作为下一轮，模型再接着写。返回每一轮以及它是谁写的，训练时要用。"
        "（用例调用的是 `run`，它提供一个按给定内容说话的模型，和一个做加法的工具。）",
    ),
    solution=(converse,),
    oracle={"converse": oracle},
    drivers=(run,),
    cases=cases,
    mistakes=(
        Mistake(
            "prompt_alone",
            Both(
                "the model is given the prompt alone each time: it never reads what it wrote, nor the tool's results",
                "每次只把提示词交给模型：它读不到自己写过的内容，也读不到工具的结果",
            ),
            edits=((' + "".join(text for _, text in pieces)', ""),),
        ),
        Mistake(
            "results_hidden",
            Both(
                "the model gets its own turns back but not the tool's results",
                "模型能看到自己写的，却看不到工具的结果",
            ),
            edits=(("(text for _, text in pieces)", '(text for who, text in pieces if who == "model")'),),
        ),
        Mistake(
            "result_is_the_models",
            Both(
                "the result is recorded as the model's: it would be trained to invent results",
                "结果记成了模型写的：训练时模型会学着编造结果",
            ),
            edits=(('pieces.append(("tool", result))', 'pieces.append(("model", result))'),),
        ),
        Mistake(
            "call_anywhere",
            Both(
                "a call in the middle of a turn is run as well; only one that ends the turn is a call",
                "一轮中间出现的调用也被执行了；只有结尾处的才算",
            ),
            edits=(("</tool>$", "</tool>"),),
        ),
        Mistake(
            "one_round_less",
            Both(
                "the conversation ends one result too early: `rounds` counts the tool's results",
                "提前一次结束了：`rounds` 指的是工具结果的次数",
            ),
            edits=(("used == rounds", "used + 1 >= rounds"),),
        ),
        Mistake(
            "no_limit",
            Both(
                "the number of rounds is not limited: a model that calls for ever is never stopped",
                "没有限制轮数：一直调用工具的模型永远停不下来",
            ),
            edits=(("range(rounds + 1)", "range(1000)"), (" or used == rounds", "")),
        ),
        Mistake(
            "error_not_caught",
            Both(
                "an error of the tool ends the whole conversation; the model should get to read it",
                "工具一报错，整个对话就中断了；应当让模型读到错误",
            ),
            edits=(
                (
                    '        try:\n            result = tool(call[1])\n        except Exception:\n            result = "error"\n',
                    "        result = tool(call[1])\n",
                ),
            ),
        ),
        Mistake(
            "ends_after_the_result",
            Both(
                "the conversation ends with the tool's result; the model does not get to answer",
                "工具给出结果后对话就结束了，模型没有机会作答",
            ),
            edits=(('pieces.append(("tool", result))', 'pieces.append(("tool", result))\n        break'),),
        ),
    ),
    hints=(
        Both("What must the model read before its second turn?", "模型写第二轮之前，必须读到什么？"),
        Both('A "$" at the end of the expression finds a call only where the turn ends.', "正则末尾加上“$”，就只匹配一轮结尾处的调用。"),
        Both("With `rounds` results there are at most rounds + 1 turns of the model.", "有 `rounds` 次结果时，模型至多写 rounds + 1 轮。"),
    ),
    imports="import re\nfrom collections.abc import Callable\n",
)  # fmt: skip
