"""The body of a chat request: messages, tools, response format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from glassbox.inference.constraints.specs import json_object
from glassbox.serving.bodies import (
    Body,
    Generation,
    Guide,
    Limits,
    Messages,
    check_size,
    invalid,
    json_guide,
    too_many,
)
from glassbox.serving.errors import ApiError

ROLES = ("system", "developer", "user", "assistant", "tool")
_TEMPLATES_OWN = {"self", "tokenizer", "messages", "tools", "add_generation_prompt"}
_MAX_TOP = 20


class FunctionSpec(Body):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] = Field({"type": "object", "properties": {}})
    strict: bool = False


class ToolSpec(Body):
    """A tool; only functions are supported."""

    type: Literal["function"]
    function: FunctionSpec


class FunctionName(Body):
    """One function among the tools."""

    name: str


class NamedTool(Body):
    """A tool that must be called."""

    type: Literal["function"]
    function: FunctionName


class SchemaFormat(Body):
    """A schema by name."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    definition: dict[str, Any] = Field(alias="schema")
    strict: bool = Field(True, description="accepted; answers always match the schema")


class ResponseFormat(Body):
    """Text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None


class ChatBody(Generation):
    """POST /v1/chat/completions."""

    messages: Messages
    max_completion_tokens: int | None = Field(None, gt=0)
    max_tokens: int | None = Field(None, gt=0)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=_MAX_TOP)
    tools: Annotated[list[ToolSpec], Field(fail_fast=True)] = Field([])
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool = True
    response_format: ResponseFormat | None = None
    chat_template_kwargs: dict[str, Any] = Field(
        {}, description="further variables for the chat template"
    )

    @property
    def num_top(self) -> int | None:
        """How many top log-probabilities to return at each position; None for no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def forced(self) -> FunctionSpec | bool:
        """The function that must be called; True if any function must."""
        if isinstance(self.tool_choice, NamedTool):
            name = self.tool_choice.function.name
            found = [tool.function for tool in self.tools if tool.function.name == name]
            if not found:
                raise invalid("tool_choice", f"names {name[:64]!r}, which is not among the tools")
            return found[0]
        return self.tool_choice == "required"

    @property
    def offered(self) -> list[FunctionSpec]:
        """The functions that may be called."""
        return [] if self.tool_choice == "none" else [tool.function for tool in self.tools]

    def check(self, limits: Limits) -> None:
        """Raises ApiError for conflicting parameters and beyond the limits."""
        if self.max_tokens and self.max_completion_tokens not in (None, self.max_tokens):
            raise invalid(
                "max_tokens",
                f"= {self.max_tokens} but 'max_completion_tokens' = {self.max_completion_tokens}; "
                "give one of them",
            )
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs", "needs 'logprobs': true")
        if len(self.messages) > limits.max_messages:
            raise too_many("messages", len(self.messages), limits.max_messages)
        if len(self.tools) > limits.max_tools:
            raise too_many("tools", len(self.tools), limits.max_tools)
        check_size([tool.function.parameters for tool in self.tools], "tools", limits)
        names = [tool.function.name for tool in self.tools]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise invalid("tools", f"has two functions named {twice!r}")
        if not self.tools and self.tool_choice not in (None, "none", "auto"):
            raise invalid("tool_choice", "asks for a call, but there are no 'tools'")
        if not self.forced and any(spec.strict for spec in self.offered):
            raise invalid(
                "tools",
                "ask for strict arguments, which need a forced call: set "
                "'tool_choice' to 'required' or to a function, or 'strict' to false",
            )
        reserved = sorted(_TEMPLATES_OWN & set(self.chat_template_kwargs))
        if reserved:
            raise invalid("chat_template_kwargs", f"may not set {reserved[0]!r}")

    @property
    def guided_by(self) -> str:
        """The parameter that constrains the output."""
        if self.forced:
            return "tools"
        return "response_format" if self.response_format is not None else super().guided_by

    def guide(self, limits: Limits) -> Guide | None:
        """The output constraint, not counting tools. Raises ApiError."""
        guide = super().guide(limits)
        form = self.response_format
        if form is None or form.type == "text":
            found = guide
        elif guide is not None:
            raise invalid("response_format", "and a 'guided_...' parameter exclude each other")
        elif form.type == "json_object":
            found = json_object()
        elif form.json_schema is None:
            raise invalid("response_format.json_schema", "is missing")
        else:
            found = json_guide(form.json_schema.definition, "response_format", limits)
        if found is not None and self.offered:
            raise ApiError(
                400,
                "'tools' and a response format exclude each other, since a call would not match "
                "the format; remove one or set 'tool_choice' to 'none'",
                param="response_format" if guide is None else "tools",
                code="invalid_parameter",
            )
        return found


def plain_messages(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as chat templates expect them: `developer` becomes `system`, call arguments become objects.

    Raises ApiError for unknown roles and for arguments that are not a JSON object.
    """
    return [_plain(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _plain(message: dict[str, Any], where: str) -> dict[str, Any]:
    role = message.get("role")
    if "role" in message and role not in ROLES:
        roles = ", ".join(ROLES)
        raise _wrong(f"{where}.role = {str(role)[:40]!r}; use one of {roles}")
    plain = {**message, "role": "system"} if role == "developer" else dict(message)
    calls = message.get("tool_calls")
    if calls is None:
        return plain
    if not isinstance(calls, list) or role != "assistant":
        raise _wrong(f"{where}.tool_calls is a list, and the assistant's")
    plain["tool_calls"] = [_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]
    return plain


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise _wrong(f"{where} lacks 'function' with its 'name'")
    arguments = function.get("arguments", "{}")
    try:
        if isinstance(arguments, str):
            arguments = json.loads(arguments or "{}")
        if not isinstance(arguments, dict):
            raise ValueError
    except (ValueError, RecursionError):
        raise _wrong(f"{where}.function.arguments is no JSON object") from None
    return {**call, "function": {**function, "arguments": arguments}}


def _wrong(message: str) -> ApiError:
    return ApiError(400, message, param="messages", code="invalid_parameter")
