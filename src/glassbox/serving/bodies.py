"""Request bodies: strict types; unsupported fields return 400."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from glassbox.inference.constraints.specs import Choice, JsonSchema, Regex
from glassbox.inference.sampling.params import SamplingParams
from glassbox.serving.errors import ApiError, refusal

_ASKS_FOR_NOTHING: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": ("none",),
    "functions": ([],),
    "metadata": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (),
    "verbosity": (),
    "web_search_options": (),
}
"""Unsupported parameters, and the values (besides null and false) that ask for nothing and are accepted."""

_NEGATIVE_PROMPT_CHARS = 1 << 16
_LEAST_TEMPERATURE = 1e-3  # below it float32 overflows; 0 is greedy
_MOST_BIASES = 300
_MOST_KEYS = 100
Guide = JsonSchema | Regex | Choice


class Limits(Spec):
    """Limits on one request and on all requests together."""

    max_tokens: int = Field(4096, gt=0, description="maximum number of tokens per answer")
    max_running: int = Field(
        32, gt=0, description="maximum number of answers generated at the same time"
    )
    max_queue: int = Field(128, ge=0, description="maximum number of waiting requests")
    max_choices: int = Field(
        64, gt=0, description="maximum number of answers per request: prompts times n"
    )
    max_inputs: int = Field(256, gt=0, description="maximum number of texts per embedding request")
    max_stops: int = Field(16, ge=0, description="maximum number of stop strings per request")
    max_stop_chars: int = Field(
        256, gt=0, description="maximum length of a stop string in characters"
    )
    max_tools: int = Field(128, ge=0, description="maximum number of tools per request")
    max_messages: int = Field(1024, gt=0, description="maximum number of messages per chat")
    max_schema_bytes: int = Field(
        65_536, gt=0, description="maximum size of a request's schemas, as JSON"
    )
    max_body_bytes: int = Field(4 << 20, gt=0, description="maximum size of a request body")
    max_bodies_bytes: int = Field(
        64 << 20, gt=0, description="maximum size of all request bodies together"
    )
    max_values: int = Field(1 << 18, gt=0, description="maximum number of JSON values per body")


def _as_prompts(value: Any) -> Any:
    """One or more prompts, text or ids, as a list."""
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


def _as_biases(value: Any) -> Any:
    """JSON object keys (token ids as strings) as integers."""
    if not isinstance(value, dict):
        return value
    if len(value) > _MOST_BIASES:
        raise ValueError(f"{len(value)} tokens; at most {_MOST_BIASES}")
    if not all(isinstance(key, str) and key.isascii() and key.isdigit() for key in value):
        raise ValueError("the keys are token ids, as in {'17': -100}")
    if max(map(len, value), default=0) > 9:
        raise ValueError("there is no such token id")
    return {int(key): bias for key, bias in value.items()}


_TEXTS = {"type": "array", "items": {"type": "string"}}
_IDS = {"type": "array", "items": {"type": "integer"}}
Texts = Annotated[list[str], Field(fail_fast=True)]
Ids = Annotated[list[int], Field(fail_fast=True)]
"""Lists of which one fault is told, not one for each element."""
Prompts = Annotated[
    Texts | Annotated[list[Ids], Field(fail_fast=True)],
    BeforeValidator(_as_prompts),
    WithJsonSchema({"anyOf": [{"type": "string"}, _TEXTS, _IDS, {"type": "array", "items": _IDS}]}),
]
Stops = Annotated[
    Texts,
    BeforeValidator(_as_stops),
    WithJsonSchema({"anyOf": [{"type": "string"}, _TEXTS]}),
]
NumTop = Annotated[
    Annotated[int, Field(ge=0, le=20)] | None,
    BeforeValidator(lambda value: None if value is False else value),
]
Messages = Annotated[list[dict[str, Any]], Field(fail_fast=True)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Biases = Annotated[
    dict[int, Bias],
    BeforeValidator(_as_biases),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "number"}}),
]


class Body(BaseModel):
    """A JSON object with known fields; null means absent."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if len(value) > _MOST_KEYS:
            raise ValueError(f"an object with {len(value)} keys; at most {_MOST_KEYS} are known")
        return {key: item for key, item in value.items() if not cls._asks_nothing(key, item)}

    @classmethod
    def _asks_nothing(cls, key: str, item: Any) -> bool:
        if item is None:
            return key in cls.model_fields or key in _ASKS_FOR_NOTHING
        if key in cls.model_fields or key not in _ASKS_FOR_NOTHING:
            return False
        return item is False or (item is not True and item in _ASKS_FOR_NOTHING[key])


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool = False


class Generation(Body):
    """Fields common to completions and chats. Those after `user` extend OpenAI's API."""

    model: str | None = None
    max_tokens: int | None = Field(None, ge=0)
    temperature: float = Field(1.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: Biases = {}
    stop: Stops = []
    seed: int | None = Field(None, ge=0, lt=2**63)
    n: int = Field(1, gt=0)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="accepted and ignored")
    top_k: int = Field(0, ge=0, lt=2**31)
    min_p: float = Field(0.0, ge=0, le=1)
    typical_p: float = Field(1.0, gt=0, le=1)
    epsilon_cutoff: float = Field(0.0, ge=0, lt=1)
    eta_cutoff: float = Field(0.0, ge=0, lt=1)
    top_h: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)
    no_repeat_ngram_size: int = Field(0, ge=0, le=1024)
    bad_words: Stops = []
    guidance_scale: float = Field(1.0, ge=0, le=100)
    negative_prompt: str | None = None
    min_tokens: int = Field(0, ge=0)
    ignore_eos: bool = False
    stop_token_ids: Ids = []
    guided_json: dict[str, Any] | None = Field(
        None, description="JSON schema that the answer must match"
    )
    guided_regex: str | None = Field(
        None, description="regular expression that the answer must match"
    )
    guided_choice: Texts | None = Field(None, description="texts that the answer must be one of")

    @property
    def num_samples(self) -> int:
        """Answers drawn for each prompt."""
        return self.n

    @property
    def num_top(self) -> int | None:
        """How many top log-probabilities to return at each position; None for no log-probabilities."""
        return None

    @property
    def guided_by(self) -> str:
        """The parameter that constrains the output."""
        names = ("guided_json", "guided_regex", "guided_choice")
        return next((name for name in names if getattr(self, name) is not None), "body")

    def guide(self, limits: Limits) -> Guide | None:
        """The output constraint, if any. Raises ApiError."""
        given = {
            name: value
            for name in ("guided_json", "guided_regex", "guided_choice")
            if (value := getattr(self, name)) is not None
        }
        if len(given) > 1:
            raise ApiError(
                400,
                f"{' and '.join(given)} exclude each other; give one of them",
                param=next(iter(given)),
                code="invalid_parameter",
            )
        for name, value in given.items():
            if name == "guided_json":
                return json_guide(value, name, limits)
            with refusing(name):
                if name == "guided_regex":
                    return Regex(pattern=value)
                return Choice(options=tuple(value))
        return None

    def sampling(
        self,
        limits: Limits,
        *,
        num_prompts: int,
        vocab_size: int,
        max_tokens: int,
        stop_token_ids: Sequence[int] = (),
        stops: Sequence[str] = (),
        guide: Guide | None = None,
    ) -> SamplingParams:
        """Sampling parameters. Raises ApiError beyond the limits."""
        self._check(limits, num_prompts, vocab_size, max_tokens)
        asked: dict[str, Any] = self.model_dump(
            include={
                *("temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "logit_bias"),
                *("repetition_penalty", "frequency_penalty", "presence_penalty", "ignore_eos"),
                *("epsilon_cutoff", "eta_cutoff", "top_h", "no_repeat_ngram_size", "bad_words"),
                *("guidance_scale", "negative_prompt"),
            }
        )
        if guide is not None:
            asked["constraint"] = guide
        top = self.num_top
        with refusing(None):
            return SamplingParams(
                **asked,
                n=self.num_samples,
                max_tokens=max_tokens,
                min_tokens=self.min_tokens,
                stop=(*self.stop, *stops),
                stop_token_ids=tuple(sorted({*stop_token_ids, *self.stop_token_ids})),
                logprobs=top is not None or self.num_samples > self.n,
                top_logprobs=top or 0,
            )

    def _check(self, limits: Limits, num_prompts: int, vocab_size: int, max_tokens: int) -> None:
        if max_tokens > limits.max_tokens:
            raise too_many("max_tokens", max_tokens, limits.max_tokens)
        if num_prompts * self.num_samples > limits.max_choices:
            of = f"{num_prompts} prompts x n = " if num_prompts > 1 else ""
            raise too_many("n", f"{of}{self.num_samples}", limits.max_choices)
        if len(self.stop) > limits.max_stops:
            raise too_many("stop", f"{len(self.stop)} strings", limits.max_stops)
        if len(self.bad_words) > limits.max_stops:
            raise too_many("bad_words", f"{len(self.bad_words)} texts", limits.max_stops)
        for param, texts in (("stop", self.stop), ("bad_words", self.bad_words)):
            longest = max(map(len, texts), default=0)
            if longest > limits.max_stop_chars:
                raise too_many(param, f"{longest} characters", limits.max_stop_chars)
        if len(self.negative_prompt or "") > _NEGATIVE_PROMPT_CHARS:
            length = f"{len(self.negative_prompt or '')} characters"
            raise too_many("negative_prompt", length, _NEGATIVE_PROMPT_CHARS)
        if len(self.stop_token_ids) > limits.max_stops:
            raise too_many("stop_token_ids", f"{len(self.stop_token_ids)} ids", limits.max_stops)
        for param, ids in (
            ("logit_bias", self.logit_bias),
            ("stop_token_ids", self.stop_token_ids),
        ):
            strange = [number for number in ids if not 0 <= number < vocab_size]
            if strange:
                raise invalid(param, f"has token id {strange[0]}; give 0 to {vocab_size - 1}")
        if self.min_tokens > max_tokens:
            raise invalid("min_tokens", f"= {self.min_tokens} is above max_tokens = {max_tokens}")
        if 0 < self.temperature < _LEAST_TEMPERATURE:
            least = f"give 0 (always the likeliest) or at least {_LEAST_TEMPERATURE}"
            raise invalid("temperature", f"= {self.temperature}: {least}")
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options", "needs 'stream': true")


class CompletionBody(Generation):
    """POST /v1/completions."""

    prompt: Prompts
    echo: bool = False
    logprobs: NumTop = None
    best_of: int | None = Field(None, gt=0)
    max_tokens: int | None = Field(16, ge=0)

    @property
    def num_samples(self) -> int:
        """Answers drawn for each prompt, of which the n best are given."""
        return self.n if self.best_of is None else self.best_of

    @property
    def num_top(self) -> int | None:
        """How many top log-probabilities to return at each position; None for no log-probabilities."""
        return self.logprobs

    def _check(self, limits: Limits, num_prompts: int, vocab_size: int, max_tokens: int) -> None:
        super()._check(limits, num_prompts, vocab_size, max_tokens)
        if self.best_of is not None and self.best_of < self.n:
            raise invalid("best_of", f"= {self.best_of} is below n = {self.n}")
        if self.num_samples > self.n and self.stream:
            raise invalid(
                "best_of", "above n cannot be streamed, since the best are known only at the end"
            )


class EmbeddingBody(Body):
    """POST /v1/embeddings."""

    input: Prompts
    model: str | None = None
    encoding_format: str = Field("float", pattern="^(float|base64)$")
    dimensions: int | None = Field(
        None,
        gt=0,
        description="truncate embeddings to this many dimensions and normalize them again",
    )
    user: str | None = Field(None, description="accepted and ignored")


class TokenizeBody(Body):
    """POST /tokenize: a text or a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool = True


class DetokenizeBody(Body):
    """POST /detokenize."""

    model: str | None = None
    tokens: Ids


def json_guide(schema: Any, param: str, limits: Limits) -> JsonSchema:
    """A schema as an output constraint. Raises ApiError if it is too large or invalid."""
    check_size(schema, param, limits)
    with refusing(param):
        return JsonSchema(definition=schema)


def check_size(schema: Any, param: str, limits: Limits) -> None:
    """Raises ApiError if a schema, as JSON, is larger than the limit."""
    size = len(json.dumps(schema))
    if size > limits.max_schema_bytes:
        raise too_many(param, f"{size} bytes of JSON", limits.max_schema_bytes)


@contextmanager
def refusing(param: str | None) -> Iterator[None]:
    """Turn pydantic's ValidationError into an ApiError about a parameter."""
    try:
        yield
    except ValidationError as error:
        faults = error.errors(include_url=False)
        if param is not None:
            faults = [{**fault, "loc": (param,)} for fault in faults[:1]]
        raise refusal(faults) from None


def invalid(param: str, what: str) -> ApiError:
    """A 400 for an invalid value."""
    return ApiError(400, f"'{param}' {what}", param=param, code="invalid_parameter")


def too_many(param: str, given: int | str, most: int) -> ApiError:
    """A 400 for a value above a limit of this server."""
    message = f"'{param}' = {given} is above this server's limit of {most}"
    return ApiError(400, message, param=param, code="limit_exceeded")
