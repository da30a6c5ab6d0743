"""Chat templates: render messages to token ids, with a mask of the tokens to train on.

Two things go wrong where a chat is rendered to text and the text encoded. A user who writes
`<|im_end|>` ends their own turn and speaks as the system; and the text's tokens need not begin
where the assistant's words do. Here, therefore:

* Before rendering, each character in a message at which a special token's spelling begins, ends,
  or could begin if joined to what follows, is swapped for a stand-in: a private-use character found
  nowhere else. Special tokens are then looked for, and only those that the template itself wrote
  are
  found; stand-ins become what they were before the rest is encoded. Messages without such
  spellings, nearly all, reach the template untouched.
* The text is cut where an answer begins and ends, and each part encoded by itself: a prompt's
tokens
  are exactly the beginning of the training example's.

What is learned: the insides of `{% generation %}` blocks, where the template has them. Otherwise,
for
each answer, what the chat up to it adds to the prompt for it, up to the special token that
ends the turn.

Tested against: transformers' `apply_chat_template` (text and assistant masks).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import regex

from glassbox.core.errors import UserError
from glassbox.sandbox.template_process import TemplateProcess, shared_template_process
from glassbox.sandbox.templates import MARKS, TemplateSandbox
from glassbox.tokenizers.added_tokens import AllowSpecial, Piece
from glassbox.tokenizers.parts import TextProcessing

Message = Mapping[str, Any]
"""`role`, `content`, and what else a template may read: `tool_calls`, `reasoning_content`, `name`."""

DEFAULT_CHAT_TEMPLATE = """\
{%- macro words(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content or [] -%}{{- part.text -}}{%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- if tools -%}
    {{- '<|im_start|>system\\n' -}}
    {%- if messages[0].role == 'system' -%}
        {{- words(messages[0].content) + '\\n\\n' -}}
    {%- endif -%}
    {{- 'You may call these functions:\\n<tools>' -}}
    {%- for tool in tools -%}{{- '\\n' + tool | tojson -}}{%- endfor -%}
    {{- '\\n</tools>\\nTo call one, write\\n<tool_call>\\n' -}}
    {{- '{"name": NAME, "arguments": ARGUMENTS}\\n</tool_call><|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {{- '<|im_start|>assistant\\n' -}}
        {%- generation -%}
            {{- words(message.content) -}}
            {%- for tool_call in message.tool_calls or [] -%}
                {%- set call = tool_call.function or tool_call -%}
                {%- if message.content or not loop.first -%}{{- '\\n' -}}{%- endif -%}
                {{- '<tool_call>\\n{"name": ' + call.name | tojson + ', "arguments": ' -}}
                {%- if call.arguments is string -%}
                    {{- call.arguments -}}
                {%- else -%}
                    {{- call.arguments | tojson -}}
                {%- endif -%}
                {{- '}\\n</tool_call>' -}}
            {%- endfor -%}
            {{- '<|im_end|>' -}}
        {%- endgeneration -%}
        {{- '\\n' -}}
    {%- elif message.role == 'tool' -%}
        {%- if loop.first or loop.previtem.role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
        {{- '\\n<tool_response>\\n' + words(message.content) + '\\n</tool_response>' -}}
        {%- if loop.last or loop.nextitem.role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
    {%- elif not (tools and loop.first and message.role == 'system') -%}
        {{- '<|im_start|>' + message.role + '\\n' + words(message.content) + '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

_GENERATION = regex.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_ROLE = regex.compile(r"[A-Za-z0-9_.-]{1,64}")
_REASONING = ("reasoning_content", "thinking", "reasoning")
_PRIVATE_USE = range(0xE000, 0xF900)
_MAX_DEPTH = 32

Span = tuple[int, int]


class ChatEncoder(Protocol):
    """What a chat needs of a tokenizer."""

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The control tokens and their ids."""

    @property
    def pretokenizer(self) -> TextProcessing:
        """How text is normalized."""

    def split_added(self, text: str, *, allow_special: AllowSpecial) -> list[Piece]:
        """The text cut at added tokens, these as ids."""

    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of normalized text without added tokens."""


class ChatTemplate:
    """A chat template, compiled once, rendered in a sandbox.

    Glassbox's own template is rendered here. Any other, which comes with a model from anywhere, is
    rendered in a process with hard limits on memory and time (on Windows here, too, within the
    limits of `TemplateSandbox` alone). The text is the same.

    source:          Jinja source, or several by name: `tool_use` serves where there are tools,
                     `default` otherwise.
    special_strings: what templates may name: `eos_token`, `bos_token`, ...
    """

    def __init__(
        self, source: str | Mapping[str, str], *, special_strings: Mapping[str, str] | None = None
    ) -> None:
        self.sources = {"default": source} if isinstance(source, str) else dict(source)
        self.special_strings = dict(special_strings or {})
        if "default" not in self.sources:
            raise UserError(
                f"chat_template has {sorted(self.sources)} but no 'default'; name one so"
            )
        self._sandbox = TemplateSandbox()
        self._compiled = {}
        self._process: TemplateProcess | None = None
        for name, text in self.sources.items():
            if text == DEFAULT_CHAT_TEMPLATE or os.name != "posix":
                self._compiled[name] = self._sandbox.compile_guarded(text)
            else:
                self._process = shared_template_process()
                self._process.compile(text)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """A chat as text. Raises UserError naming the message and the key at fault."""
        return self._render(
            check_messages(messages),
            add_generation_prompt,
            check_tools(tools),
            _plain(variables, "variables"),
        )

    def encode(
        self,
        tokenizer: ChatEncoder,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> tuple[list[int], list[int]]:
        """Ids of a whole chat and the mask of what is learned."""
        chat = _InertChat(self, tokenizer, messages, tools, variables)
        text, spans = chat.with_spans(add_generation_prompt=False)
        return chat.encode(text, spans)

    def encode_prompt(
        self,
        tokenizer: ChatEncoder,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        check: Callable[[str], None] = lambda text: None,
        **variables: Any,
    ) -> list[int]:
        """Ids of a chat up to where the assistant is to speak. `check` may refuse the text by raising."""
        chat = _InertChat(self, tokenizer, messages, tools, variables)
        text, spans = chat.with_spans(add_generation_prompt=True, check=check)
        return chat.encode(text, spans)[0]

    def marks_generation(self, tools: Any) -> bool:
        """Whether the template says itself what the assistant generates."""
        return _GENERATION.search(self.sources[self._name(tools)]) is not None

    def _name(self, tools: Any) -> str:
        return "tool_use" if tools is not None and "tool_use" in self.sources else "default"

    def _render(
        self,
        messages: list[dict[str, Any]],
        add_generation_prompt: bool,
        tools: list[dict[str, Any]] | None,
        variables: Mapping[str, Any],
        marks: tuple[str, str] | None = None,
    ) -> str:
        name = self._name(tools)
        context = {
            **self.special_strings,
            **variables,
            "messages": messages,
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
            MARKS: marks,
        }
        if name in self._compiled:
            return self._sandbox.render_guarded(self._compiled[name], context)
        assert self._process is not None
        return self._process.render(self.sources[name], context)


class _InertChat:
    """One chat on its way to ids, the spellings of special tokens in it swapped for stand-ins."""

    def __init__(
        self,
        template: ChatTemplate,
        tokenizer: ChatEncoder,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
    ) -> None:
        self.template = template
        self.tokenizer = tokenizer
        plain = check_messages(messages)
        plain_tools = check_tools(tools)
        plain_variables = _plain(variables, "variables")
        specials = list(tokenizer.special_tokens)

        used = set().union(*map(set, _strings([plain, plain_tools, plain_variables])))
        used.update(*template.sources.values(), *specials)
        free = iter(char for code in _PRIVATE_USE if (char := chr(code)) not in used)
        try:
            self.begin, self.end = next(free), next(free)
            self._stand_ins = {char: next(free) for char in dict.fromkeys("".join(specials))}
        except StopIteration:
            raise UserError("messages use every private-use character; remove some") from None
        self._restore = str.maketrans({new: old for old, new in self._stand_ins.items()})
        self._starts = {s[:n] for s in specials for n in range(1, len(s) + 1)}
        self._tails = {s[n:] for s in specials for n in range(1, len(s))}
        self._specials = regex.compile("|".join(map(regex.escape, specials)) or r"(?!)")
        self._longest = max(map(len, specials), default=0)

        self.messages = [
            {
                key: value if key == "role" else self._swap(value, key=key)
                for key, value in message.items()
            }
            for message in plain
        ]
        self.tools = self._swap(plain_tools)
        self.variables = {key: self._swap(value) for key, value in plain_variables.items()}

    def _swap(self, value: Any, key: str | None = None) -> Any:
        if isinstance(value, str):
            return self._swap_string(value)
        if isinstance(value, list):
            return [self._swap(item) for item in value]
        if isinstance(value, dict):
            return {self._swap(name): self._swap(item) for name, item in value.items()}
        return value

    def _swap_string(self, text: str) -> str:
        positions = {m.start() for m in self._specials.finditer(text, overlapped=True)}
        for n in range(1, min(self._longest, len(text)) + 1):
            if text[-n:] in self._starts:
                positions.add(len(text) - n)
            if text[:n] in self._tails:
                positions.add(n - 1)
        if not positions:
            return text
        chars = list(text)
        for place in positions:
            chars[place] = self._stand_ins[chars[place]]
        return "".join(chars)

    def _render(self, count: int | None, prompt: bool, marks: tuple[str, str] | None = None) -> str:
        messages = self.messages[:count]
        return self.template._render(messages, prompt, self.tools, self.variables, marks)

    def with_spans(
        self, *, add_generation_prompt: bool, check: Callable[[str], None] = lambda text: None
    ) -> tuple[str, list[Span]]:
        """The rendered chat and where the assistant speaks in it. `check` sees the text first."""
        if self.template.marks_generation(self.tools):
            marked = self._render(None, add_generation_prompt, (self.begin, self.end))
            check(marked)
            return self._read_marks(marked)
        text = self._render(None, add_generation_prompt)
        check(text)
        return text, list(self._spans_by_prefix(text))

    def _read_marks(self, marked: str) -> tuple[str, list[Span]]:
        parts, spans, start, depth = [], [], 0, 0
        length = 0
        for part in regex.split(f"([{self.begin}{self.end}])", marked):
            if part == self.begin:
                start, depth = (length if depth == 0 else start), depth + 1
            elif part == self.end:
                depth -= 1
                if depth == 0 and length > start:
                    spans.append((start, length))
            else:
                parts.append(part)
                length += len(part)
        return "".join(parts), spans

    def _spans_by_prefix(self, text: str) -> Iterator[Span]:
        for i, message in enumerate(self.messages):
            if message["role"] != "assistant":
                continue
            if i == 0:
                raise UserError(
                    "messages[0] is the assistant's, and the chat_template has no {% generation %}:"
                    " begin with another role"
                )
            before = self._render(i, True)
            upto = self._render(i + 1, False)
            if not text.startswith(upto):
                raise UserError(
                    f"messages[{i}]: the chat_template renders this answer differently when more"
                    " follows; train on chats that end with it, or add {% generation %}"
                )
            start = _num_shared(before, upto)
            said = upto[start:]
            stripped = said.rstrip()
            ends = [m.end() for m in self._specials.finditer(stripped)]
            end = start + (len(stripped) if ends[-1:] == [len(stripped)] else len(said))
            if end > start:
                yield start, end

    def encode(self, text: str, spans: Iterable[Span]) -> tuple[list[int], list[int]]:
        """Ids part by part, and the mask: 1 in a span."""
        ids: list[int] = []
        mask: list[int] = []
        done = 0
        for start, end in [*spans, (len(text), len(text))]:
            for part, learned in ((text[done:start], 0), (text[start:end], 1)):
                new = self._encode_part(part)
                ids += new
                mask += [learned] * len(new)
            done = end
        return ids, mask

    def _encode_part(self, part: str) -> list[int]:
        ids: list[int] = []
        for piece in self.tokenizer.split_added(part, allow_special=True):
            if isinstance(piece, int):
                ids.append(piece)
            else:
                words = self.tokenizer.pretokenizer.normalize(piece.translate(self._restore))
                ids += self.tokenizer.encode_ordinary(words)
        return ids


def check_messages(messages: Any) -> list[dict[str, Any]]:
    """Messages as plain, fresh data, absent keys left out. Raises UserError naming what is wrong."""
    if not isinstance(messages, (list, tuple)):
        raise UserError(f"messages is a {type(messages).__name__}; give a list of messages")
    if not messages:
        raise UserError("messages is empty; give at least one")
    return [_check_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _check_message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise UserError(f"{where} is a {type(message).__name__}; give a mapping with role, content")
    plain: dict[str, Any] = {
        key: value for key, value in _plain(message, where).items() if value is not None
    }
    if "role" not in plain:
        raise UserError(f"{where} lacks 'role'; say who speaks: system, user, assistant, tool")
    role = plain["role"]
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        raise UserError(
            f"{where}.role = {str(role)[:40]!r}; a role is a word of letters, digits, '_', '-', '.'"
        )
    calls = plain.get("tool_calls", [])
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise UserError(f"{where}.tool_calls is no list of mappings")
    if "content" not in plain:
        if not calls:
            raise UserError(f"{where}.content is missing or None; give a string")
    elif not isinstance(plain["content"], str):
        _check_content_parts(plain["content"], f"{where}.content")
    reasoning = next((plain[key] for key in _REASONING if key in plain), None)
    if reasoning is not None:  # one thing, known to templates under three names
        plain = {"thinking": reasoning, **plain, "reasoning_content": reasoning}
    return plain


def _check_content_parts(content: Any, where: str) -> None:
    if not isinstance(content, list):
        raise UserError(f"{where} is a {type(content).__name__}; give a string or a list of parts")
    for i, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise UserError(
                f"{where}[{i}] is no text part; write {{'type': 'text', 'text': '...'}}"
            )


def check_tools(tools: Any) -> list[dict[str, Any]] | None:
    """Tools as plain, fresh data. Raises UserError naming what is wrong."""
    if tools is None:
        return None
    if not isinstance(tools, (list, tuple)):
        raise UserError(f"tools is a {type(tools).__name__}; give a list of JSON schemas")
    for i, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise UserError(f"tools[{i}] is a {type(tool).__name__}; give a JSON schema")
    plain: list[dict[str, Any]] = _plain(tools, "tools")
    return plain


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """A copy made of JSON's own types, so that templates meet no object with methods of its own."""
    if depth > _MAX_DEPTH:
        raise UserError(f"{where[:80]}... is nested more than {_MAX_DEPTH} deep")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):  # of a subclass, an enum say, only the base's value
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise UserError(f"{where} has the key {key!r}; keys are strings")
        return {str(k): _plain(v, f"{where}.{k}", depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise UserError(f"{where} is a {type(value).__name__}; use strings, numbers, lists, mappings")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


def _num_shared(one: str, other: str) -> int:
    """How many characters two strings begin with alike; halving, since chats can be long."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
