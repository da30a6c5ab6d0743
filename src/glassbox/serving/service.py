"""The endpoints: from request bodies to responses, for one model."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from glassbox.core.errors import UserError
from glassbox.inference.chat import ChatPrompts
from glassbox.inference.scoring import PromptScores, embed, score_prompts
from glassbox.serving.answers import Answer, Computed
from glassbox.serving.bodies import (
    CompletionBody,
    DetokenizeBody,
    EmbeddingBody,
    Generation,
    Guide,
    Limits,
    TokenizeBody,
    invalid,
    refusing,
    too_many,
)
from glassbox.serving.chat_body import ChatBody, FunctionSpec, plain_messages
from glassbox.serving.choices import ChatChoice, CompletionChoice, Echo
from glassbox.serving.errors import ApiError, Json
from glassbox.serving.metrics import Metrics
from glassbox.serving.tool_calls import (
    CLOSE,
    CallReader,
    Forced,
    ToolFormat,
    as_text,
    force,
    offer_in_words,
    tool_json,
)
from glassbox.serving.worker import Caller, Steps, Worker
from glassbox.tokenizers.bounded import Bounded, TooManyTokens

if TYPE_CHECKING:
    from glassbox.models.causal_lm import CausalLM
    from glassbox.tokenizers.tokenizer import Tokenizer

_log = logging.getLogger("glassbox.serving.prompts")
_READS_TOOLS = re.compile(r"\btools\b")
_NOBODY = Caller()
_COMPILERS = 4
_LONG = 32_768
"""Characters from which on a text is encoded apart from shorter ones."""
_MOST_TOLD = 131_072
T = TypeVar("T")


class Service:
    """Implements the API's endpoints.

    model: the engine's model; without it embeddings and prompt scores are not available.
    adapters: names of the engine's adapters that requests may use as model names.
    prompt_prefix: ids prepended to the prompt of a completion, as in training.
    tool_format: how calls are shown to the model; see `serving.tool_calls`.
    """

    def __init__(
        self,
        engine: Steps,
        tokenizer: Tokenizer,
        *,
        name: str,
        model: CausalLM | None = None,
        adapters: Sequence[str] = (),
        limits: Limits | None = None,
        prompt_prefix: Sequence[int] = (),
        tool_format: ToolFormat = "hermes",
        log_prompts: bool = False,
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.name = name
        self.adapters = tuple(adapters)
        self.model = model
        self.limits = limits or Limits()
        self.created = int(time.time())
        self.draining = False
        self.metrics = Metrics()
        self._prefix = list(prompt_prefix)
        self._bounded = Bounded(tokenizer)
        self._short_texts = ThreadPoolExecutor(2, thread_name_prefix="short-texts")
        self._long_texts = ThreadPoolExecutor(1, thread_name_prefix="long-texts")
        self._tool_format = tool_format
        self._log_prompts = log_prompts
        self._vocab_size = tokenizer.vocab_size if model is None else model.config.vocab_size
        template = tokenizer.chat_template
        self._turn_ends = ChatPrompts(tokenizer).stop_token_ids if template is not None else ()
        sources = [template] if isinstance(template, str) else list((template or {}).values())
        self._reads_tools = any(_READS_TOOLS.search(source) for source in sources)
        self._compilers = ThreadPoolExecutor(_COMPILERS, thread_name_prefix="compile")
        self.worker = Worker(
            engine,
            max_running=self.limits.max_running,
            max_queue=self.limits.max_queue,
            meter=self.metrics,
        )
        self.metrics.watch(self.worker)

    # ---- what the paths do ------------------------------------------------------------------

    def chosen(self, model: str | None) -> str | None:
        """The adapter with this name; None for the base model, also without a name.

        Raises ApiError 404 for any other name.
        """
        if model is None or model == self.name:
            return None
        if model in self.adapters:
            return model
        there = ", ".join(repr(name) for name in (self.name, *self.adapters))
        raise ApiError(
            404,
            f"no model {model[:100]!r}; this server has {there}",
            param="model",
            code="model_not_found",
        )

    def model_cards(self) -> list[dict[str, Any]]:
        """The entries of /v1/models: the model, then its adapters."""
        return [self.model_card(name) for name in (None, *self.adapters)]

    def model_card(self, adapter: str | None = None) -> dict[str, Any]:
        """An entry of /v1/models; an adapter's names its base as `parent`."""
        return {
            "id": adapter or self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "glassbox",
            "max_model_len": self.engine.context_length,
            **({} if adapter is None else {"parent": self.name}),
        }

    async def complete(self, body: CompletionBody, caller: Caller = _NOBODY) -> Answer:
        """Continue each prompt n times."""
        adapter = self.chosen(body.model)
        assert body.max_tokens is not None
        alone = body.max_tokens == 0
        if alone and not body.echo:
            raise invalid("max_tokens", "= 0 needs 'echo': true")
        guide = await self._guide(body)
        params = body.sampling(
            self.limits,
            num_prompts=len(body.prompt),
            vocab_size=self._vocab_size,
            max_tokens=body.max_tokens or 1,
            guide=guide,
        )
        asked: Sequence[str | list[int]] = body.prompt
        room = 0 if alone else 1
        prompts = [await self._prompt_ids(prompt, "prompt", room=room) for prompt in asked]
        echoes: list[Echo | None] = [None] * len(prompts)
        if body.echo:
            pairs = zip(asked, prompts, strict=True)
            echoes = [await self._echo(prompt, ids, alone) for prompt, ids in pairs]
        choices = [
            CompletionChoice(
                number * params.n + sample, self.tokenizer, num_top=body.logprobs, echo=echo
            )
            for number, echo in enumerate(echoes)
            for sample in range(params.n)
        ]
        work = None
        if body.echo and body.logprobs is not None:
            model = self._needed_model("echo")
            work = score_prompts(model, prompts, top=body.logprobs, adapter=adapter)

        def on_scores(scores: PromptScores) -> None:
            echo = echoes[scores.index]
            assert echo is not None
            echo.scores = scores

        self._take_in(body.prompt, prompts, caller)
        return Answer(
            self.worker,
            [] if alone else [(ids, params) for ids in prompts],
            choices,
            kind="completion",
            model=adapter or self.name,
            prompt_tokens=sum(map(len, prompts)),
            stream=body.stream,
            include_usage=body.stream_options is not None and body.stream_options.include_usage,
            work=work,
            results=on_scores,
            best=body.n if params.n > body.n and not alone else None,
            caller=caller,
            adapter=adapter,
        )

    async def chat(self, body: ChatBody, caller: Caller = _NOBODY) -> Answer:
        """Answer a conversation n times."""
        adapter = self.chosen(body.model)
        size = len(body.messages) + len(body.tools)
        await self._aside(lambda: body.check(self.limits), size=_LONG * size, param="tools")
        forced = self._forced(body)
        if forced is None:
            guide = await self._guide(body)
        else:
            guide = await self._compiled(forced.schema, body.guided_by)
        stops = [forced.stop] if forced is not None and forced.stop else []
        offered = body.offered
        if offered and forced is None and not body.parallel_tool_calls:
            stops.append(CLOSE)
        most = body.max_tokens or body.max_completion_tokens
        params = body.sampling(
            self.limits,
            num_prompts=1,
            vocab_size=self._vocab_size,
            max_tokens=most or min(self.limits.max_tokens, self.engine.context_length),
            stop_token_ids=self._turn_ends,
            stops=stops,
            guide=guide,
        )
        prompt = await self._chat_ids(body.messages, offered, body.chat_template_kwargs)
        if forced is not None:
            prompt = prompt + self.tokenizer.encode(forced.prefix)
        self._check_length(prompt, "messages")
        choices = [
            ChatChoice(
                index,
                self.tokenizer,
                num_top=body.num_top,
                reader=CallReader(offered) if offered else None,
                forced=forced,
                reason_of_calls="tool_calls" if body.forced in (True, False) else "stop",
                most_calls=None if body.parallel_tool_calls else 1,
            )
            for index in range(body.n)
        ]
        self._take_in(body.messages, [prompt], caller)
        return Answer(
            self.worker,
            [(prompt, params)],
            choices,
            kind="chat",
            model=adapter or self.name,
            prompt_tokens=len(prompt),
            stream=body.stream,
            include_usage=body.stream_options is not None and body.stream_options.include_usage,
            caller=caller,
            adapter=adapter,
        )

    async def embed(self, body: EmbeddingBody, caller: Caller = _NOBODY) -> Computed:
        """A vector for each text."""
        adapter = self.chosen(body.model)
        model = self._needed_model("input")
        size = model.config.hidden_size
        cut = size if body.dimensions is None else body.dimensions
        if cut > size:
            raise invalid("dimensions", f"= {cut}; this model's vectors have {size}")
        if len(body.input) > self.limits.max_inputs:
            raise too_many("input", f"{len(body.input)} texts", self.limits.max_inputs)
        prompts = [await self._prompt_ids(text, "input", room=0) for text in body.input]
        self._take_in(body.input, prompts, caller)
        num_tokens = sum(map(len, prompts))

        def finish(batches: list[Any]) -> dict[str, Any]:
            vectors: dict[int, np.ndarray[Any, Any]] = {}
            for indices, batch in batches:
                vectors |= zip(indices, batch.numpy(), strict=True)
            data = [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": _embedding(vectors[index], cut, body.encoding_format),
                }
                for index in range(len(prompts))
            ]
            usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
            name = adapter or self.name
            return {"object": "list", "data": data, "model": name, "usage": usage}

        work: Iterator[Any] = embed(model, prompts, adapter=adapter)
        return Computed(self.worker, work, finish, prompt_tokens=num_tokens, caller=caller)

    async def tokenize(self, body: TokenizeBody) -> dict[str, Any]:
        """Token ids of a prompt or a chat."""
        self.chosen(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "give either 'prompt' or 'messages'", param="prompt")
        if body.messages is not None:
            if len(body.messages) > self.limits.max_messages:
                raise too_many("messages", len(body.messages), self.limits.max_messages)
            ids = await self._chat_ids(body.messages, most=self._most_told)
        else:
            text = body.prompt or ""
            with self._too_long("prompt"):
                ids = await self._aside(
                    lambda: self._bounded.encode(text, self._most_told),
                    size=len(text),
                    param="prompt",
                )
            ids = [*self._prefix, *ids] if body.add_special_tokens else ids
        return {"tokens": ids, "count": len(ids), "max_model_len": self.engine.context_length}

    async def detokenize(self, body: DetokenizeBody) -> dict[str, Any]:
        """The text of ids, special tokens included."""
        self.chosen(body.model)
        ids = body.tokens
        text = await self._aside(lambda: self._text(ids, "tokens"), size=len(ids), param="tokens")
        return {"prompt": text}

    def health(self) -> Json:
        """Health, and the number of running and queued requests."""
        alive = self.worker.alive
        status = ("draining" if self.draining else "ok") if alive else "down"
        counts = {"running": self.worker.num_running, "waiting": self.worker.num_waiting}
        return Json({"status": status, **counts}, 200 if status == "ok" else 503)

    def close(self) -> None:
        """Stop the engine thread, and log what the engine still holds."""
        self.worker.close()
        for threads in (self._compilers, self._short_texts, self._long_texts):
            threads.shutdown(wait=False, cancel_futures=True)
        figures = dataclasses.asdict(self.engine.stats())
        logging.getLogger("glassbox.serving").info("stopped", extra={"fields": figures})

    @property
    def idle(self) -> bool:
        """Whether no request is running or queued."""
        return self.worker.num_running + self.worker.num_waiting == 0

    # ---- how ------------------------------------------------------------------------------

    def _needed_model(self, param: str) -> CausalLM:
        if self.model is None:
            raise invalid(param, "needs the model, which this server does not have")
        return self.model

    def _take_in(self, asked: Any, prompts: Sequence[Sequence[int]], caller: Caller) -> None:
        self.metrics.prompt(sum(map(len, prompts)))
        if self._log_prompts:
            _log.info(
                "prompt", extra={"request_id": caller.request_id, "fields": {"prompt": asked}}
            )

    def _text(self, ids: Sequence[int], param: str) -> str:
        try:
            return self.tokenizer.decode(ids)
        except UserError as error:
            raise ApiError(400, str(error), param=param, code="invalid_token") from None

    async def _echo(self, prompt: str | list[int], ids: list[int], alone: bool) -> Echo:
        if not isinstance(prompt, str):
            return Echo(self._text(prompt, "prompt"), ids, hidden=0, alone=alone)
        return Echo(prompt, ids, hidden=len(self._prefix), alone=alone)

    def _forced(self, body: ChatBody) -> Forced | None:
        if not body.forced:
            return None
        named = body.forced if isinstance(body.forced, FunctionSpec) else None
        with refusing("tools"):
            return force(body.offered, named, self._tool_format)

    async def _guide(self, body: Generation) -> Guide | None:
        """The output constraint, checked and compiled."""
        if body.guided_by == "body":
            return None
        # in threads of their own: slow schemas hold up other schemas at most
        checking = self._compilers.submit(body.guide, self.limits)
        return await self._compiled(await asyncio.wrap_future(checking), body.guided_by)

    async def _compiled(self, guide: Guide | None, param: str) -> Guide | None:
        """The same constraint, after compiling it."""
        if guide is not None:
            compiling = self._compilers.submit(self.engine.compile, guide)
            with _refusing(param):
                await asyncio.wrap_future(compiling)
        return guide

    async def _prompt_ids(self, prompt: str | list[int], param: str, *, room: int) -> list[int]:
        """Token ids of a prompt; `room` more tokens must fit the context."""
        if isinstance(prompt, str):
            most = self.engine.context_length - room - len(self._prefix)
            with self._too_long(param, room):
                ids = await self._aside(
                    lambda: self._bounded.encode(prompt, most), size=len(prompt), param=param
                )
            return [*self._prefix, *ids]
        if not prompt:
            raise invalid(param, "is empty; give at least one token")
        self._check_length(prompt, param, room=room)
        if min(prompt) < 0 or max(prompt) >= self._vocab_size:
            raise invalid(
                param,
                f"has token ids from {min(prompt)} to {max(prompt)}; this model knows 0 to "
                f"{self._vocab_size - 1}",
            )
        return prompt

    async def _chat_ids(
        self,
        messages: list[dict[str, Any]],
        offered: Sequence[FunctionSpec] = (),
        variables: dict[str, Any] | None = None,
        *,
        most: int | None = None,
    ) -> list[int]:
        limit = self.engine.context_length - 1 if most is None else most

        def encode() -> list[int]:
            chat = plain_messages(messages)
            tools = None
            if self._tool_format == "tags":
                chat = [as_text(message, "tags") for message in chat]
            elif self._reads_tools:
                tools = [tool_json(spec) for spec in offered] or None
            else:
                chat = offer_in_words(chat, offered)
            return self.tokenizer.encode_chat_prompt(
                chat,
                tools=tools,
                check=lambda text: self._bounded.check(text, limit),
                **(variables or {}),
            )

        with self._too_long("messages"):
            return await self._aside(encode, size=_size(messages), param="messages")

    async def _aside(self, compute: Callable[[], T], *, size: int, param: str) -> T:
        """Run in a thread, off the event loop; long inputs have a thread of their own."""
        threads = self._short_texts if size <= _LONG else self._long_texts
        with _refusing(param):
            return await asyncio.wrap_future(threads.submit(compute))

    @contextmanager
    def _too_long(self, param: str, room: int = 1) -> Iterator[None]:
        """Turn TooManyTokens into a 400."""
        try:
            yield
        except TooManyTokens as error:
            raise self._context_exceeded(f"at least {error.least}", param, room) from None

    def _check_length(self, prompt: Sequence[int], param: str, *, room: int = 1) -> None:
        if len(prompt) + room > self.engine.context_length:
            raise self._context_exceeded(str(len(prompt)), param, room)

    def _context_exceeded(self, count: str, param: str, room: int) -> ApiError:
        context = self.engine.context_length
        needs = " and the answer needs at least one of them" if room else ""
        return ApiError(
            400,
            f"the prompt has {count} tokens; the model's context is {context}{needs}: shorten it",
            param=param,
            code="context_length_exceeded",
        )

    @property
    def _most_told(self) -> int:
        """The most tokens that /tokenize returns."""
        return max(_MOST_TOLD, 4 * self.engine.context_length)


def _size(messages: Sequence[dict[str, Any]]) -> int:
    """Characters of a chat, approximately; stops counting once it is long."""
    size = 0
    for message in messages:
        size += sum(len(part) if isinstance(part, str) else _LONG // 8 for part in message.values())
        if size > _LONG:
            break
    return size


def _embedding(vector: np.ndarray[Any, Any], size: int, form: str) -> list[float] | str:
    """A vector's first numbers, at length 1, as JSON's numbers or as little-endian float32."""
    part = vector[:size].astype("<f4")
    if size < len(vector):
        part = (part / max(float(np.linalg.norm(part)), 1e-12)).astype("<f4")
    if form == "base64":
        return base64.b64encode(part.tobytes()).decode()
    return [float(number) for number in part]


@contextmanager
def _refusing(param: str) -> Iterator[None]:
    """Turn UserError into a 400 that names `param`."""
    try:
        yield
    except TooManyTokens:
        raise
    except UserError as error:
        raise ApiError(400, str(error), param=param, code="invalid_parameter") from None
