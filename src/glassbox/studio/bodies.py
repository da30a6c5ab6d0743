"""Request bodies of the studio's API, checked."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

Text = Annotated[str, Field(max_length=1_000_000)]
Id = Annotated[str, Field(max_length=64)]
Name = Annotated[str, Field(max_length=1000)]

SAMPLING = (
    "max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty",
    "frequency_penalty", "presence_penalty", "stop", "seed",
)  # fmt: skip
"""The settings of `SamplingParams` that the page may set."""


class Body(BaseModel):
    """A JSON object with known fields."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Settings(Body):
    """Settings of a chat or of the page."""

    values: dict[Annotated[str, Field(max_length=100)], Any] = Field(max_length=100)


class NewChat(Body):
    """A chat to begin."""

    title: Annotated[str, Field(max_length=200)] = ""
    settings: dict[str, Any] = Field({}, max_length=100)


class ChatChange(Body):
    """What changes of a chat."""

    title: Annotated[str, Field(max_length=200)] | None = None
    settings: dict[str, Any] | None = Field(None, max_length=100)


class Sampled(Body):
    """How answers are chosen."""

    sampling: dict[str, Any] = Field({}, max_length=len(SAMPLING))
    system: Text = ""
    plain: bool = False
    """Whether the text is continued as it stands, without the model's chat template."""

    @field_validator("sampling")
    @classmethod
    def _known(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in value:
            if key not in SAMPLING:
                raise ValueError(f"'{key}' is not one of {', '.join(SAMPLING)}")
        if not 0 < int(value.get("max_tokens", 1)) <= 8192:
            raise ValueError("max_tokens must be from 1 to 8192")
        return value


class Column(Body):
    """Where a turn goes: after which message, and which model answers it."""

    parent: Id | None = None
    model: Name


class Turn(Sampled):
    """What the user says, to one model or to several side by side."""

    content: Text
    to: list[Column] = Field(min_length=1, max_length=8)


class Steer(Body):
    """A direction added to the stream after a layer: from one text's last token to another's."""

    layer: int = Field(ge=0)
    toward: Annotated[str, Field(max_length=2000)]
    away: Annotated[str, Field(max_length=2000)]
    scale: float = Field(ge=-100, le=100)


class Changes(Body):
    """What is changed inside the model: heads as (layer, head), parts as blocks.3.ffn, and steering."""

    heads: list[tuple[int, int]] = Field([], max_length=4096)
    parts: list[Annotated[str, Field(max_length=100)]] = Field([], max_length=1024)
    steer: Steer | None = None


class Answer(Sampled):
    """Another answer to a turn; `kept` tokens of `source`, then `token`, are how it begins."""

    parent: Id
    model: Name
    source: Id | None = None
    kept: int = Field(0, ge=0)
    token: int | None = Field(None, ge=0)
    changes: Changes | None = None


class Edit(Body):
    """An answer as the user would have it."""

    message: Id
    content: Text


class Start(Body):
    """A recipe to start, and values laid over it by key.path."""

    recipe: Name
    changes: dict[Annotated[str, Field(max_length=200)], str | int | float | bool | None] = Field(
        {}, max_length=200
    )


class TextOf(Body):
    """A text for a model's tokenizer."""

    model: Name
    text: Text


class ChatOf(Body):
    """A chat for a model's template."""

    model: Name
    messages: list[dict[str, Text]] = Field(min_length=1, max_length=1024)
