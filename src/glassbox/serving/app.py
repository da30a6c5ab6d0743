"""The HTTP API: OpenAI's paths and shapes, answered by one engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from fastapi import FastAPI, Response

from glassbox.core.errors import UserError
from glassbox.inference.chat import end_of_turn_ids
from glassbox.inference.engine import TokenEvent
from glassbox.inference.sampling import SamplingParams
from glassbox.serving.answers import Answer, ChatShape, CompletionShape, Shape
from glassbox.serving.bodies import (
    Body,
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    Generation,
    Limits,
    TokenizeBody,
)
from glassbox.serving.errors import ApiError, Json, add_handlers
from glassbox.serving.gate import Gate
from glassbox.serving.worker import Worker
from glassbox.tokenizers.tokenizer import Tokenizer

_BODIES: dict[str, type[Body]] = {
    "/v1/completions": CompletionBody,
    "/v1/chat/completions": ChatBody,
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
}


class Streams(Protocol):
    """What the server needs of an engine."""

    @property
    def context_length(self) -> int:
        """The most tokens of prompt and answer together."""

    def stream(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[TokenEvent]:
        """An answer's tokens; the model runs in `next`, never in this call."""


class Service:
    """One model behind the API: requests in, answers and errors out.

    encode_prompt: ids of a text to be continued, as the model saw texts in training.
    """

    def __init__(
        self,
        engine: Streams,
        tokenizer: Tokenizer,
        *,
        name: str,
        limits: Limits | None = None,
        encode_prompt: Callable[[str], list[int]] | None = None,
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.name = name
        self.limits = limits or Limits()
        self.created = int(time.time())
        self._encode_prompt = encode_prompt or tokenizer.encode
        chats = tokenizer.chat_template is not None
        self._turn_ends = tuple(end_of_turn_ids(tokenizer)) if chats else ()
        self.worker = Worker(max_running=self.limits.max_running, max_queue=self.limits.max_queue)

    def check_model(self, model: str | None) -> None:
        """Raises ApiError 404 for another model's name; without one, the model served is meant."""
        if model is not None and model != self.name:
            raise ApiError(
                404,
                f"there is no model {model[:100]!r} here; this server has {self.name!r}",
                param="model",
                code="model_not_found",
            )

    def model_card(self) -> dict[str, Any]:
        """An entry of /v1/models."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "glassbox",
            "max_model_len": self.engine.context_length,
        }

    async def complete(self, body: CompletionBody) -> Answer:
        """Continue each prompt n times."""
        self.check_model(body.model)
        prompts = [await self._prompt_ids(prompt) for prompt in body.prompt]
        echoes = [""] * len(prompts)
        if body.echo:
            echoes = [p if isinstance(p, str) else self._text(p, "prompt") for p in body.prompt]
        shape = CompletionShape([echo for echo in echoes for _ in range(body.n)])
        assert body.max_tokens is not None
        return self._answer(body, shape, prompts, body.max_tokens, ())

    async def chat(self, body: ChatBody) -> Answer:
        """Answer a conversation n times."""
        self.check_model(body.model)
        given = {body.max_tokens, body.max_completion_tokens} - {None}
        if len(given) > 1:
            raise ApiError(
                400,
                f"'max_tokens' = {body.max_tokens} but 'max_completion_tokens' = "
                f"{body.max_completion_tokens}; give one of them",
                param="max_tokens",
                code="invalid_parameter",
            )
        most = next(iter(given), None) or min(self.limits.max_tokens, self.engine.context_length)
        prompt = await self._chat_ids(body.messages)
        return self._answer(body, ChatShape(), [prompt], most, self._turn_ends)

    async def tokenize(self, body: TokenizeBody) -> dict[str, Any]:
        """The ids that a completion's or a chat's prompt comes to."""
        self.check_model(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "give either 'prompt' or 'messages'", param="prompt")
        if body.messages is not None:
            ids = await self._chat_ids(body.messages)
        else:
            assert body.prompt is not None
            encode = self._encode_prompt if body.add_special_tokens else self.tokenizer.encode
            ids = await _in_thread(encode, body.prompt, param="prompt")
        return {"tokens": ids, "count": len(ids), "max_model_len": self.engine.context_length}

    def detokenize(self, body: DetokenizeBody) -> dict[str, Any]:
        """The text of ids, special tokens included."""
        self.check_model(body.model)
        return {"prompt": self._text(body.tokens, "tokens")}

    def health(self) -> Response:
        """Whether requests are answered, and how many are."""
        status = "ok" if self.worker.alive else "down"
        counts = {"running": self.worker.num_running, "waiting": self.worker.num_waiting}
        return Json({"status": status, **counts}, 200 if self.worker.alive else 503)

    def _text(self, ids: Sequence[int], param: str) -> str:
        try:
            return self.tokenizer.decode(ids)
        except UserError as error:
            raise ApiError(400, str(error), param=param, code="invalid_token") from None

    async def _prompt_ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return await _in_thread(self._encode_prompt, prompt, param="prompt")
        return prompt

    async def _chat_ids(self, messages: list[dict[str, Any]]) -> list[int]:
        return await _in_thread(self.tokenizer.encode_chat_prompt, messages, param="messages")

    def _answer(
        self,
        body: Generation,
        shape: Shape,
        prompts: Sequence[list[int]],
        max_tokens: int,
        turn_ends: tuple[int, ...],
    ) -> Answer:
        param = "messages" if isinstance(body, ChatBody) else "prompt"
        settings = body.sampling(
            self.limits,
            num_prompts=len(prompts),
            max_tokens=max_tokens,
            stop_token_ids=turn_ends,
        )
        context = self.engine.context_length
        for prompt in prompts:
            if len(prompt) >= context:
                raise ApiError(
                    400,
                    f"the prompt has {len(prompt)} tokens; the model's context is {context} and the "
                    "answer needs at least one of them: shorten it",
                    param=param,
                    code="context_length_exceeded",
                )
        try:
            streams = [self.engine.stream(p, params) for p in prompts for params in settings]
        except UserError as error:
            raise ApiError(400, str(error), param=param, code="invalid_parameter") from None
        options = body.stream_options
        return Answer(
            self.worker,
            streams,
            shape,
            model=self.name,
            prompt_tokens=sum(map(len, prompts)),
            stream=body.stream,
            include_usage=options is not None and options.include_usage,
        )


async def _in_thread(encode: Callable[[Any], list[int]], what: Any, *, param: str) -> list[int]:
    """Tokenize aside, so that a long text holds up nobody's stream."""
    try:
        return await asyncio.to_thread(encode, what)
    except UserError as error:
        raise ApiError(400, str(error), param=param, code="invalid_parameter") from None


def build_app(service: Service, *, keys: Sequence[str] = ()) -> FastAPI:
    """The application; its lifespan is the engine thread's. Other origins get no leave to read it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.worker.close)

    # the pages that FastAPI would add fetch scripts from elsewhere
    app = FastAPI(title="Glassbox", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Gate, keys=keys, max_body_bytes=service.limits.max_body_bytes)
    add_handlers(app, _BODIES)

    @app.get("/health")
    async def health() -> Response:
        return service.health()

    @app.get("/v1/models")
    async def models() -> Response:
        return Json({"object": "list", "data": [service.model_card()]})

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> Response:
        service.check_model(model)
        return Json(service.model_card())

    @app.post("/v1/completions")
    async def completions(body: CompletionBody) -> Response:
        return await service.complete(body)

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatBody) -> Response:
        return await service.chat(body)

    @app.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> Response:
        return Json(await service.tokenize(body))

    @app.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> Response:
        return Json(service.detokenize(body))

    return app
