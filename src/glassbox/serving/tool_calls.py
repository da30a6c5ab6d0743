"""Tools in chats: how a prompt lists them, and how calls are parsed from the output.

Two ways of writing a call are read. Hermes' and Qwen's, which our own chat template has too,
    <tool_call>
    {"name": "weather", "arguments": {"place": "Oslo"}}
    </tool_call>
and the story world's, whose tools have tags of their own: <tool>14+27</tool> for a function named
`calculator`, <python>print(1)</python> for one named `python`; the text is the function's first
required, or else first, parameter.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from glassbox.inference.constraints.specs import JsonSchema
from glassbox.serving.chat_body import FunctionSpec

ToolFormat = Literal["hermes", "tags"]
Message = dict[str, Any]

OPEN, CLOSE = "<tool_call>", "</tool_call>"
TAGS: Mapping[str, str] = {"calculator": "tool", "python": "python"}
"""The tags by which the story world's tools are called."""

_MOST_CALL_CHARS = 100_000


@dataclass(frozen=True)
class ToolCall:
    """A call that the model made. `arguments` is JSON, as the model wrote it where it wrote JSON."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex[:24]}")

    def as_json(self) -> dict[str, Any]:
        """As a message has it."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


class CallReader:
    """Parses tool calls from streamed text.

    Text that may begin a call is held back until that is known. White space around calls is dropped.
    A call that is not JSON, or names an unknown function, stays text.

    >>> reader = CallReader([FunctionSpec(name="f")])
    >>> reader.push("So: <tool_"), reader.push('call>{"name": "f"}</tool_call>')[0].name
    (['So:'], 'f')
    """

    def __init__(self, offered: Sequence[FunctionSpec]) -> None:
        self._names = {spec.name for spec in offered}
        self._marks = {OPEN: (CLOSE, None)} | {
            f"<{TAGS[spec.name]}>": (f"</{TAGS[spec.name]}>", spec)
            for spec in offered
            if spec.name in TAGS
        }
        self._held = ""
        self._mark: str | None = None  # of the call that is open
        self._just_called = False

    def push(self, piece: str) -> list[str | ToolCall]:
        """Text and calls that are complete after this piece."""
        self._held += piece
        found: list[str | ToolCall] = []
        while self._go_on(found):
            pass
        return found

    def flush(self) -> list[str | ToolCall]:
        """The rest, when no more comes: an open call counts if it is whole but for its end mark."""
        held, mark = self._held, self._mark
        self._held, self._mark = "", None
        if mark is None:
            said: list[str | ToolCall] = []
            self._say(held, said)
            return said
        call = self._read(mark, held)
        return [mark + held if call is None else call]

    def _go_on(self, found: list[str | ToolCall]) -> bool:
        if self._mark is not None:
            return self._close(found)
        places = {self._held.find(mark): mark for mark in self._marks if mark in self._held}
        if places:
            start = min(places)
            self._mark = places[start]
            self._say(self._held[:start].rstrip(), found)
            self._held = self._held[start + len(self._mark) :]
            return True
        said = self._held[: len(self._held) - self._undecided()]
        said = said[: len(said.rstrip())]  # blanks wait, since a call may follow them
        self._say(said, found)
        self._held = self._held[len(said) :]
        return False

    def _close(self, found: list[str | ToolCall]) -> bool:
        assert self._mark is not None
        end = self._marks[self._mark][0]
        inside, ended, rest = self._held.partition(end)
        if not ended and len(inside) < _MOST_CALL_CHARS:
            return False
        call = self._read(self._mark, inside) if ended else None
        if call is None:
            found.append(self._mark + inside + ended)
        else:
            found.append(call)
            self._just_called = True
        self._held, self._mark = rest, None
        return True

    def _say(self, text: str, found: list[str | ToolCall]) -> None:
        text = text.lstrip() if self._just_called else text
        if text:
            self._just_called = False
            found.append(text)

    def _undecided(self) -> int:
        """Length of the longest end of what is held that begins a mark."""
        longest = min(len(self._held), max(map(len, self._marks)) - 1)
        ends = (self._held[-n:] for n in range(longest, 0, -1))
        return next((len(e) for e in ends if any(m.startswith(e) for m in self._marks)), 0)

    def _read(self, mark: str, inside: str) -> ToolCall | None:
        spec = self._marks[mark][1]
        if spec is not None:
            name = argument_name(spec)
            return ToolCall(spec.name, json.dumps({name: inside.strip()}, ensure_ascii=False))
        try:
            call = json.loads(inside)
            name = call["name"]
            arguments = call.get("arguments", call.get("parameters", {}))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        if not isinstance(name, str) or name not in self._names:
            return None
        if isinstance(arguments, str):
            return ToolCall(name, arguments)
        if not isinstance(arguments, dict):
            return None
        return ToolCall(name, json.dumps(arguments, ensure_ascii=False))


def argument_name(spec: FunctionSpec) -> str:
    """The parameter that a tag's text goes to."""
    required = spec.parameters.get("required")
    properties = spec.parameters.get("properties")
    for names in (required, properties):
        if isinstance(names, (list, dict)) and names:
            first = next(iter(names))
            if isinstance(first, str):
                return first
    return "text"


@dataclass(frozen=True)
class Forced:
    """A call that must be made: what the answer is taken to begin and end with, and what lies between.

    prefix is put behind the prompt, so that the model writes the rest; it and suffix go to whoever
    reads the calls. `schema` holds the rest; `stop` ends it.
    """

    prefix: str
    suffix: str
    schema: JsonSchema | None = None
    stop: str | None = None


def force(
    offered: Sequence[FunctionSpec], named: FunctionSpec | None, format: ToolFormat
) -> Forced:
    """The constraint that forces a call of `named`, or of any offered function. Raises ValidationError."""
    if format == "tags":
        tagged = [spec for spec in offered if spec.name in TAGS]
        spec = named if named is not None else (tagged[0] if len(tagged) == 1 else None)
        if spec is not None and spec.name in TAGS:
            tag = TAGS[spec.name]
            return Forced(f"<{tag}>", f"</{tag}>", stop=f"</{tag}>")
    if named is not None:
        # the blank behind the colon is left to the model: it is part of the token that comes next
        prefix = f'{OPEN}\n{{"name": {json.dumps(named.name)}, "arguments":'
        return Forced(prefix, f"}}\n{CLOSE}", JsonSchema(definition=named.parameters))
    return Forced(f"{OPEN}\n", f"\n{CLOSE}", JsonSchema(definition=_any_call(offered)))


def _any_call(offered: Sequence[FunctionSpec]) -> dict[str, Any]:
    """The schema of a call of any of the functions."""
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": spec.name}, "arguments": spec.parameters},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for spec in offered
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def offer_in_words(messages: Sequence[Message], offered: Sequence[FunctionSpec]) -> list[Message]:
    """A chat for a template without tools: listed in the system message, calls and results as text."""
    lines = [json.dumps(tool_json(spec), ensure_ascii=False) for spec in offered]
    listing = "\n".join(["You may call these functions:", "<tools>", *lines, "</tools>"])
    how = f'To call one, write\n{OPEN}\n{{"name": NAME, "arguments": ARGUMENTS}}\n{CLOSE}'
    told = f"{listing}\n{how}"
    chat = [as_text(message, "hermes") for message in messages]
    if not offered:
        return chat
    if chat and chat[0].get("role") == "system" and isinstance(chat[0].get("content"), str):
        return [{**chat[0], "content": f"{chat[0]['content']}\n\n{told}"}, *chat[1:]]
    return [{"role": "system", "content": told}, *chat]


def as_text(message: Message, format: ToolFormat) -> Message:
    """A message whose calls, or a result of one, are written out in its text."""
    if message.get("role") == "tool" and format == "hermes":
        content = message.get("content")
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    calls = message.get("tool_calls")
    if not calls:
        return message
    said = [message["content"]] if isinstance(message.get("content"), str) else []
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    written = [_written(call["function"], format) for call in calls]
    return {**rest, "content": "\n".join([part for part in said if part] + written)}


def _written(function: Mapping[str, Any], format: ToolFormat) -> str:
    name, arguments = function["name"], function["arguments"]
    if format == "tags" and name in TAGS and len(arguments) == 1:
        (value,) = arguments.values()
        return f"<{TAGS[name]}>{value}</{TAGS[name]}>"
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"{OPEN}\n{call}\n{CLOSE}"


def tool_json(spec: FunctionSpec) -> dict[str, Any]:
    """A tool as chat templates are given it."""
    return {"type": "function", "function": spec.model_dump(exclude_none=True, exclude={"strict"})}
