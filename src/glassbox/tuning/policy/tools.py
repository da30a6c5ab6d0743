"""Tools that a model may call while it answers: a calculator, and Python in the sandbox.

A call ends an assistant's turn: `<tool>14+27</tool>` or `<python>print(2**10)</python>`. The tool's
result is appended as a message of the role `tool`, and the assistant continues in a new turn.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from glassbox.core.errors import UserError
from glassbox.core.seeding import derive_seed
from glassbox.inference.sampling.params import SamplingParams
from glassbox.sandbox.python import SandboxLimits, SandboxRefused, run_python

if TYPE_CHECKING:
    from glassbox.inference.engine import Engine
    from glassbox.tokenizers import Tokenizer

ToolName = Literal["calculator", "python"]
Tool = Callable[[str], str]
Message = Mapping[str, Any]

MAX_EXPRESSION = 200
MAX_BITS = 2000
_OPERATORS: Mapping[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


def calculate(expression: str) -> str:
    """Evaluate an arithmetic expression with + - * / // % ** and parentheses; returns its value or
    'error: ...'.

    Names, calls and attributes are not supported. Expressions are limited to 200 characters and
    powers to 2,000 bits, so that the time is bounded.

    >>> calculate("14 + 27"), calculate("7 / 2"), calculate("2 ** 10 ** 10"), calculate("f()")
    ('41', '3.5', 'error: a power too large', 'error: only numbers and + - * / // % ** ( )')
    """
    try:
        if len(expression) > MAX_EXPRESSION:
            raise ValueError("too long")
        value = _value(ast.parse(expression.strip().replace("^", "**"), mode="eval").body)
        return str(int(value) if isinstance(value, float) and value.is_integer() else value)
    except ZeroDivisionError:
        return "error: division by zero"
    except SyntaxError:
        return "error: not an expression"
    except (ValueError, OverflowError, RecursionError, MemoryError) as error:
        return f"error: {error}"


def _value(node: ast.AST) -> int | float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value  # type: ignore[return-value]
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.operand))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow):
            whole = isinstance(left, int) and isinstance(right, int)
            if whole and abs(right) * max(1, int(left).bit_length()) > MAX_BITS:
                raise ValueError("a power too large")
            if left < 0 and not isinstance(right, int):
                raise ValueError("no real number")
        return _OPERATORS[type(node.op)](left, right)
    raise ValueError("only numbers and + - * / // % ** ( )")


def python_tool(limits: SandboxLimits | None = None) -> Tool:
    """Run code in the sandbox; return its output, or the last line of its error."""

    def run(code: str) -> str:
        result = run_python(code, limits)
        if result.outcome == "done":
            return result.stdout.strip() or "(no output)"
        if result.outcome == "failed":
            return "error: " + (result.stderr.strip().splitlines() or ["the code was stopped"])[-1]
        return f"error: {result.outcome}"

    return run


def make_tools(
    names: Sequence[ToolName], limits: SandboxLimits | None = None
) -> dict[str, tuple[str, Tool]]:
    """Return the tools by name, each with the tag of its calls."""
    known: dict[str, tuple[str, Tool]] = {
        "calculator": ("tool", calculate),
        "python": ("python", python_tool(limits)),
    }
    return {name: known[name] for name in names}


@dataclass
class Draft:
    """An unfinished answer: its tokens, which of them the model sampled, and the text so far.

    mask: 1 for the model's own tokens and 0 for those of a tool's message, which are not trained
        on. log_probs: the engine's, 0.0 at a tool's tokens.
    """

    token_ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    text: str = ""
    truncated: bool = False
    calls: int = 0


class ToolLoop:
    """Generates answers whose turns may end in tool calls: runs the tool, appends its result, and
    continues.

    A tool that raises, exceeds the sandbox's limits or prints too much returns a short error.
    Results are truncated to `result_chars`. An answer ends with a turn without a call, after
    `rounds` calls, or after `max_tokens`, including results.
    """

    def __init__(
        self,
        engine: Engine,
        tools: Mapping[str, tuple[str, Tool]],
        *,
        rounds: int = 4,
        result_chars: int = 400,
        threads: int = 4,
    ) -> None:
        assert engine.tokenizer is not None
        self.engine = engine
        self.tokenizer: Tokenizer = engine.tokenizer
        self.tools = dict(tools.values())
        self.rounds = rounds
        self.result_chars = result_chars
        self.threads = threads
        tags = "|".join(map(re.escape, self.tools))
        self._call = re.compile(rf"<({tags})>((?:(?!</?(?:{tags})>).)*)</\1>\s*\Z", re.DOTALL)

    def find_call(self, text: str) -> tuple[str, str] | None:
        """(tag, content) of the call at the end of a turn."""
        found = self._call.search(text) if self.tools else None
        return (found[1], found[2]) if found else None

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        messages: Sequence[Sequence[Message]],
        params: Sequence[SamplingParams],
    ) -> list[Draft]:
        """Return `params.n` answers to each prompt, in order; random numbers depend on the seed of
        each params.
        """
        owners = [number for number, one in enumerate(params) for _ in range(one.n)]
        drafts = [Draft() for _ in owners]
        completions = self.engine.generate(prompts, params)
        waiting = list(range(len(drafts)))
        samples = [sample for one in params for sample in range(one.n)]
        for turn in range(self.rounds + 1):
            calls = []
            for place, completion in zip(waiting, completions, strict=True):
                draft = drafts[place]
                draft.token_ids += completion.token_ids
                draft.mask += [1] * len(completion.token_ids)
                draft.log_probs += completion.sampling_log_probs or []
                draft.text += completion.text or ""
                draft.truncated = completion.finish_reason == "length"
                call = self.find_call(completion.text or "")
                if call is not None and not draft.truncated and turn < self.rounds:
                    calls.append((place, call))
            results = self._run([call for _, call in calls])
            waiting = []
            for (place, _), result in zip(calls, results, strict=True):
                draft, one = drafts[place], params[owners[place]]
                between = self.between(messages[owners[place]], result)
                prompt = len(prompts[owners[place]])
                room = min(one.max_tokens, self.engine.context_length - prompt)
                draft.calls += 1
                if len(draft.token_ids) + len(between) >= room:
                    draft.truncated = True
                    continue
                draft.token_ids += between
                draft.mask += [0] * len(between)
                draft.log_probs += [0.0] * len(between) if one.logprobs else []
                draft.text += f"\n{result}\n"
                waiting.append(place)
            if not waiting:
                break
            completions = self.engine.generate(
                [[*prompts[owners[place]], *drafts[place].token_ids] for place in waiting],
                [
                    self._later(params[owners[place]], drafts[place], samples[place], turn)
                    for place in waiting
                ],
            )
        return drafts

    @staticmethod
    def _later(params: SamplingParams, draft: Draft, sample: int, turn: int) -> SamplingParams:
        seed = None if params.seed is None else derive_seed(params.seed, "turn", sample, turn)
        left = params.max_tokens - len(draft.token_ids)
        return params.model_copy(update={"n": 1, "seed": seed, "max_tokens": left})

    def _run(self, calls: Sequence[tuple[str, str]]) -> list[str]:
        def one(call: tuple[str, str]) -> str:
            try:
                return self.tools[call[0]](call[1])[: self.result_chars]
            except SandboxRefused:  # it would be so at every call
                raise
            except Exception as error:  # whatever a tool does wrong costs this call alone
                return f"error: {type(error).__name__}"

        if len(calls) < 2:
            return [one(call) for call in calls]
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(one, calls))

    def between(self, messages: Sequence[Message], result: str) -> list[int]:
        """The ids between the end of an assistant's turn and its next turn: the tool's message in
        the chat template.

        Raises UserError if the chat template has no tool messages.
        """
        said = [*messages, {"role": "assistant", "content": "x"}]
        ids, mask = self.tokenizer.encode_chat(said)
        end = max(place for place, trained in enumerate(mask) if trained) + 1
        whole = self.tokenizer.encode_chat_prompt([*said, {"role": "tool", "content": result}])
        if whole[:end] != ids[:end] or len(whole) == end:
            raise UserError(
                "the chat template writes no tool message behind an answer; tools need one that does"
            )
        return whole[end:]
