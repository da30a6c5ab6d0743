"""What requests may say: strict types, and a name that is not supported is refused, never ignored."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from glassbox.core.config import Spec
from glassbox.inference.randomness import derive_seed
from glassbox.inference.sampling import SamplingParams
from glassbox.serving.errors import ApiError, refusal

_ASKS_FOR_NOTHING: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "best_of": (1,),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "store": (),
    "logprobs": (),
    "top_logprobs": (),
    "metadata": ({},),
}
"""Parameters we lack, and the values (besides null) with which clients send them without need."""

_LEAST_TEMPERATURE = 1e-3  # below it float32 overflows; 0 is greedy


class Limits(Spec):
    """The most that one request, and all of them together, may ask of the server."""

    max_tokens: int = Field(4096, gt=0, description="tokens of one answer")
    max_running: int = Field(8, gt=0, description="requests answered at the same time")
    max_queue: int = Field(64, ge=0, description="further requests that may wait")
    max_choices: int = Field(16, gt=0, description="answers of one request: prompts times n")
    max_stops: int = Field(16, ge=0, description="stop strings of one request")
    max_stop_chars: int = Field(256, gt=0, description="characters of one stop string")
    max_body_bytes: int = Field(4 << 20, gt=0, description="size of a request's body")


def _as_prompts(value: Any) -> Any:
    """One prompt or many, of text or of ids, as a list."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(_is_id(item) for item in value):
            return [value]
        if all(isinstance(item, str) for item in value):
            return value
        if all(isinstance(item, list) and all(map(_is_id, item)) for item in value):
            return value
    raise ValueError("give a string, a list of strings, a list of token ids, or a list of those")


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _as_stops(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_TEXTS = {"type": "array", "items": {"type": "string"}}
_IDS = {"type": "array", "items": {"type": "integer"}}
Prompts = Annotated[
    list[str] | list[list[int]],
    BeforeValidator(_as_prompts),
    WithJsonSchema({"anyOf": [{"type": "string"}, _TEXTS, _IDS, {"type": "array", "items": _IDS}]}),
]
Stops = Annotated[
    list[str],
    BeforeValidator(_as_stops),
    WithJsonSchema({"anyOf": [{"type": "string"}, _TEXTS]}),
]


class Body(BaseModel):
    """A JSON object of known names; null is as good as absent."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: item for key, item in value.items() if not cls._asks_nothing(key, item)}

    @classmethod
    def _asks_nothing(cls, key: str, item: Any) -> bool:
        if item is None:
            return key in cls.model_fields or key in _ASKS_FOR_NOTHING
        if key in cls.model_fields or key not in _ASKS_FOR_NOTHING:
            return False
        return item is False or (item is not True and item in _ASKS_FOR_NOTHING[key])


class StreamOptions(Body):
    """What a stream is to tell besides the text."""

    include_usage: bool = False


class Generation(Body):
    """What completions and chats share."""

    model: str | None = None
    max_tokens: int | None = Field(None, gt=0)
    temperature: float = Field(1.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, lt=2**31)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)
    stop: Stops = []
    seed: int | None = Field(None, ge=0, lt=2**63)
    n: int = Field(1, gt=0)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="the caller's own label; not used")

    def sampling(
        self, limits: Limits, *, num_prompts: int, max_tokens: int, stop_token_ids: tuple[int, ...]
    ) -> list[SamplingParams]:
        """Settings of each of a prompt's n choices. Raises ApiError for what the limits forbid.

        The first draws from the request's seed itself, so that it is what `Engine.generate` gives;
        the others from seeds derived from it.
        """
        if max_tokens > limits.max_tokens:
            raise _too_many("max_tokens", max_tokens, limits.max_tokens)
        if num_prompts * self.n > limits.max_choices:
            of = f"{num_prompts} prompts x n = " if num_prompts > 1 else ""
            raise _too_many("n", f"{of}{self.n}", limits.max_choices)
        if len(self.stop) > limits.max_stops:
            raise _too_many("stop", f"{len(self.stop)} strings", limits.max_stops)
        longest = max(map(len, self.stop), default=0)
        if longest > limits.max_stop_chars:
            raise _too_many("stop", f"{longest} characters", limits.max_stop_chars)
        if 0 < self.temperature < _LEAST_TEMPERATURE:
            raise ApiError(
                400,
                f"'temperature' = {self.temperature}: give 0 (always the likeliest) or at least "
                f"{_LEAST_TEMPERATURE}",
                param="temperature",
                code="invalid_parameter",
            )
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "'stream_options' needs 'stream': true", param="stream_options")
        shared = self.model_dump(
            include={"temperature", "top_p", "top_k", "min_p", "repetition_penalty"}
        )
        seeds = [self.seed] + [
            None if self.seed is None else derive_seed(self.seed, i) for i in range(1, self.n)
        ]
        try:
            first = SamplingParams(
                **shared,
                max_tokens=max_tokens,
                stop=tuple(self.stop),
                stop_token_ids=stop_token_ids,
            )
        except ValidationError as error:
            raise refusal(error.errors(include_url=False)) from None
        return [first.model_copy(update={"seed": seed}) for seed in seeds]


class CompletionBody(Generation):
    """POST /v1/completions."""

    prompt: Prompts
    echo: bool = False
    max_tokens: int | None = Field(16, gt=0)


class ChatBody(Generation):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = Field(None, gt=0)


class TokenizeBody(Body):
    """POST /tokenize: a text or a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool = True


class DetokenizeBody(Body):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[int]


def _too_many(param: str, given: int | str, most: int) -> ApiError:
    message = f"'{param}' = {given} is above this server's limit of {most}"
    return ApiError(400, message, param=param, code="limit_exceeded")
